"""TLS, the small authority behind it, and who is let in: the real binary, openssl, curl, skopeo."""
import json
import shutil
import socket
import ssl
import subprocess
import time

import pytest

from conftest import AGENT, IMAGE, Node, wait_for


def run(*args, check=True, **more):
    p = subprocess.run([AGENT, *map(str, args)], capture_output=True, timeout=60, **more)
    assert not check or p.returncode == 0, p.stderr
    return p


class Authority:
    def __init__(self, path):
        self.path = path
        self.dir = path / "ca"
        self.ca("init")

    def ca(self, *args, check=True):
        return run("ca", *args, "--dir", self.dir, check=check)

    def issue(self, name, *sans):
        self.ca("issue", name, *sans, "--out", self.path)
        return self.path / f"{name}.pem", self.path / f"{name}.key"

    def settings(self, name, *sans):
        """What a node of that name is started with."""
        cert, key = self.issue(name, *sans)
        return {"node__name": name, "http__tls_cert": cert, "http__tls_key": key,
                "http__tls_client_ca": self.dir / "ca.pem", "http__tls_crl": self.dir / "crl.pem"}

    def show(self):
        return json.loads(self.ca("show", "-o", "json").stdout)["certificates"]

    def context(self, name=None):
        c = ssl.create_default_context(cafile=self.dir / "ca.pem")
        if name:
            c.load_cert_chain(self.path / f"{name}.pem", self.path / f"{name}.key")
        return c


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


def tls_ready(node, context):
    def ready():
        """the node answers over TLS"""
        assert node.process.poll() is None, node.log()
        try:
            return ask(node, context, "/readyz")[0] == 200
        except OSError:
            return False
    wait_for(ready)
    return node


@pytest.fixture(scope="module")
def tls_node(authority, nothing_left):
    node = Node(**authority.settings("node-a"))
    node.start(wait=False)
    yield tls_ready(node, authority.context())
    node.close()


def ask(node, context, path, method="GET", headers=None, body=None):
    """(status, body, connection's certificate)"""
    with socket.create_connection(("127.0.0.1", node.port), timeout=20) as raw:
        with context.wrap_socket(raw, server_hostname="127.0.0.1") as s:
            lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{node.port}",
                     "Connection: close"]
            lines += [f"{k}: {v}" for k, v in (headers or {}).items()]
            if body is not None:
                lines.append(f"Content-Length: {len(body)}")
            s.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b""))
            answer = b""
            while True:
                piece = s.recv(65536)
                if not piece:
                    break
                answer += piece
    head, _, rest = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), rest, head


# -- the authority

def test_files_and_modes(authority):
    cert, key = authority.issue("modes", "10.9.8.7", "fe80::1")
    assert key.stat().st_mode & 0o777 == 0o600
    assert (authority.dir / "ca.key").stat().st_mode & 0o777 == 0o600
    text = subprocess.check_output(["openssl", "x509", "-in", cert, "-noout", "-text"]).decode()
    for part in "DNS:modes, DNS:localhost", "10.9.8.7", "TLS Web Server", "TLS Web Client", \
            "prime256v1":
        assert part in text or part.replace(", DNS:localhost", "") in text
    assert subprocess.run(["openssl", "verify", "-CAfile", authority.dir / "ca.pem", cert],
                          capture_output=True).returncode == 0
    again = authority.ca("init", check=False)
    assert again.returncode == 1 and b"already" in again.stderr


def test_wrong_words(authority):
    for args in ["issue"], ["issue", "a b"], ["issue", "a", "b,c"], ["revoke"], ["frobnicate"], \
            ["show", "x"], ["rotate", "--finish"], ["issue", "a", "--days", "0"]:
        assert authority.ca(*args, check=False).returncode == 2, args
    assert authority.ca("revoke", "nobody", check=False).returncode == 1
    assert run("ca", "show", "--dir", "/nonexistent", check=False).returncode == 1


def test_keygen():
    import base64
    keys = {run("keygen").stdout for _ in range(3)}
    assert len(keys) == 3
    for key in keys:
        assert len(base64.b64decode(key, validate=False)) == 32 and key.endswith(b"=\n")


# -- the node

def test_versions_and_alpn(tls_node, authority):
    out = subprocess.run(
        ["openssl", "s_client", "-connect", tls_node.addr, "-CAfile", authority.dir / "ca.pem",
         "-alpn", "h2,http/1.1", "-servername", "node-a", "-verify_hostname", "node-a",
         "-verify_return_error"], input=b"", capture_output=True, timeout=20).stdout.decode()
    assert "TLSv1.3" in out and "ALPN protocol: http/1.1" in out
    assert "Verify return code: 0 (ok)" in out
    old = subprocess.run(["openssl", "s_client", "-connect", tls_node.addr, "-tls1_2"],
                         input=b"", capture_output=True, timeout=20)
    assert b"Cipher is (NONE)" in old.stdout or old.returncode != 0


