"""What happens at the edges: a full disk, a full queue, too much of anything."""
import hashlib
import io
import json
import os
import pathlib
import subprocess
import tarfile
import time

import pytest

import faults
from conftest import AGENT, ENDED, proc_status, wait_for
from faults import shell, trigger

MIB = 1024 * 1024


@pytest.fixture
def small_disk(make_node, image_tar):
    """A node whose data directory is a file system of its own, of 96 MiB."""
    mounted = []

    def make(**settings):
        node = make_node(start=False, node__slots=2, **settings)
        node.data.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m,mode=711", "agent-test-disk",
                        node.data], check=True)
        mounted.append(node)
        node.start()
        node.cli("push", image_tar)
        faults.put_job(node, "quick", shell("cat; echo done"))
        node.wait_run(trigger(node, "quick"))  # unpacks the image
        return node
    yield make
    for node in mounted:
        if node.process.poll() is None:
            node.stop()
        subprocess.run(["umount", node.data], check=True)


def fill(node, leave):
    """Uses up the disk but for `leave` bytes."""
    s = os.statvfs(node.data)
    with open(node.data / "filler", "ab") as f:
        rest = s.f_bavail * s.f_frsize - leave
        while rest > 0:
            try:
                rest -= f.write(b"\0" * min(rest, MIB))
                f.flush()
            except OSError:
                break


def free(node):
    (node.data / "filler").unlink()


def submit(node, payload=b""):
    return node.http("POST", "/v1/jobs/quick/runs", payload,
                     {"Content-Type": "application/octet-stream"}, timeout=60)


def refused(node, **how):
    def full():
        """work is refused with 507"""
        r = submit(node, **how)
        return r if r.status == 507 else None
    return wait_for(full, 15, 0.1)


def works_again(node):
    def again():
        """work is taken again"""
        r = submit(node, b"back ")
        return r.json()["id"] if r.status == 202 else None
    run = wait_for(again, 20, 0.2)
    assert node.wait_run(run)["state"] == "succeeded"
    assert faults.output(node, run) == b"back done\n"


def image_of(path, name, size):
    """An image with one layer of bytes that do not compress, `size` of them."""
    data = os.urandom(size)
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        info = tarfile.TarInfo("data")
        info.size = size
        tar.addfile(info, io.BytesIO(data))
    layer = raw.getvalue()
    config = json.dumps({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/data"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
    }).encode()
    manifest = json.dumps([{"Config": "c.json", "RepoTags": [name], "Layers": ["l.tar"]}]).encode()
    with tarfile.open(path, "w") as tar:
        for n, b in (("l.tar", layer), ("c.json", config), ("manifest.json", manifest)):
            info = tarfile.TarInfo(n)
            info.size = len(b)
            tar.addfile(info, io.BytesIO(b))


def test_below_the_floor_new_work_is_refused(small_disk, tmp_path):
    node = small_disk(store__min_free_bytes="16MiB")
    faults.put_job(node, "slow", shell("sleep 2; echo slept"))
    accepted = [trigger(node, "slow") for _ in range(6)]
    fill(node, 8 * MIB)
    r = refused(node)
    assert r.json()["code"] == "disk_full", r.body
    image_of(tmp_path / "big.tar", "lab/big:1", 4 * MIB)
    p = node.cli("push", tmp_path / "big.tar", check=False)
    assert p.returncode != 0 and b"full" in p.stderr, p.stderr
    # What was accepted goes on all the same.
    for run in accepted:
        record = node.wait_run(run)
        assert record["state"] == "succeeded", record
        assert faults.output(node, run) == b"slept\n"
    free(node)
    works_again(node)
    node.cli("push", tmp_path / "big.tar")


