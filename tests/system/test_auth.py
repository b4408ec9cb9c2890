"""Tokens: who may do what, with a real node, its client, and a client of the registry."""
import base64
import json
import re
import shutil
import socket
import subprocess
import threading
import time

import pytest

from conftest import AGENT, wait_for

SCOPES = ("read", "submit", "apply", "push", "admin")
JOB = {"image": "lab/busybox:1", "command": ["sh", "-c", "echo out; sleep 600"]}
RUN = "01JDCB0000000000000000000A"  # of nobody


def new_token(name, scope, *more):
    """(text, line) of a new token."""
    args = [AGENT, "token", "new", "--name", name, "--scope", scope, "-o", "json", *more]
    p = subprocess.run(args, capture_output=True, check=True)
    made = json.loads(p.stdout)
    return made["token"], made["line"]


class Keys:
    """The tokens file of a node."""

    def __init__(self, path):
        self.path, self.lines, self.text = path, {}, {}
        self.write()

    def add(self, name, scope, *more):
        self.text[name], self.lines[name] = new_token(name, scope, *more)
        self.write()
        return self.text[name]

    def write(self):
        self.path.write_text("# made by a test\n" + "".join(x + "\n" for x in self.lines.values()))
        self.path.chmod(0o644)


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def basic(token, user="anybody"):
    pair = base64.b64encode(f"{user}:{token}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


@pytest.fixture(scope="module")
def world(nothing_left, tmp_path_factory):
    """A node with one token per scope, one with a prefix, one that has expired; an image, and runs
    of two jobs."""
    from conftest import Node
    import tiny_image
    node = Node(sandbox__allow_host_network="yes")
    node.keys = Keys(node.dir / "tokens")
    for scope in SCOPES:
        node.keys.add(scope, scope)
    node.keys.add("team", "read,submit,apply,push", "--prefix", "team-")
    old, line = new_token("old", "admin")
    node.keys.text["old"] = old
    node.keys.lines["old"] = line.replace("sha256:", "expires=2020-01-01T00:00:00Z sha256:")
    node.keys.write()
    node.settings["auth.tokens_file"] = node.keys.path
    node.start()
    tar = tmp_path_factory.mktemp("image") / "busybox.tar"
    tiny_image.write_docker_save(str(tar), JOB["image"])
    node.cli("push", tar, env={"AGENT_TOKEN": node.keys.text["push"]})
    admin = bearer(node.keys.text["admin"])
    node.runs = {}
    for job in ("team-a", "other"):
        assert node.http("PUT", f"/v1/jobs/{job}", JOB, admin).status == 201
        answer = node.http("POST", f"/v1/jobs/{job}/runs", None, admin)
        assert answer.status == 202
        node.runs[job] = answer.json()["id"]
    yield node
    for token in node.keys.text.values():
        assert token not in node.log()
    node.close()


# Each route: the scope that it needs, and what it says to one who may (nothing that is asked for
# exists, so that nothing changes).
ROUTES = [
    ("GET", "/v1/status", "read", 200), ("GET", "/v1/jobs", "read", 200),
    ("GET", "/v1/jobs/nix", "read", 404), ("PUT", "/v1/jobs/nix", "apply", 400),
    ("DELETE", "/v1/jobs/nix", "apply", 404), ("POST", "/v1/jobs/nix/runs", "submit", 404),
    ("GET", "/v1/runs", "read", 200), ("POST", "/v1/runs", "submit", 400),
    ("GET", f"/v1/runs/{RUN}", "read", 404), ("GET", f"/v1/runs/{RUN}/output", "read", 404),
    ("GET", f"/v1/runs/{RUN}/logs", "read", 404), ("GET", f"/v1/runs/{RUN}/samples", "read", 404),
    ("GET", f"/v1/runs/{RUN}/placement", "read", 404),
    ("POST", f"/v1/runs/{RUN}/cancel", "submit", 404),
    ("POST", f"/v1/runs/{RUN}/retry", "submit", 404),
    ("GET", "/v1/members", "read", 200), ("GET", "/v1/table", "read", 200),
    ("GET", "/v1/nodes", "read", 200), ("GET", "/v1/nodes/nix", "read", 404),
    ("POST", "/v1/nodes/nix/drain", "admin", 404),
    ("POST", "/v1/nodes/nix/leave", "admin", 404),
    ("GET", "/v1/images", "read", 200),
    ("POST", "/v1/images/prune", "admin", 200), ("DELETE", "/v1/images/no/such", "push", 422),
    ("HEAD", "/v1/events", "read", 200), ("GET", "/metrics", "read", 200),
    ("POST", "/v1/events", "submit", 400), ("GET", "/v1/triggers", "read", 200),
    ("GET", "/v1/callbacks", "read", 200), ("POST", "/v1/callbacks/nix/retry", "submit", 404),
    ("POST", "/v1/triggers/sign/nix/hook", "admin", 404), ("GET", "/v1/secrets", "admin", 200),
    ("POST", "/v1/triggers/test/nix/hook", "submit", 404),
    ("POST", "/v1/triggers/fire/nix/hook", "submit", 404),
    ("POST", "/v1/triggers/pause/nix", "apply", 404),
    ("POST", "/v1/triggers/resume/nix", "apply", 404),
    ("PUT", "/v1/secrets/nix", "admin", 422), ("DELETE", "/v1/secrets/nix", "admin", 404),
    ("GET", "/v1/tokens", "admin", 200), ("POST", "/v1/tokens", "admin", 422),
    ("DELETE", "/v1/tokens/nix", "admin", 404),
    ("GET", "/v1/jobs/nix/placement", "read", 404), ("GET", "/v1/profiles", "read", 200),
    ("GET", "/v1/profiles/nix", "read", 404),
    ("GET", "/v2/", "read push", 200), ("GET", "/v2/_catalog", "read push", 200),
    ("GET", "/v2/no/such/manifests/1", "read push", 404),
    ("DELETE", "/v2/no/such/manifests/1", "push", 404),
]


@pytest.mark.parametrize("method, path, scope, status", ROUTES)
def test_each_scope_at_each_route(world, method, path, scope, status):
    for name in SCOPES:
        answer = world.http(method, path, None, bearer(world.keys.text[name]))
        if name == "admin" or name in scope.split():
            assert answer.status == status, (name, answer.body)
            continue
        assert answer.status == 403, (name, answer.body)
        if path.startswith("/v2"):
            assert answer.json()["errors"][0]["code"] == "DENIED"
        elif method != "HEAD":
            assert answer.json()["code"] == "forbidden_scope"
            assert f"scope {scope}" in answer.json()["detail"]


def test_the_table_is_whole(world):
    described = json.loads(world.http("GET", "/openapi.json").body)["paths"]
    for path, operations in described.items():
        for method, operation in operations.items():
            pattern = re.sub(r"\\\{[^}]*\\\}", "[^/]+(/[^/]+)*", re.escape(path)) + "$"
            found = [r for r in ROUTES if re.match(pattern, r[1])
                     and (r[0] == method.upper() or (r[0], method) == ("HEAD", "get"))]
            assert bool(found) == bool(operation["security"]), (method, path)


@pytest.mark.parametrize("method, path", [r[:2] for r in ROUTES] + [
    ("GET", "/v1/nowhere"), ("GET", "/nowhere"), ("PATCH", "/v1/jobs/nix"),
    ("OPTIONS", "/v1/jobs")])
def test_no_token_no_answer(world, method, path):
    answer = world.http(method, path)
    assert answer.status == 401
    scheme = "Basic" if path.startswith("/v2") else "Bearer"
    assert answer.headers["WWW-Authenticate"].startswith(f'{scheme} realm="agent"')


@pytest.mark.parametrize("path", ["/v1/events", "/v1/hooks/no/such"])
def test_a_sender_of_events_may_ask_without_a_token(world, path):
    answer = world.http("OPTIONS", path, headers={"WebHook-Request-Origin": "sender.example.com"})
    assert answer.status == 200
    assert answer.headers["WebHook-Allowed-Origin"] == "sender.example.com"
    assert world.http("OPTIONS", path).status == 401


@pytest.mark.parametrize("path", ["/", "/ui/app.js", "/healthz", "/readyz", "/openapi.json"])
def test_what_is_open(world, path):
    assert world.http("GET", path).status == 200
    assert world.http("GET", path, headers={"Host": "evil.example"}).status == 403


def mistyped(token):
    return token[:20] + ("a" if token[20] != "a" else "b") + token[21:]


@pytest.mark.parametrize("make, word", [
    (lambda k: bearer(k["old"]), "expired"),
    (lambda k: bearer(mistyped(k["admin"])), "mistyped"),
    (lambda k: bearer(new_token("x", "admin")[0]), "not known"),
    (lambda k: bearer("agt_"), "not a token"),
    (lambda k: bearer("x" * 5000), "not a token"),
    (lambda k: {"Authorization": k["admin"]}, "not a token"),
    (lambda k: {"Authorization": ""}, "not a token"),
    (lambda k: basic(k["admin"]), "not a token"),  # for the registry only
])
def test_wrong_tokens(world, make, word):
    answer = world.http("GET", "/v1/status", headers=make(world.keys.text))
    assert answer.status == 401 and answer.json()["code"] == "unauthorized"
    assert word in answer.json()["detail"]
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


def test_two_tokens_are_none(world):
    line = f"Authorization: Bearer {world.keys.text['admin']}\r\n"
    answer = world.raw(f"GET /v1/status HTTP/1.1\r\nHost: {world.addr}\r\n{line}{line}"
                       "Connection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 401 ")


def test_host_is_free_and_origin_is_not(world):
    admin = bearer(world.keys.text["admin"])
    assert world.http("GET", "/v1/status", headers={**admin, "Host": "a.proxy"}).status == 200
    answer = world.http("GET", "/v1/status", headers={**admin, "Origin": "http://evil.example"})
    assert answer.status == 403 and answer.json()["code"] == "forbidden_origin"


def without_id(answer, run):
    """A problem document without what tells two requests apart."""
    return {k: str(v).replace(run, "ID") for k, v in answer.json().items() if k != "request_id"}


def test_a_prefix_hides_the_rest(world):
    team = bearer(world.keys.text["team"])
    mine, other = world.runs["team-a"], world.runs["other"]
    assert world.http("GET", "/v1/jobs/team-a", headers=team).status == 200
    for job in ("other", "team", "nix"):
        for method, path in (("GET", ""), ("PUT", ""), ("DELETE", ""), ("POST", "/runs")):
            answer = world.http(method, f"/v1/jobs/{job}{path}", None, team)
            assert answer.status == 403 and answer.json()["code"] == "forbidden_scope"
    assert world.http("GET", f"/v1/runs/{mine}", headers=team).status == 200
    for path in ("", "/output", "/logs", "/samples", "/placement"):
        foreign = world.http("GET", f"/v1/runs/{other}{path}", headers=team)
        absent = world.http("GET", f"/v1/runs/{RUN}{path}", headers=team)
        assert foreign.status == absent.status == 404
        assert without_id(foreign, other) == without_id(absent, RUN)
    assert world.http("POST", f"/v1/runs/{other}/cancel", headers=team).status == 404
    assert world.http("GET", "/v1/runs?job=team-a", headers=team).status == 200
    for path in ("/v1/runs", "/v1/runs?job=other", "/v1/runs?job=%6fther", "/v1/jobs", "/v1/status",
                 "/v1/events", "/v1/images", "/metrics", "/v2/_catalog",
                 "/v2/lab/busybox/tags/list"):
        assert world.http("GET", path, headers=team).status == 403, path
    assert world.http("POST", "/v1/runs", JOB, team).status == 403
    assert world.http("GET", "/v2/", headers=basic(world.keys.text["team"])).status == 200


def test_the_client(world, tmp_path):
    read = world.keys.text["read"]
    said = world.cli("status", check=False)
    assert said.returncode != 0 and b"AGENT_TOKEN" in said.stderr
    world.cli("status", env={"AGENT_TOKEN": read})
    file = tmp_path / "token"
    file.write_text(read + "\n")
    world.cli("status", "--token-file", file)
    said = world.cli("status", check=False, env={"AGENT_TOKEN": mistyped(read)})
    assert said.returncode == 2 and b"mistyped" in said.stderr and b"agt_" not in said.stderr
    said = world.cli("jobs", "rm", "team-a", check=False, env={"AGENT_TOKEN": read})
    assert said.returncode != 0 and b"scope apply" in said.stderr


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_skopeo(world, tmp_path):
    import tiny_image
    tar = tmp_path / "image.tar"
    tiny_image.write_docker_save(str(tar), "team-tools:1")

    def push(token, repository):
        return subprocess.run(
            ["skopeo", "copy", "--insecure-policy", "--dest-tls-verify=false",
             *(["--dest-creds", f"anybody:{token}"] if token else ["--dest-no-creds"]),
             f"docker-archive:{tar}", f"docker://{world.addr}/{repository}"],
            capture_output=True, timeout=60)
    keys = world.keys.text
    assert push(keys["push"], "lab/pushed:1").returncode == 0
    assert push(keys["team"], "team-tools:1").returncode == 0
    for token, repository in ((None, "lab/no:1"), (keys["read"], "lab/no:1"),
                              (keys["old"], "lab/no:1"), (keys["team"], "lab/no:1")):
        assert push(token, repository).returncode != 0
    listed = world.http("GET", "/v2/_catalog", headers=basic(keys["read"])).json()["repositories"]
    assert "lab/pushed" in listed and "team-tools" in listed and "lab/no" not in listed


def test_every_change_is_in_the_audit(world):
    token = world.keys.text
    assert world.http("PUT", "/v1/jobs/audited", JOB, bearer(token["apply"])).status == 201
    assert world.http("PUT", "/v1/jobs/audited", JOB, bearer(token["read"])).status == 403
    assert world.http("DELETE", "/v1/jobs/audited", None, bearer(token["apply"])).status == 204
    log = world.log()
    assert re.search(r"audit: 'apply' from 127\.0\.0\.1:\d+: PUT /v1/jobs/audited: 201", log)
    assert re.search(r"audit: 'apply' from 127\.0\.0\.1:\d+: DELETE /v1/jobs/audited: 204", log)
    assert re.search(r"audit: 'push' from 127\.0\.0\.1:\d+: PUT /v2/lab/busybox/manifests/\S+: 201",
                     log)
    assert "GET /v1/status: 200" not in log


def test_a_run_on_the_hosts_network(world):
    with socket.create_server(("127.0.0.1", 0)) as server:
        def serve():
            connection, _ = server.accept()
            connection.sendall(b"hello from the host\n")
            connection.close()
        threading.Thread(target=serve, daemon=True).start()
        command = ["nc", "-w", "5", "127.0.0.1", str(server.getsockname()[1])]
        env = {"AGENT_TOKEN": world.keys.text["admin"]}
        out = world.cli("submit", "lab/busybox:1", "--wait", "--network", "host", "--", *command,
                        env=env).stdout
        assert out == b"hello from the host\n"
        # Without it the same program reaches nobody; and with it the API asks for a token.
        end = world.cli("submit", "lab/busybox:1", "--wait", "--", *command, env=env, check=False)
        assert end.returncode not in (0, 125) and end.stdout == b""
        script = f"printf 'GET /v1/status HTTP/1.0\\r\\n\\r\\n' | nc -w 5 127.0.0.1 {world.port}"
        out = world.cli("submit", "lab/busybox:1", "--wait", "--network", "host", "--",
                        "sh", "-c", script, env=env).stdout
        assert out.startswith(b"HTTP/1.1 401 ")


def test_no_host_network_without_permission(shared_node, image):
    answer = shared_node.http("POST", "/v1/runs",
                              {"image": image, "command": ["true"], "network": "host"})
    assert answer.status == 422
    assert "sandbox.allow_host_network" in answer.json()["errors"][0]["detail"]


def test_sighup_adds_and_revokes(make_node):
    node = make_node(start=False)
    keys = Keys(node.dir / "tokens")
    first = keys.add("first", "read")
    node.settings["auth.tokens_file"] = keys.path
    node.start()

    def status(token):
        return node.http("GET", "/v1/status", headers=bearer(token)).status

    def reload(word):
        before = len(node.log())
        node.reload()
        wait_for(lambda: word in node.log()[before:])
    second = keys.add("second", "read")
    assert (status(first), status(second)) == (200, 401)
    reload("2 tokens known")
    assert (status(first), status(second)) == (200, 200)
    # A stream ends with its token.
    with socket.create_connection(("127.0.0.1", node.port), timeout=10) as stream:
        stream.sendall(f"GET /v1/events HTTP/1.1\r\nHost: x\r\n"
                       f"Authorization: Bearer {first}\r\n\r\n".encode())
        assert stream.recv(4096).startswith(b"HTTP/1.1 200 ")
        del keys.lines["first"]
        keys.write()
        reload("1 tokens known")
        assert (status(first), status(second)) == (401, 200)
        end = time.monotonic() + 10
        try:
            while stream.recv(4096):
                assert time.monotonic() < end
        except ConnectionResetError:
            pass
    # A broken file, or one that may not be read, changes nothing.
    keys.path.write_text(f"second read {second}\n")
    reload("tokens:1: ")
    assert (status(first), status(second)) == (401, 200)
    keys.write()
    keys.path.chmod(0o600)
    reload("can not be read by 'nobody'")
    assert (status(first), status(second)) == (401, 200)
    assert first not in node.log() and second not in node.log()


@pytest.mark.parametrize("text, mode, word", [
    ("x read\n", 0o644, "tokens:1: there is no sha256"),
    ("", 0o666, "anybody may write"),
])
def test_a_bad_file_at_the_start(make_node, text, mode, word):
    node = make_node(start=False)
    path = node.dir / "tokens"
    path.write_text(text)
    path.chmod(mode)
    node.settings["auth.tokens_file"] = path
    node.start(wait=False)
    assert node.process.wait(10) == 2
    assert word in node.log()


def test_new_says_what_is_wrong():
    for args, word in ((["--scope", "read"], b"--name"), (["--name", "x"], b"--scope"),
                       (["--name", "x", "--scope", "all"], b"'all' is no scope"),
                       (["--name", "x y", "--scope", "read"], b"--name"),
                       (["--name", "x", "--scope", "read", "--expires", "soon"], b"--expires"),
                       (["--name", "x", "--scope", "read", "--expires", "2001-01-01T00:00:00Z"],
                        b"--expires"),
                       (["--name", "x", "--scope", "admin", "--prefix", "a"], b"prefix")):
        p = subprocess.run([AGENT, "token", "new", *args], capture_output=True)
        assert p.returncode == 2 and word in p.stderr and p.stdout == b""
    token, line = new_token("x", "read", "--expires", "30d")
    again, _ = new_token("x", "read")
    assert re.fullmatch(r"agt_[a-z2-7]{56}", token) and token != again
    assert re.fullmatch(r"x read expires=\S+Z sha256:[0-9a-f]{64}", line)
