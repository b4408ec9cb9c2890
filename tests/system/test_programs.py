"""What the programs of an image need of a processor: found in its ELF files, kept by placement."""
import json

import pytest

import tiny_elf
import tiny_image
from conftest import wait_for
from members import cluster

LOW = "cpu-cpuid.AVX2"  # without it, a processor is x86-64-v2


def level(node):
    for n in node.http("GET", "/v1/nodes").json()["nodes"]:
        if n["name"] == node.settings["node.name"]:
            micro = n["hardware"]["cpu"]["microarch"]
            return int(micro.rsplit("V", 1)[1]) if micro else 0
    return 0


def image(tmp_path, name, program, cmd=None, **config):
    """An image of busybox with one more program, /bin/fast; pushed as `name`."""
    file = tmp_path / "fast"
    file.write_bytes(program)
    tar = tmp_path / (name.replace(":", "-").replace("/", "-") + ".tar")
    tiny_image.write_docker_save(str(tar), name, programs=[str(file)],
                                 config={"Cmd": [cmd or "/bin/fast"], **config})
    return str(tar)


def programs(node, name):
    """What the node says of the image, once it has looked."""
    def looked():
        """the image was looked at"""
        for i in node.http("GET", "/v1/images").json()["images"]:
            if f"{i['repository']}:{i['tag']}" == name:
                return i.get("programs")
        return None
    return wait_for(looked, 20)


def verdicts(node, run):
    placement = node.http("GET", f"/v1/runs/{run}/placement").json()
    return {c["node"]: c for c in placement["candidates"]}, placement


def submit(node, name, **fields):
    return node.http("POST", "/v1/runs", json.dumps({"image": name, **fields}))


def ran_on(node, run):
    record = node.wait_run(run)
    assert record["state"] == "succeeded", record
    return record["node"]


@pytest.fixture
def two(make_node):
    """n0 is the lower machine."""
    low, high = cluster(make_node, 2, gossip__profile="local")
    low.stop()
    low.settings["node.capabilities_mask"] = LOW
    low.start()
    if level(high) < 3:
        pytest.skip("this machine's processor is below x86-64-v3")
    assert level(low) == 2

    def known():
        """each knows the other's processor"""
        return all(submit(a, "none:1", require=[f"node.name={b}"]).json()["code"] == "unknown_image"
                   for a in (low, high) for b in ("n0", "n1"))
    wait_for(known, 20)
    return low, high


def test_never_sent_to_a_lower_node(two, tmp_path):
    low, high = two
    low.cli("push", image(tmp_path, "fast:3", tiny_elf.program(3)))
    def accepted():
        """the other node, which can run it, is known"""
        r = submit(low, "fast:3")
        assert r.status == 202 or r.json()["code"] == "starting", r.body
        return r.status == 202 and r
    first = wait_for(accepted, 20)
    run = first.json()["id"]
    assert ran_on(low, run) == "n1"
    seen, placement = verdicts(low, run)
    assert seen["n0"]["verdict"] == "instructions_missing", seen
    assert (seen["n0"]["needs"], seen["n0"]["has"]) == ("x86-64-v3", "x86-64-v2")
    assert seen["n1"]["verdict"] == "fit"
    assert placement["image_needs"] == "x86-64-v3"
    text = low.cli("explain", run).stdout.decode()
    assert "(needs x86-64-v3, has x86-64-v2)" in text
    assert "image   needs x86-64-v3" in text
    runs = [submit(low, "fast:3").json()["id"] for _ in range(12)]
    assert {ran_on(low, r) for r in runs} == {"n1"}
    # The row of the image brings it to a node that has not got the image.
    def told():
        """the other node has heard what the image needs"""
        r = submit(high, "fast:3", require=["node.name=n0"])
        return r.status == 422 and r.json()["code"] == "no_match" and r
    refused = wait_for(told, 20).json()["detail"]
    assert "x86-64-v3" in refused or "node.name=n0" in refused, refused
    assert programs(low, "fast:3")["x86_64_level"] == 3
    assert b"x86-64-v3" in low.cli("images").stdout


def test_nobody_has_it(make_node, tmp_path):
    node = make_node(node__capabilities_mask=LOW)
    node.cli("push", image(tmp_path, "fast:4", tiny_elf.program(4)))
    r = submit(node, "fast:4")
    assert r.status == 422 and r.json()["code"] == "no_match", r.body
    assert "instructions" in r.json()["detail"] and "x86-64-v4" in r.json()["detail"], r.body
    # Another program of the image asks for nothing; this one does, whatever the image starts.
    assert submit(node, "fast:4", command=["true"]).status == 202
    node.cli("push", image(tmp_path, "tools:1", tiny_elf.program(3), cmd="/bin/sh"))
    assert submit(node, "tools:1", command=["true"]).status == 202
    r = submit(node, "tools:1", command=["fast"])
    assert r.status == 422 and "x86-64-v3" in r.json()["detail"], r.body
    # What is known stays known.
    node.stop()
    node.start()
    assert programs(node, "tools:1")["programs"] == [{"path": "bin/fast", "x86_64_level": 3}]
    assert submit(node, "fast:4").status == 422


def test_another_architecture(node, tmp_path):
    node.cli("push", image(tmp_path, "odd:1", tiny_elf.program(machine=183)))
    r = submit(node, "odd:1")
    assert r.status == 422 and r.json()["code"] == "no_match", r.body
    assert "arm64" in r.json()["detail"]


def test_code_that_is_not_there_is_worth_nothing(node, tmp_path):
    def without(name):
        run = submit(node, name).json()["id"]
        assert ran_on(node, run)
        return set(verdicts(node, run)[1].get("image_without", []))

    node.cli("push", image(tmp_path, "plain:1", tiny_elf.program()))
    node.cli("push", image(tmp_path, "crypt:1", tiny_elf.program(code=tiny_elf.AES)))
    plain, crypt = without("plain:1"), without("crypt:1")
    assert "aes" not in crypt
    assert plain >= crypt
    hits = [programs(node, n)["hits"]["aes"] for n in ("plain:1", "crypt:1")]
    assert hits[1] == hits[0] + 8, hits
    # Of a script nothing is known.
    node.cli("push", image(tmp_path, "script:1", b"#!/bin/sh\necho hello\n"))
    assert without("script:1") == set()
    assert programs(node, "script:1")["script"] is True


def test_broken_programs_are_no_obstacle(node, tmp_path):
    elf = bytearray(tiny_elf.program(3))
    elf[54] = 1  # the size of a program header
    node.cli("push", image(tmp_path, "broken:1", bytes(elf), cmd="/bin/true"))
    assert ran_on(node, submit(node, "broken:1").json()["id"])
    assert programs(node, "broken:1")["scanned"] is True