def test_a_disk_without_a_byte(small_disk, tmp_path):
    node = small_disk(store__min_free_bytes="0")
    agent = node.agent_pid()
    faults.put_job(node, "writer", shell("sleep 1.5; seq 1 500000; echo wrote >&2"))
    faults.put_job(node, "slow", shell("sleep 1.5; exit 4"))
    accepted = [trigger(node, j) for j in ("writer", "slow", "writer", "slow", "slow", "quick")]
    wait_for(lambda: node.run(accepted[1])["state"] == "running")
    fill(node, 0)
    r = refused(node, payload=b"x" * 100000)
    assert r.json()["code"] == "disk_full", r.body
    image_of(tmp_path / "big.tar", "lab/big:1", 4 * MIB)
    p = node.cli("push", tmp_path / "big.tar", check=False)
    assert p.returncode != 0 and b"full" in p.stderr, p.stderr
    time.sleep(4)
    for path in ("/healthz", "/v1/status", "/v1/runs", "/v1/images", "/metrics"):
        assert node.http("GET", path).status == 200, path
    free(node)
    records = [node.wait_run(run) for run in accepted]
    for record in records:
        assert record["reason"] is not None and record["state"] in ENDED, record
        if record["job"] == "slow" and record["reason"] == "exit":
            assert record["exit_code"] == 4, record
        if record["state"] == "succeeded" and record["job"] == "writer":
            # Success is only said of whole output.
            assert len(faults.output(node, record["id"])) == 3388895, record
        if record["state"] != "succeeded" and record["reason"] != "exit":
            assert record["detail"], record
    works_again(node)
    assert node.agent_pid() == agent, "the agent process did not live through it:\n" + node.log()
    node.cli("push", tmp_path / "big.tar")
    assert node.stop() == 0


def test_a_start_on_a_full_disk(small_disk):
    node = small_disk(store__min_free_bytes="0")
    run = trigger(node, "quick", b"one ")
    node.wait_run(run)
    assert node.stop() == 0
    fill(node, 0)
    node.start(wait=False)
    try:
        node.wait_ready(10)
        assert node.run(run)["state"] == "succeeded"
    except AssertionError:
        # It may refuse, if it says why.
        assert "ENOSPC" in node.log() or "full" in node.log(), node.log()
    free(node)
    if node.process.poll() is not None:
        node.start()
    else:
        node.wait_ready(40)
    assert node.run(run)["state"] == "succeeded"
    assert "message that is none" not in node.log()
    works_again(node)


def test_a_full_queue(make_node, image_tar):
    node = make_node(node__slots=1, store__max_queued=5, sandbox__grace="100ms")
    node.cli("push", image_tar)
    faults.put_job(node, "quick", shell("cat; echo done"))
    faults.put_job(node, "slow", shell("sleep 60"))
    slow = trigger(node, "slow")
    wait_for(lambda: node.run(slow)["state"] == "running")
    accepted = []
    for _ in range(20):
        r = submit(node)
        if r.status == 202:
            accepted.append(r.json()["id"])
        else:
            assert r.status == 503 and r.json()["code"] == "queue_full", r.body
            assert int(r.headers["Retry-After"]) > 0
    assert len(accepted) == 5
    assert node.http("GET", "/healthz").status == 200
    node.http("POST", f"/v1/runs/{slow}/cancel")
    assert {node.wait_run(i)["state"] for i in accepted} == {"succeeded"}
    assert submit(node).status == 202


