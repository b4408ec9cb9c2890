"""A closed cluster: certificates, a gossip key, tokens; what nodes say to each other, and who else
may say it."""
import json
import socket

import pytest

from conftest import AGENT, Node, wait_for
from test_auth import bearer, new_token
from test_tls import Authority, ask, run, tls_ready

NAMES = ("alpha", "beta", "gamma")
RUN = "01JDCB0000000000000000000A"


class Closed:
    def __init__(self, path):
        self.authority = Authority(path)
        key = path / "gossip.key"
        key.write_bytes(run("keygen").stdout)
        key.chmod(0o600)  # root's alone
        self.admin, line = new_token("root", "admin")
        tokens = path / "tokens"
        tokens.write_text(line + "\n")
        for d in [path, *path.parents][:4]:
            d.chmod(0o755)
        self.nodes = {}
        for name in NAMES:
            node = Node(gossip__profile="local", gossip__key_file=key, auth__tokens_file=tokens,
                        node__slots=2, **self.authority.settings(name))
            if self.nodes:
                node.settings["gossip.join"] = self.nodes["alpha"].settings["gossip.listen"]
            node.start(wait=False)
            self.nodes[name] = tls_ready(node, self.authority.context())

    def ask(self, name, path, method="GET", token=None, body=None, cert=None, headers=None):
        headers = {**(headers or {}), **(bearer(token) if token else {})}
        if body is not None:
            headers["Content-Type"] = "application/json"
        status, text, _ = ask(self.nodes[name], self.authority.context(cert), path, method,
                              headers, body)
        return status, text

    def cli(self, name, *args, **more):
        return self.nodes[name].cli(*args, env={
            "AGENT_CA": str(self.authority.dir / "ca.pem"), "AGENT_TOKEN": self.admin}, **more)

    def close(self):
        for node in self.nodes.values():
            node.close()


@pytest.fixture(scope="module")
def closed(nothing_left, tmp_path_factory, image_tar):
    c = Closed(tmp_path_factory.mktemp("closed"))

    def whole():
        """every node knows every other one"""
        for name in NAMES:
            nodes = json.loads(c.ask(name, "/v1/nodes", token=c.admin)[1])
            if sorted(n["name"] for n in nodes["nodes"] if n["state"] == "alive") != list(NAMES):
                return False
        return True
    try:
        wait_for(whole, 30, 0.2)
        c.cli("alpha", "push", image_tar)
        yield c
    finally:
        c.close()


def test_a_run_goes_to_another_node(closed):
    """Accepted by one, run by another (which fetches the image), read from a third: all TLS."""
    document = {"image": "lab/busybox:1", "command": ["/bin/busybox", "echo", "over there"],
                "require": ["node.name=gamma"]}

    def accepted():
        """the requirement can be met"""
        status, text = closed.ask("alpha", "/v1/runs", "POST", closed.admin,
                                  json.dumps(document).encode(), headers={"Prefer": "wait=20"})
        return json.loads(text) if status == 200 else None
    done = wait_for(accepted, 60, 0.5)
    assert (done["state"], done["node"]) == ("succeeded", "gamma"), done
    status, text = closed.ask("beta", f"/v1/runs/{done['id']}/output", token=closed.admin)
    assert status == 200 and b"over there" in text


def test_tokens_are_the_clusters(closed):
    token = closed.cli("alpha", "token", "create", "--name", "ci", "--scope", "read") \
        .stdout.decode().strip()
    for name in NAMES:
        wait_for(lambda: closed.ask(name, "/v1/jobs", token=token)[0] == 200)
        assert closed.ask(name, "/v1/tokens", token=token)[0] == 403
    assert b"ci" in closed.cli("gamma", "token", "ls", "-q").stdout.split()
    closed.cli("gamma", "token", "revoke", "ci")
    for name in NAMES:
        wait_for(lambda: closed.ask(name, "/v1/jobs", token=token)[0] == 401)
        assert "the token 'ci' of the cluster is revoked" in closed.nodes[name].log()


