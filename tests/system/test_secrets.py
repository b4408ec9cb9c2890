"""Secrets of runs: files in a tmpfs of the sandbox, and nowhere else."""
import json
import os
import pathlib
import time

import pytest

from conftest import wait_for
from test_cluster import own_cluster  # noqa: F401 (a fixture)
from test_triggers import put
from test_triggers_cluster import key_file, known_everywhere  # noqa: F401 (a fixture)

pytestmark = pytest.mark.timeout(180)

MARK = "xyzzy-plugh-7041"
LOOK = ('d=$AGENT_SECRETS_DIR; for f in $(ls $d); do stat -c "%n %a %u:%g" $d/$f; cat $d/$f; echo; '
        'done; grep " $d " /proc/mounts; ulimit -c; '
        'for f in $d/* $d; do chmod 777 $f; done 2>/dev/null && echo CHMOD; '
        '(echo x > $d/new) 2>/dev/null && echo NEW; (echo x >> $d/db) 2>/dev/null && echo APPEND; '
        'rm -f $d/db 2>/dev/null && echo RM; env | grep -c "xyzzy-plugh-704[1]"; true')


def on_disk(node):
    """Files that hold the mark."""
    return [str(f) for f in node.data.rglob("*")
            if f.is_file() and not f.is_symlink() and MARK.encode() in f.read_bytes()]


def in_answers(node, job, run):
    paths = ["/v1/secrets", "/v1/status", "/v1/triggers", "/v1/table?type=secret", "/metrics",
             f"/v1/jobs/{job}", f"/v1/runs/{run}", f"/v1/runs/{run}/placement",
             f"/v1/runs/{run}/logs", "/v1/table"]
    return [p for p in paths if MARK.encode() in node.http("GET", p).body]


def run_of(node, job):
    run = node.http("POST", f"/v1/jobs/{job}/runs", b"").json()["id"]
    return node.wait_run(run)


@pytest.fixture(params=["prepared", "built"])
def seen(request, make_node, image_tar):
    prepared = {} if request.param == "prepared" else {"sandbox__prepared": "none"}
    node = make_node(node__slots=2, **prepared)
    node.cli("push", image_tar)
    node.cli("secret", "set", "db", stdin=MARK.encode())
    node.cli("secret", "set", "tls-key", stdin=b"line 1\n" + os.urandom(25000).hex().encode())
    node.prepares = request.param == "prepared"
    return node


@pytest.mark.parametrize("user", ["0", "1000:1001"])
def test_a_run_reads_its_secrets(seen, user):
    put(seen, "reads", LOOK, secrets={"db": "db", "tls-key": "key.pem"}, user=user)
    uid, gid = user.split(":") if ":" in user else (user, "0")
    starts = set()
    for _ in range(30 if seen.prepares else 2):
        run = run_of(seen, "reads")
        assert run["state"] == "succeeded", run
        out = seen.http("GET", f"/v1/runs/{run['id']}/output").body.decode().splitlines()
        assert out[0] == f"/run/agent/secrets/db 400 {uid}:{gid}"
        assert out[1] == MARK
        assert out[2] == f"/run/agent/secrets/key.pem 400 {uid}:{gid}"
        assert out[3] == "line 1" and len(out[4]) == 50000
        mount = out[5].split()
        assert mount[1:3] == ["/run/agent/secrets", "tmpfs"]
        assert {"ro", "nosuid", "nodev", "noexec"} <= set(mount[3].split(","))
        # No core dump in a file, none piped to the host; nothing there can be changed.
        assert out[6] in ("0", "1") and out[7:] == ["0"], out[6:]
        starts.add(run["start_kind"])
        if "warm" in starts:
            break
        time.sleep(0.2)
    assert ("warm" in starts) == seen.prepares, starts
    # What a run printed is in its output; no other run's, and nothing of the agent's, has it.
    silent = put(seen, "silent", "wc -c $AGENT_SECRETS_DIR/db", secrets=["db"], user=user)
    assert silent["secrets"] == ["db"]
    run = run_of(seen, "silent")
    out = seen.http("GET", f"/v1/runs/{run['id']}/output").body
    assert out == b"%d /run/agent/secrets/db\n" % len(MARK)
    found = on_disk(seen)
    assert all("/runs/" in f and f.endswith("/stdout") and run["id"] not in f for f in found), found
    assert in_answers(seen, "silent", run["id"]) == []
    assert MARK not in seen.log()