def test_a_payload_over_the_limit(make_node, image_tar):
    node = make_node(http__max_body_bytes="64KiB")
    node.cli("push", image_tar)
    faults.put_job(node, "quick", shell("wc -c"))
    r = submit(node, b"x" * 65536)
    assert r.status == 202
    assert node.wait_run(r.json()["id"])["payload_bytes"] == 65536
    assert faults.output(node, r.json()["id"]).split() == [b"65536"]
    for n in (65537, 10 * MIB):
        head = f"POST /v1/jobs/quick/runs HTTP/1.1\r\nHost: {node.addr}\r\n"
        answer = node.raw(f"{head}Content-Length: {n}\r\n\r\n".encode(), timeout=5)
        assert answer.startswith(b"HTTP/1.1 413 ") and b"body_too_large" in answer, answer[:500]
        chunks = b"".join(b"1000\r\n" + b"x" * 4096 + b"\r\n" for _ in range(n // 4096 + 1))
        answer = node.raw(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunks[:80000],
                          timeout=5)
        assert answer.startswith(b"HTTP/1.1 413 "), answer[:500]
    # Nothing of them stays behind.
    wait_for(lambda: len(list((node.data / "spool").iterdir())) <= 1)
    assert not list(pathlib.Path(node.data / "spool").glob("*.part"))


def test_output_over_the_limit(make_node, image_tar):
    node = make_node(sandbox__output_bytes="1MiB")
    node.cli("push", image_tar)
    flood = "seq 1 1000000; echo end >&2; exit 0"
    faults.put_job(node, "fail", shell(flood))
    faults.put_job(node, "cut", shell(flood, output_overflow="truncate"))
    whole = "".join(f"{i}\n" for i in range(1, 1000001)).encode()
    fail, cut = trigger(node, "fail"), trigger(node, "cut")
    record = node.wait_run(fail)
    assert (record["state"], record["reason"]) == ("failed", "output"), record
    assert faults.output(node, fail) == whole[:MIB]
    record = node.wait_run(cut)
    assert (record["state"], record["exit_code"]) == ("succeeded", 0), record
    assert record["output_truncated"] is True, record
    assert faults.output(node, cut) == whole[:MIB]
    assert faults.log_of(node, cut) == b"end\n"


def test_a_flood_of_log_is_bounded(make_node, image_tar):
    node = make_node(sandbox__log_bytes="1MiB")
    node.cli("push", image_tar)
    faults.put_job(node, "flood", shell("seq 1 3000000 >&2; echo out"))
    run = trigger(node, "flood")
    record = node.wait_run(run)
    assert record["state"] == "succeeded" and record["log_truncated"] is True, record
    log = faults.log_of(node, run)
    whole = "".join(f"{i}\n" for i in range(1, 3000001)).encode()
    assert MIB - 8192 <= len(log) <= MIB + 1024, len(log)
    assert log[:MIB // 2 - 4096] == whole[:MIB // 2 - 4096]
    assert log[-(MIB // 2 - 4096):] == whole[-(MIB // 2 - 4096):]
    on_disk = sum(p.stat().st_size for p in (node.data / "runs" / f"{run}.1").iterdir())
    assert on_disk < 2 * MIB, on_disk
    assert faults.output(node, run) == b"out\n"


# ---- memory ----

def rss(node):
    return int(proc_status(node.agent_pid())["RssAnon"].split()[0]) * 1024


@pytest.mark.timeout(600)
@pytest.mark.parametrize("size", [
    64 * MIB, pytest.param(1024 * MIB, marks=pytest.mark.slow)], ids=["64MiB", "1GiB"])
def test_big_things_pass_through_without_memory(make_node, image_tar, tmp_path, size):
    if size > 64 * MIB and not os.environ.get("SLOW"):
        pytest.skip("takes minutes and gigabytes: SLOW=1")
    node = make_node(http__max_body_bytes=2 * size, sandbox__output_bytes=2 * size)
    node.cli("push", image_tar)
    faults.put_job(node, "echo", shell("cat", memory="512MiB"))
    node.wait_run(trigger(node, "echo", b"warm"))
    payload = tmp_path / "payload"
    image_of(tmp_path / "big.tar", "lab/big:1", size)
    (tmp_path / "big.tar").rename(payload)
    before = most = rss(node)
    pushing = subprocess.Popen([AGENT, "push", payload],
                               env={**os.environ, "AGENT_ADDR": node.addr})
    while pushing.poll() is None:
        most = max(most, rss(node))
        time.sleep(0.02)
    assert pushing.returncode == 0
    with open(payload, "rb") as f, open(tmp_path / "out", "wb") as out:
        client = subprocess.Popen([AGENT, "submit", "echo", "--wait"],
                                  stdin=f, stdout=out,
                                  env={**os.environ, "AGENT_ADDR": node.addr})
        while client.poll() is None:
            most = max(most, rss(node))
            time.sleep(0.02)
    assert client.returncode == 0
    subprocess.run(["cmp", payload, tmp_path / "out"], check=True)
    print(f"{size >> 20} MiB: the agent process grew by {(most - before) >> 10} KiB")
    assert most - before <= 32 * MIB, (before, most)
