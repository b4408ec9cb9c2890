"""Helpers of the tests that have several members: what nodes say of each other, keys, clusters."""
import base64
import json
import os

from conftest import free_port, wait_for


def members(node, **kw):
    """{name: member} as the node sees them."""
    r = node.http("GET", "/v1/members", **kw)
    assert r.status == 200, r.body
    return {m["name"]: m for m in r.json()["members"]}


def states(node):
    return {name: m["state"] for name, m in members(node).items()}


def wait_states(node, want, seconds=30):
    """Waits until the node sees exactly these states (names that it no longer lists: None)."""
    def seen():
        """the node sees the states"""
        now = states(node)
        return all(now.get(name) == state for name, state in want.items())
    try:
        wait_for(seen, seconds)
    except AssertionError as e:
        raise AssertionError(f"wanted {want}, seen {states(node)}\n{node.log()[-3000:]}") from e


def metric(node, name):
    for line in node.http("GET", "/metrics").body.decode().splitlines():
        if line.rsplit(" ", 1)[0] == name:
            return int(line.rsplit(" ", 1)[1])
    raise AssertionError(f"no metric {name}")


def key(size=32):
    return base64.b64encode(os.urandom(size)).decode()


def key_file(tmp_path, name, *keys):
    """A key file that the agent process can read."""
    for part in [tmp_path, *tmp_path.parents]:
        if str(part).startswith("/tmp/pytest"):
            part.chmod(part.stat().st_mode | 0o011)
    path = tmp_path / name
    path.write_text("".join(k + "\n" for k in keys))
    path.chmod(0o644)
    return path


def cluster(make_node, count, **settings):
    """`count` nodes that joined the first; each sees all."""
    seed = free_port()
    nodes = []
    for i in range(count):
        own = {"node__name": f"n{i}", "gossip__join": f"127.0.0.1:{seed}", **settings}
        if i == 0:
            own["gossip__listen"] = f"127.0.0.1:{seed}"
        nodes.append(make_node(**own))
    for node in nodes:
        wait_states(node, {f"n{i}": "alive" for i in range(count)})
    return nodes


def as_json(process):
    return json.loads(process.stdout)