def test_curl(tls_node, authority):
    url = f"https://127.0.0.1:{tls_node.port}/healthz"
    good = subprocess.run(["curl", "-sS", "--cacert", authority.dir / "ca.pem", url],
                          capture_output=True, timeout=20)
    assert good.returncode == 0, good.stderr
    assert subprocess.run(["curl", "-sS", url], capture_output=True).returncode == 60


def test_plain_http_is_told(tls_node):
    answer = tls_node.http("GET", "/healthz")
    assert answer.status == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "https://" in answer.json()["detail"]


def test_client(tls_node, authority):
    ca = authority.dir / "ca.pem"
    for env in {"AGENT_CA": str(ca)}, {"AGENT_CA": str(ca),
                                       "AGENT_ADDR": f"https://{tls_node.addr}"}:
        assert b"node-a" in tls_node.cli("status", env=env).stdout
    assert b"node-a" in tls_node.cli("nodes", "--tls-ca", ca).stdout
    plain = tls_node.cli("status", check=False)
    assert plain.returncode == 1 and b"https://" in plain.stderr
    other = tls_node.cli("status", check=False, env={"AGENT_CA": str(ca),
                                                     "AGENT_ADDR": f"127.0.0.2:{tls_node.port}"})
    assert other.returncode == 1
    untrusted = tls_node.cli("status", check=False,
                             env={"AGENT_ADDR": f"https://{tls_node.addr}", "AGENT_CA": ""})
    assert untrusted.returncode == 1 and b"certificate is refused" in untrusted.stderr
    junk = tls_node.cli("status", "--tls-ca", AGENT, check=False)
    assert junk.returncode == 2


def test_client_against_a_plain_node(shared_node, authority):
    p = shared_node.cli("status", "--tls-ca", authority.dir / "ca.pem", check=False)
    assert p.returncode == 1 and b"does it speak TLS?" in p.stderr


def test_run_and_big_payload(tls_node, authority, image_tar):
    env = {"AGENT_CA": str(authority.dir / "ca.pem")}
    tls_node.cli("push", image_tar, IMAGE, env=env)
    payload = bytes(range(256)) * 40000
    out = tls_node.cli("submit", IMAGE, "--wait", "--", "/bin/cat", stdin=payload, env=env)
    assert out.stdout == payload
    run_id = tls_node.cli("runs", "-q", "-n", "1", env=env).stdout.decode().strip()
    assert tls_node.cli("output", run_id, env=env).stdout == payload


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="no skopeo")
def test_skopeo(tls_node, authority, image_tar, tmp_path):
    certs = tmp_path / "certs"
    certs.mkdir()
    shutil.copy(authority.dir / "ca.pem", certs / "ca.crt")
    where = f"docker://{tls_node.addr}/lab/over-tls:1"
    subprocess.run(["skopeo", "copy", "--quiet", "--dest-cert-dir", certs,
                    f"docker-archive:{image_tar}", where], check=True, timeout=60)
    out = subprocess.run(["skopeo", "inspect", "--cert-dir", certs, where], check=True,
                         capture_output=True, timeout=60)
    assert json.loads(out.stdout)["Name"].endswith("lab/over-tls")


def test_expiry_is_shown(tls_node, authority, tmp_path):
    text = ask(tls_node, authority.context(), "/metrics")[1].decode()
    line = next(x for x in text.splitlines() if x.startswith("agent_tls_certificate_not_after"))
    assert 300 * 86400 < float(line.split()[1]) - time.time() < 400 * 86400
    assert 'agent_tls_handshakes_total{side="server",result="full"}' in text
    settings = {k: v for k, v in tls_node.settings.items()
                if k.startswith(("http.tls", "node.name"))}

    def row(**changed):
        args = [f"--{k}={v}" for k, v in {**settings, **changed}.items()]
        checks = json.loads(run("doctor", "-o", "json", *args, check=False).stdout)["checks"]
        return next((c["verdict"], c["found"]) for c in checks if c["name"] == "certificate")
    assert row()[0] == "ok" and "days left" in row()[1]
    soon = Authority(tmp_path)
    soon.ca("issue", "node-a", "--days", "3", "--out", tmp_path)
    new = {"http.tls_cert": tmp_path / "node-a.pem", "http.tls_key": tmp_path / "node-a.key"}
    assert row(**new) == ("warn", "'node-a' ends in 3 days") or "2 days" in row(**new)[1]
    assert row(**{**new, "node.name": "other"})[0] == "fail"
    assert row(**{"http.tls_key": tmp_path / "node-a.key"})[0] == "fail"
    assert row(**{"http.tls_cert": "/nonexistent"})[0] == "fail"
    assert [c["state"] for c in soon.show()] == ["valid", "expires soon"]