def test_a_token_reaches_a_node_that_was_away(closed):
    node = closed.nodes["beta"]
    node.stop()
    token = closed.cli("alpha", "token", "create", "--name", "late", "--scope", "read") \
        .stdout.decode().strip()
    node.start(wait=False)
    tls_ready(node, closed.authority.context())
    wait_for(lambda: closed.ask("beta", "/v1/jobs", token=token)[0] == 200)


@pytest.mark.parametrize("method, path", [
    ("GET", f"/v1/peer/payload/{RUN}"), ("POST", "/v1/peer/offer"), ("POST", "/v1/peer/end"),
    ("PUT", f"/v1/peer/output/{RUN}?attempt=1&file=stdout"), ("GET", "/v1/peer/nothing")])
def test_who_is_no_node_is_not_a_peer(closed, method, path):
    body = b"{}" if method != "GET" else None
    lie = {"Agent-Node": "beta"}
    for token in None, closed.admin:
        status, text = closed.ask("alpha", path, method, token, body, headers=lie)
        assert status == 403 and json.loads(text)["code"] == "forbidden_peer"
    # With a node's certificate it is looked at.
    assert closed.ask("alpha", path, method, None, body, cert="beta")[0] != 403


def test_a_foreign_certificate_is_no_node(closed, tmp_path):
    other = Authority(tmp_path)
    other.issue("beta")
    context = closed.authority.context()
    context.load_cert_chain(tmp_path / "beta.pem", tmp_path / "beta.key")
    with pytest.raises(OSError):
        ask(closed.nodes["alpha"], context, "/v1/peer/offer", "POST", body=b"{}")


def test_a_nodes_certificate_is_no_token(closed):
    """It opens nothing of a client's: what nodes want for a client comes with that client's
    token."""
    for method, path in ("POST", "/v1/images/prune"), ("PUT", "/v1/jobs/x"), ("GET", "/v1/tokens"):
        body = b"{}" if method != "GET" else None
        assert closed.ask("alpha", path, method, None, body, cert="beta")[0] == 401


def test_a_revoked_node_is_out(closed):
    """Its certificate opens nothing any more, on connections that are open as well."""
    closed.authority.issue("lost")
    with socket.create_connection(("127.0.0.1", closed.nodes["alpha"].port), timeout=20) as raw:
        with closed.authority.context("lost").wrap_socket(raw, server_hostname="127.0.0.1") as s:
            def peer():
                s.sendall(f"GET /v1/peer/payload/{RUN} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                answer = s.recv(65536)
                assert answer.startswith(b"HTTP/1.1 "), answer
                return int(answer.split()[1])
            assert peer() == 404
            closed.authority.ca("revoke", "lost")
            wait_for(lambda: peer() == 403, every=0.2)

    def refused():
        """a new connection with it is refused"""
        try:
            closed.ask("beta", "/healthz", cert="lost")
            return False
        except OSError:
            return True
    wait_for(refused)
    assert closed.ask("beta", "/healthz", cert="alpha")[0] == 200


def test_beyond_loopback_needs_it_all(make_node):
    for settings, word in [
            ({"http__listen": "0.0.0.0:0"}, "auth.insecure"),
            ({"gossip__listen": "0.0.0.0:0"}, "gossip.key_file"),
            ({"http__listen": "0.0.0.0:0", "http__tls_cert": "/c", "http__tls_key": "/k"},
             "tokens_file")]:
        node = make_node(start=False, **settings)
        node.start(wait=False)
        assert node.process.wait(10) == 2
        assert word in node.log()


def test_insecure_is_said_every_time(make_node):
    node = make_node(auth__insecure="yes")
    assert any("insecure" in w for w in node.http("GET", "/v1/status").json()["warnings"])
    assert b"insecure" in node.cli("status").stdout
