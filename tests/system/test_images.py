"""What a node holds: sizes, what is shared, last use, what jobs keep; removing and pruning."""
import json

import lab_image
from conftest import wait_for
from lab_image import entry, layer


def images(node):
    r = node.http("GET", "/v1/images").json()
    return {f"{x['repository']}:{x['tag']}": x for x in r["images"]}


def test_sizes_sharing_use_and_jobs(node):
    base = lab_image.base_layer()
    lab_image.push(node, "team/a:1", [base, layer(entry("file", "a", b"a" * 9999))])
    lab_image.push(node, "team/b:1", [base, layer(entry("file", "b", b"b" * 9999))])
    lab_image.push(node, "team/alone:1", [layer(entry("file", "x", b"x" * 9999))])
    seen = images(node)
    a, b, alone = seen["team/a:1"], seen["team/b:1"], seen["team/alone:1"]
    assert a["layers"] == b["layers"] == 2 and alone["layers"] == 1
    assert a["shared_bytes"] == b["shared_bytes"] > 100_000
    assert a["size_bytes"] > a["shared_bytes"] and alone["shared_bytes"] == 0
    assert not any(x["kept"] for x in seen.values())
    node.cli("submit", "team/a:1", "--wait", "--", "true")
    assert images(node)["team/a:1"]["last_used_at"] >= a["last_used_at"]
    # A registered job keeps its image, and gives it back.
    node.http("PUT", "/v1/jobs/j", {"name": "j", "image": "team/b:1", "command": ["true"]})

    def kept():
        return images(node)["team/b:1"]["kept"]
    wait_for(kept)
    node.http("PUT", "/v1/jobs/j", {"name": "j", "image": "team/alone:1", "command": ["true"]})
    wait_for(lambda: images(node)["team/alone:1"]["kept"] and not kept())
    node.stop()
    node.start()
    wait_for(lambda: images(node)["team/alone:1"]["kept"])
    table = node.cli("images").stdout.decode()
    assert "SHARED" in table and "KEPT" in table and " yes" in table
    assert node.http("DELETE", "/v1/jobs/j").status == 204
    wait_for(lambda: not images(node)["team/alone:1"]["kept"])


def test_rm_and_prune(node):
    base = lab_image.base_layer()
    d = lab_image.push(node, "x/one:1", [base])
    lab_image.push(node, "x/two:1", [base, layer(entry("file", "f", b"y" * 99))])
    used = node.http("GET", "/v1/images").json()["bytes"]
    assert b"x/one:1 removed" in node.cli("images", "rm", "x/one:1").stdout
    assert set(images(node)) == {"x/two:1"}
    assert node.http("GET", f"/v2/x/one/manifests/{d}").status == 404
    # What both had stays; what only the first had went at once.
    assert 0 < node.http("GET", "/v1/images").json()["bytes"] < used
    assert node.cli("submit", "x/two:1", "--wait", "--", "echo", "still").stdout == b"still\n"
    p = node.cli("images", "rm", "x/one:1", check=False)
    assert p.returncode != 0 and b"x/one" in p.stderr
    out = json.loads(node.cli("images", "prune", "-o", "json").stdout)
    assert set(out) == {"images", "blobs", "bytes"}