# -- certificates of clients

def test_foreign_client_certificate(tls_node, authority, tmp_path):
    other = Authority(tmp_path)
    other.issue("node-a")
    context = authority.context()
    context.load_cert_chain(tmp_path / "node-a.pem", tmp_path / "node-a.key")
    with pytest.raises(OSError):
        ask(tls_node, context, "/healthz")
    wait_for(lambda: "audit: refused TLS from 127.0.0.1:" in tls_node.log())


# -- new files while it runs

def served_serial(node, context):
    with socket.create_connection(("127.0.0.1", node.port), timeout=20) as raw:
        with context.wrap_socket(raw, server_hostname="127.0.0.1") as s:
            return s.getpeercert()["serialNumber"]


def test_renewal_and_rotation_without_restart(make_node, tmp_path):
    authority = Authority(tmp_path)
    node = make_node(start=False, **authority.settings("node-r"))
    node.start(wait=False)
    tls_ready(node, authority.context())
    pid = node.agent_pid()
    first = served_serial(node, authority.context())
    authority.issue("node-r")  # the same files, new content: seen by itself
    wait_for(lambda: served_serial(node, authority.context()) != first)
    second = served_serial(node, authority.context())
    # A rotation: at every step somebody who trusts ca.pem gets through.
    authority.ca("rotate")
    assert [c["kind"] for c in authority.show()][:2] == ["authority", "old authority"]
    assert served_serial(node, authority.context()) == second
    authority.issue("node-r")
    node.reload()  # SIGHUP: at once
    wait_for(lambda: served_serial(node, authority.context()) != second)
    authority.ca("rotate", "--finish")
    third = served_serial(node, authority.context())
    assert third not in (first, second)
    # Half a renewal is not taken: the key does not fit.
    key = tmp_path / "node-r.key"
    good = key.read_bytes()
    authority.issue("other")
    key.write_bytes((tmp_path / "other.key").read_bytes())
    wait_for(lambda: "not the certificate's" in node.log())
    assert served_serial(node, authority.context()) == third
    key.write_bytes(good)
    assert node.agent_pid() == pid


def test_revoked_client(make_node, tmp_path):
    authority = Authority(tmp_path)
    node = make_node(start=False, **authority.settings("node-s"))
    node.start(wait=False)
    authority.issue("node-t")
    tls_ready(node, authority.context("node-t"))
    authority.ca("revoke", "node-t")

    def refused():
        """the revoked certificate is refused"""
        try:
            ask(node, authority.context("node-t"), "/healthz")
            return False
        except OSError:
            return True
    wait_for(refused)
    assert ask(node, authority.context(), "/healthz")[0] == 200
    assert "certificate revoked" in node.log()


@pytest.mark.parametrize("change, word", [
    ({"http__tls_key": "/nonexistent"}, "http.tls_key"),
    ({"http__tls_cert": "/dev/null"}, "http.tls_cert"),
    ({"node__name": "node-x"}, "node's name is 'node-x'"),
    ({"http__tls_client_ca": "/etc/passwd"}, "CA"),
])
def test_mistakes_are_told_at_the_start(make_node, authority, change, word):
    settings = {**authority.settings("node-m"), **change}
    node = make_node(start=False, **settings)
    node.start(wait=False)
    assert node.process.wait(10) in (1, 2)
    assert word in node.log()


def test_hellos_that_lead_nowhere(tls_node, authority):
    """Slow and broken handshakes cost little and end."""
    socks = []
    for i in range(50):
        s = socket.create_connection(("127.0.0.1", tls_node.port))
        s.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[:1 + i % 11])
        socks.append(s)
    assert ask(tls_node, authority.context(), "/healthz")[0] == 200
    for s in socks:
        s.close()
    noise = socket.create_connection(("127.0.0.1", tls_node.port))
    noise.sendall(b"\x16" + b"\xff" * 20000)
    noise.settimeout(10)
    while True:
        try:
            if not noise.recv(65536):
                break
        except OSError:
            break
    start = time.monotonic()
    assert ask(tls_node, authority.context(), "/healthz")[0] == 200
    assert time.monotonic() - start < 5
