"""The cluster's tokens: made, used, listed, revoked by API and client; kept over restarts."""
import json
import subprocess
import time

import pytest

from conftest import AGENT, Node, wait_for
from test_auth import bearer, new_token

RUN = "01JDCB0000000000000000000A"


@pytest.fixture(scope="module")
def world(nothing_left, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    admin, line = new_token("root", "admin")
    path.write_text(line + "\n")
    path.parent.chmod(0o755)
    path.chmod(0o644)
    node = Node(auth__tokens_file=path)
    node.admin = admin
    for d in path.parents:
        if str(d).startswith("/tmp/pytest") or "pytest" in str(d):
            d.chmod(0o755)
    node.start()
    yield node
    node.close()


def create(node, name, *scopes, token=None, **more):
    body = {"name": name, "scopes": list(scopes), **more}
    return node.http("POST", "/v1/tokens", json.dumps(body).encode(),
                     {"Content-Type": "application/json", **bearer(token or node.admin)})


def status(node, token, method, path, body=None):
    headers = bearer(token)
    if body is not None:
        headers["Content-Type"] = "application/json"
    return node.http(method, path, body, headers).status


def test_create_use_revoke(world):
    made = create(world, "ci", "read", expires="90d")
    assert made.status == 201
    token = made.json()["token"]
    assert made.json()["created_by"] == "root" and made.json()["source"] == "cluster"
    assert status(world, token, "GET", "/v1/jobs") == 200
    assert status(world, token, "PUT", "/v1/jobs/x", b'{"image":"a/b:1"}') == 403
    listed = world.http("GET", "/v1/tokens", headers=bearer(world.admin)).json()["tokens"]
    assert {t["name"]: t["source"] for t in listed} == {"root": "file", "ci": "cluster"}
    assert "agt_" not in json.dumps(listed) and "sha256" not in json.dumps(listed)
    assert world.http("DELETE", "/v1/tokens/ci", headers=bearer(world.admin)).status == 204
    assert status(world, token, "GET", "/v1/jobs") == 401
    # Every change has its line, with who and what, and no secret.
    log = world.log()
    assert "audit: 'root' from 127.0.0.1:" in log and "made the token 'ci' (read)" in log
    assert "DELETE /v1/tokens/ci: 204" in log
    assert "agt_" not in log


@pytest.mark.parametrize("scopes, prefix, may, may_not", [
    (["submit"], "team-", ("POST", "/v1/jobs/team-a/runs"), ("POST", "/v1/jobs/other/runs")),
    (["apply"], "team-", ("DELETE", "/v1/jobs/team-a"), ("DELETE", "/v1/jobs/other")),
    (["read"], "", ("GET", "/v1/runs"), ("POST", "/v1/images/prune")),
    (["push"], "team/", ("GET", "/v2/team/x/tags/list"), ("GET", "/v2/other/x/tags/list")),
    (["admin"], "", ("POST", "/v1/images/prune"), None),
])
def test_scopes_and_prefixes(world, scopes, prefix, may, may_not):
    name = f"s-{scopes[0]}"
    token = create(world, name, *scopes, prefix=prefix).json()["token"]
    assert status(world, token, *may) not in (401, 403)
    assert may_not is None or status(world, token, *may_not) == 403
    if scopes != ["admin"]:
        for method, path in ("GET", "/v1/tokens"), ("DELETE", "/v1/tokens/root"):
            assert status(world, token, method, path) == 403
        assert create(world, "more", "admin", token=token).status == 403


def test_expiry(world):
    token = create(world, "short", "read", expires="1s").json()["token"]
    assert status(world, token, "GET", "/v1/jobs") == 200
    wait_for(lambda: status(world, token, "GET", "/v1/jobs") == 401)


def test_bad_documents(world):
    for body in b"", b"{}", b"[]", b'{"name":"x","scopes":["god"]}', \
            b'{"name":"x y","scopes":["read"]}', b'{"name":"x","scopes":["admin"],"prefix":"a"}', \
            b'{"name":"x","scopes":["read"],"expires":"1999-01-01T00:00:00Z"}':
        answer = world.http("POST", "/v1/tokens", body,
                            {"Content-Type": "application/json", **bearer(world.admin)})
        assert answer.status == 422, body
        assert answer.json()["code"] == "invalid_token"
    assert create(world, "root", "read").json()["code"] == "token_exists"
    assert world.http("DELETE", "/v1/tokens/root", headers=bearer(world.admin)).json()["code"] \
        == "file_token"
    assert world.http("DELETE", "/v1/tokens/nobody", headers=bearer(world.admin)).status == 404


def test_client(world):
    env = {"AGENT_TOKEN": world.admin}
    token = world.cli("token", "create", "--name", "cli", "--scope", "read,submit", "--prefix",
                      "team-", "--expires", "30d", env=env).stdout.decode().strip()
    assert token.startswith("agt_") and len(token) == 60
    table = world.cli("token", "ls", env=env).stdout.decode()
    line = next(x for x in table.splitlines() if x.startswith("cli "))
    assert "read,submit" in line and "team-" in line and "root" in line and "cluster" in line
    assert token not in table
    assert b"cli" in world.cli("token", "ls", "-q", env=env).stdout.split()
    assert status(world, token, "GET", "/v1/runs?job=team-a") == 200
    again = world.cli("token", "create", "--name", "cli", "--scope", "read", env=env, check=False)
    assert again.returncode == 1 and b"already" in again.stderr
    world.cli("token", "revoke", "cli", env=env)
    assert status(world, token, "GET", "/v1/runs?job=team-a") == 401
    gone = world.cli("token", "revoke", "cli", env=env, check=False)
    assert gone.returncode == 1 and b"no token" in gone.stderr
    for args in ["token", "create"], ["token", "revoke"], ["token", "ls", "x"], ["token", "buy"], \
            ["token", "create", "--name", "a", "--scope", "all"]:
        assert world.cli(*args, env=env, check=False).returncode == 2, args


def test_secret_of_the_client_never_travels(world):
    """The client sends a hash: what the node logs or keeps does not have the token."""
    env = {"AGENT_TOKEN": world.admin}
    token = world.cli("token", "create", "--name", "local", "--scope", "read",
                      env=env).stdout.decode().strip()
    body = token[4:56].encode()
    for path in (p for p in (world.data / "db").iterdir() if p.is_file()):
        assert body not in path.read_bytes()
    assert body.decode() not in world.log()


def test_kept_over_a_restart(world):
    token = create(world, "kept", "read").json()["token"]
    gone = create(world, "gone", "read").json()["token"]
    world.http("DELETE", "/v1/tokens/gone", headers=bearer(world.admin))
    world.kill()
    world.start()
    assert status(world, token, "GET", "/v1/jobs") == 200
    assert status(world, gone, "GET", "/v1/jobs") == 401


def test_registry_clients(world):
    import base64
    token = create(world, "pusher", "push").json()["token"]
    pair = base64.b64encode(f"anybody:{token}".encode()).decode()
    assert world.http("GET", "/v2/", headers={"Authorization": f"Basic {pair}"}).status == 200
    world.http("DELETE", "/v1/tokens/pusher", headers=bearer(world.admin))
    assert world.http("GET", "/v2/", headers={"Authorization": f"Basic {pair}"}).status == 401


def test_a_stream_ends_with_its_token(world):
    token = create(world, "watcher", "read").json()["token"]
    p = subprocess.Popen(["curl", "-sN", "-H", f"Authorization: Bearer {token}",
                          f"http://{world.addr}/v1/events"], stdout=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        assert p.poll() is None
        world.http("DELETE", "/v1/tokens/watcher", headers=bearer(world.admin))
        assert p.wait(10) != 0
    finally:
        p.kill()
        p.wait()


def test_an_open_node_makes_no_keys(shared_node):
    for method, path in ("GET", "/v1/tokens"), ("POST", "/v1/tokens"), ("DELETE", "/v1/tokens/x"):
        answer = shared_node.http(method, path, b"{}" if method == "POST" else None,
                                  {"Content-Type": "application/json"})
        assert (answer.status, answer.json()["code"]) == (409, "no_tokens")
    p = subprocess.run([AGENT, "token", "ls"], capture_output=True,
                       env={"AGENT_ADDR": shared_node.addr})
    assert p.returncode == 1 and b"auth.tokens_file" in p.stderr