def test_what_a_run_leaves(seen):
    """While it runs and after: not on disk, not in the launcher's or the agent's open files."""
    put(seen, "sleeps", "cat $AGENT_SECRETS_DIR/db >/dev/null; echo ready; sleep 60",
        secrets=["db"])
    run = seen.http("POST", "/v1/jobs/sleeps/runs", b"").json()["id"]

    def ready():
        """the run is ready"""
        return b"ready" in seen.http("GET", f"/v1/runs/{run}/output").body
    wait_for(ready, 20)
    assert on_disk(seen) == []
    for pid in (seen.process.pid, seen.agent_pid()):
        for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(fd)
            except OSError:
                continue
            assert "memfd:secrets" not in target and "/run/agent/secrets" not in target, target
    seen.cli("cancel", run)
    seen.wait_run(run)
    assert on_disk(seen) == []


def test_a_run_without_secrets_has_no_directory(seen):
    put(seen, "none", 'echo "[$AGENT_SECRETS_DIR]"; ls /run/agent')
    run = run_of(seen, "none")
    assert seen.http("GET", f"/v1/runs/{run['id']}/output").body == b"[]\npayload\nretry-after\n"


def test_a_secret_that_is_not_there(seen):
    put(seen, "misses", "echo started", secrets=["db", "nothing"],
        retries={"max": 3, "delay": "10ms"})
    run = run_of(seen, "misses")
    assert run["state"] == "failed" and run["reason"] == "secret", run
    assert "'nothing'" in run["detail"] and run["attempt"] == 1 and run["started_at"] is None, run
    assert MARK not in json.dumps(run)


def test_documents_that_cannot_be(seen):
    def fields(**doc):
        r = put(seen, "bad", status=(422,), **doc)
        return [e["field"] for e in r["errors"]]
    assert fields(secrets="db") == ["secrets"]
    assert fields(secrets=["a/b"]) == ["secrets[0]"]
    assert fields(secrets=["db", ".."]) == ["secrets[1]"]
    assert fields(secrets={"db": "x", "tls-key": "x"}) == ["secrets[1]"]
    assert fields(secrets=[f"s{i}" for i in range(17)]) == ["secrets"]
    # Who may submit, but not define jobs, cannot have other words run over them.
    r = seen.http("POST", "/v1/runs", {"image": "lab/busybox:1", "secrets": ["db"]})
    assert r.status == 422 and r.json()["errors"][0]["field"] == "secrets"


def test_a_peer_runs_it(own_cluster, key_file):  # noqa: F811
    """The entry node has no slot for it: another node opens the secret itself."""
    c = own_cluster(secrets__key_file=key_file, sandbox__prepared="none")
    c["alpha"].cli("secret", "set", "db", stdin=MARK.encode())
    put(c["beta"], "far", "cat $AGENT_SECRETS_DIR/db >/dev/null && echo has it; sleep 1",
        secrets=["db"])
    known_everywhere(c, "far")
    nodes = set()
    for _ in range(4):
        ids = [c["alpha"].http("POST", "/v1/jobs/far/runs", b"").json()["id"] for _ in range(12)]
        for run in ids:
            end = c["alpha"].wait_run(run)
            assert end["state"] == "succeeded", end
            assert c["alpha"].http("GET", f"/v1/runs/{run}/output").body == b"has it\n"
            nodes.add(end["node"])
        if nodes - {"alpha"}:
            break
    assert nodes - {"alpha"}, nodes
    for node in c:
        assert on_disk(node) == [] and MARK not in node.log()
