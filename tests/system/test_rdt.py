"""Cache use and memory bandwidth of runs, and classes of service, on an emulated resctrl."""
import json
import os
import pathlib
import sys
import time

import faults
import pytest
from conftest import wait_for
from faults import shell, trigger

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import resctrl_fs  # noqa: E402

MIB = 1024 * 1024
LOOP = "i=0; while [ $i -lt {n} ]; do i=$((i+1)); done; "

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")


@pytest.fixture
def emulate(tmp_path):
    made = []

    def make(**options):
        d = tmp_path / f"emulator{len(made)}"
        d.mkdir(mode=0o755)
        # Down to it for everybody: the emulated files are read by an unprivileged process.
        for above in d.parents:
            if above.owner() == "root" and str(above).startswith("/tmp/"):
                above.chmod(above.stat().st_mode | 0o011)
        made.append(resctrl_fs.Emulator(d, **options))
        return made[-1]
    yield make
    for e in made:
        e.stop()


@pytest.fixture
def rdt_node(make_node, image_tar):
    def make(emulator, **settings):
        values = {"node__slots": 2, "telemetry__resctrl_path": emulator.path,
                  "telemetry__interval": "100ms", **settings}
        node = make_node(**values)
        node.cli("push", image_tar)
        return node
    return make


def own(emulator, at=""):
    """Names of groups that are the agent's."""
    return sorted(x.name for x in (emulator.path / at).iterdir() if x.name.startswith("agent"))


def samples(node, run_id):
    r = node.http("GET", f"/v1/runs/{run_id}/samples")
    assert r.status == 200, r.body
    return json.loads(r.body)["samples"]


def metrics(node):
    return node.http("GET", "/metrics").body.decode()


def used(node, script, **fields):
    faults.put_job(node, "job", dict(shell(script), **fields))
    run = node.wait_run(trigger(node, "job"))
    assert run["state"] == "succeeded", run
    return run


def test_a_run_is_measured(emulate, rdt_node):
    e = emulate()
    e.rules(loads=[{"match": "loads-the-cache", "working_set": 8 * MIB, "stream": 1_000_000}])
    node = rdt_node(e)
    run = used(node, ": loads-the-cache; sleep 3; true")
    r = run["resources"]
    # Half a second is the model's time constant; all of the 8 MiB fit.
    assert 6 * MIB < r["cache_max_bytes"] <= 8 * MIB
    assert 3 * MIB < r["cache_mean_bytes"] < r["cache_max_bytes"]
    seconds = 3
    assert 0.7 * seconds * 64e6 < r["memory_bandwidth_bytes"] < 4 * seconds * 64e6
    assert r["cache_class"] == "default"
    shown = samples(node, run["id"])
    assert any(s.get("cache_bytes", 0) > 4 * MIB for s in shown)
    moved = [s["memory_bandwidth_bytes"] for s in shown if "memory_bandwidth_bytes" in s]
    assert moved == sorted(moved) and moved[-1] > 0
    # What the run before left in the cache is not this run's: nothing of the first 0.2 s is told.
    assert all("cache_bytes" not in s for s in shown if s["t"] < 0.2)
    assert "cache" in node.cli("inspect", run["id"]).stdout.decode()
    p = node.http("GET", "/v1/profiles/job").json()
    assert p["cache"]["max_bytes"] > 6 * MIB and p["cache"]["bandwidth_bytes"] > 0
    assert "agent_rdt_rmids_free" in metrics(node)


def test_every_process_is_in_the_group_before_exec(emulate, rdt_node):
    """Built when the run came, and built ahead: both its processes were moved while they still were
    the agent's program, and the next run uses a group again."""
    e = emulate()
    node = rdt_node(e)
    kinds = set()
    for i in range(4):
        before = len(e.journal(op="task"))
        run = used(node, f"echo {i}")
        kinds.add(run["start_kind"])
        moves = e.journal(op="task")[before:]
        assert len(moves) == 2 and len({m["pid"] for m in moves}) == 2, moves
        assert len({m["group"] for m in moves}) == 1
        assert all(m["group"].startswith("/mon_groups/agent-") for m in moves)
        assert all(m["command"] == "init" for m in moves), moves
        time.sleep(0.3)  # for one to be built ahead
    assert "warm" in kinds and len(kinds) > 1, kinds
    assert not e.journal(op="rmdir")


def test_a_live_run_shows_what_it_holds(emulate, rdt_node):
    e = emulate()
    e.rules(loads=[{"match": "holds", "working_set": 4 * MIB, "stream": 500_000}])
    node = rdt_node(e)
    faults.put_job(node, "holder", shell(": holds; sleep 60; true"))
    run_id = trigger(node, "holder")

    def shown():
        """metrics show the live run"""
        for line in metrics(node).splitlines():
            if line.startswith('container_llc_occupancy_bytes{job="holder"}'):
                return float(line.split()[-1]) > 2 * MIB
        return False
    wait_for(shown)
    assert "container_memory_bandwidth_bytes_total" in metrics(node)
    # Both processes, the shell and its child, and nothing else.
    group = e.journal(op="task")[-1]["group"].lstrip("/")
    assert len(e.read(f"{group}/tasks").split()) == 3
    node.http("POST", f"/v1/runs/{run_id}/cancel")
    assert node.wait_run(run_id)["state"] == "cancelled"
    assert e.read(f"{group}/tasks") == ""


def test_leftovers_go_and_others_stay(emulate, rdt_node):
    e = emulate()
    node = rdt_node(e)
    used(node, "echo once")
    prefix = own(e, "mon_groups")[0].rpartition(".")[0]
    node.kill()
    for d in (f"{prefix}.sensitive", f"{prefix}.old", "COS1", "agent-ffffffff.0"):
        (e.path / d).mkdir()
    for d in (f"{prefix}.1023", f"{prefix}.x", "theirs", f"{prefix}0.1"):
        (e.path / "mon_groups" / d).mkdir()
    (e.path / "COS1" / "mon_groups" / f"{prefix}.0").mkdir()
    node.start()
    used(node, "echo again")
    there, mon = own(e), own(e, "mon_groups")
    assert f"{prefix}.old" not in there
    assert "agent-ffffffff.0" in there and (e.path / "COS1").is_dir()
    assert (e.path / "COS1" / "mon_groups" / f"{prefix}.0").is_dir()
    assert f"{prefix}.1023" not in mon and f"{prefix}.x" not in mon
    assert (e.path / "mon_groups" / "theirs").is_dir() and f"{prefix}0.1" in mon
    assert node.stop() == 0
    # At its own end nothing of it stays.
    assert [x for x in own(e, "mon_groups") if x.startswith(prefix + ".")] == []
    assert [x for x in own(e) if x.startswith(prefix + ".")] == []


def test_a_run_that_outlives_the_launcher_stays_measured(emulate, rdt_node):
    e = emulate()
    e.rules(loads=[{"match": "outlives", "working_set": 4 * MIB, "stream": 1_000_000}])
    node = rdt_node(e)
    faults.put_job(node, "job", shell(": outlives; sleep 4; true"))
    run_id = trigger(node, "job")
    wait_for(lambda: node.run(run_id)["state"] == "running")
    group = e.journal(op="task")[-1]["group"].lstrip("/")
    node.kill()
    node.start()
    assert len(e.read(f"{group}/tasks").split()) >= 2, "its group was swept"
    run = node.wait_run(run_id)
    assert run["state"] == "succeeded"
    assert run["resources"]["memory_bandwidth_bytes"] > 2 * 64_000_000
    assert run["resources"]["cache_max_bytes"] > 2 * MIB


def test_few_ids(emulate, rdt_node):
    """More runs than groups: they run; those without a group have no cache figures, and the log
    says so once."""
    e = emulate(rmids=6)  # one group for runs
    node = rdt_node(e, node__slots=4)
    faults.put_job(node, "job", shell("sleep 1.5"))
    ids = [trigger(node, "job") for _ in range(4)]
    runs = [node.wait_run(i) for i in ids]
    assert all(r["state"] == "succeeded" for r in runs)
    told = ["memory_bandwidth_bytes" in r["resources"] for r in runs]
    assert any(told) and not all(told)
    assert node.log().count("monitoring groups are in use") == 1
    assert "memory_bandwidth_bytes" in used(node, "echo next")["resources"]


@pytest.mark.parametrize("fault,says", [
    (["ENOSPC", "Out of RMIDs"], "no monitoring id is left (Out of RMIDs)"),
    (["EBUSY", "Out of RMIDs"], "no monitoring id just now (Out of RMIDs)"),
    (["ENOMEM", "Kernel out of memory"], "no monitoring id just now (Kernel out of memory)"),
    (["EPERM"], "make a monitoring group"),
])
def test_no_group_can_be_made(emulate, rdt_node, fault, says):
    e = emulate()
    e.rules(faults={"mkdir": fault})
    node = rdt_node(e)
    for _ in range(3):
        assert "memory_bandwidth_bytes" not in used(node, "echo on")["resources"]
    assert node.log().count(says) == 1, node.log()
    e.rules()
    time.sleep(1.1)  # it is tried again after a second
    assert "memory_bandwidth_bytes" in used(node, "echo better")["resources"]


@pytest.mark.parametrize("fault", [["EPERM", "No permission to move task 7"],
                                   ["EINVAL", "Can't move task to different control group"]])
def test_tasks_that_may_not_be_moved(emulate, rdt_node, fault):
    e = emulate()
    e.rules(faults={"write tasks": fault})
    node = rdt_node(e)
    for _ in range(3):
        assert "memory_bandwidth_bytes" not in used(node, "echo on")["resources"]
    assert node.log().count(fault[1]) == 1
    e.rules()
    assert "memory_bandwidth_bytes" in used(node, "echo better")["resources"]


def test_counters_that_say_no_number(emulate, rdt_node):
    e = emulate()
    node = rdt_node(e)
    for word in ("Unavailable", "Error", "Unassigned", "18446744073709551615", "-5", ""):
        e.rules(counters={"mbm_total_bytes": word, "llc_occupancy": word})
        r = used(node, "sleep 0.5")["resources"]
        assert "memory_bandwidth_bytes" not in r and "cache_max_bytes" not in r, word
    e.rules(counters={"mbm_total_bytes": "Unavailable"})
    r = used(node, "sleep 0.5")["resources"]
    assert "memory_bandwidth_bytes" not in r and "cache_max_bytes" in r


def test_it_goes_away_and_comes_back(emulate, rdt_node):
    e = emulate()
    node = rdt_node(e)
    faults.put_job(node, "long", shell("sleep 2"))
    run_id = trigger(node, "long")
    wait_for(lambda: node.run(run_id)["state"] == "running")
    e.rules(abort=True)
    e.process.wait(20) if e.read_fails() else None
    used(node, "echo on")
    assert node.wait_run(run_id)["state"] == "succeeded"
    used(node, "echo still")
    assert node.log().count("is gone") == 1, node.log()
    assert node.http("GET", "/healthz").status == 200


def test_a_group_that_somebody_removed(emulate, rdt_node):
    e = emulate()
    node = rdt_node(e)
    used(node, "echo one")
    for x in own(e, "mon_groups"):
        (e.path / "mon_groups" / x).rmdir()
    assert "memory_bandwidth_bytes" in used(node, "echo two")["resources"]


def class_of(node, job="job"):
    return node.http("GET", f"/v1/profiles/{job}").json()["cache"]["class"]


def streaming(node):
    """A job that moves much memory for its processor time, until its class is known."""
    faults.put_job(node, "job", shell(": streams; sleep 0.4; true"))
    for i in range(40):
        assert node.wait_run(trigger(node, "job"))["state"] == "succeeded"
        if i >= 8 and class_of(node) == "polluter":
            return
    raise AssertionError(node.http("GET", "/v1/profiles/job").json()["cache"])


# It always holds the same, so that no chance of the machine looks like a gain by cache.
STREAMS = {"loads": [{"match": "streams", "working_set": 4 * MIB, "stream": 50_000_000}],
           "counters": {"llc_occupancy": str(2 * MIB)}}


def test_a_polluter_gets_the_small_class(emulate, rdt_node):
    e = emulate()
    e.rules(**STREAMS)
    node = rdt_node(e)
    streaming(node)
    run = node.wait_run(trigger(node, "job"))
    assert run["limits"]["cache_class"] == "polluter"
    assert run["resources"]["cache_class"] == "polluter"
    assert "memory_bandwidth_bytes" in run["resources"]
    written = e.journal(op="schemata")
    assert [w["text"] for w in written] == ["L3:0=3;1=3\nMB:0=50;1=50\n"]
    assert written[0]["group"].endswith(".polluter")
    # First the class, then a group in it; both processes, both before exec.
    moves = e.journal(op="task")[-4:]
    assert [m["group"] for m in moves[:2]] == [written[0]["group"]] * 2
    assert all(m["group"].startswith(written[0]["group"] + "/mon_groups/") for m in moves[2:])
    assert all(m["command"] == "init" for m in moves)
    assert "class polluter" in node.cli("profile", "job").stdout.decode()
    why = node.http("GET", f"/v1/runs/{run['id']}/placement").json()
    assert why["cache_class"] == "polluter"
    assert "class polluter" in node.cli("inspect", run["id"]).stdout.decode()
    # The root group is as it was.
    assert e.read("schemata").split() == ["MB:0=100;1=100", "L3:0=7ff;1=7ff"]
    assert node.stop() == 0
    assert own(e) == [] and own(e, "mon_groups") == []


def test_a_job_that_gains_by_cache_gets_the_large_class(emulate, rdt_node):
    """Runs that held eight times the cache took half the time."""
    e = emulate()
    e.rules(loads=[{"match": "slow 0.9", "working_set": MIB},
                   {"match": "slow 0.4", "working_set": 8 * MIB}])
    node = rdt_node(e)
    faults.put_job(node, "job", shell('x=$(cat); exec sh -c ": slow $x; sleep $x; true"'))
    for i in range(30):
        run = node.wait_run(trigger(node, "job", b"0.9" if i % 2 else b"0.4"))
        assert run["state"] == "succeeded"
        if i >= 8 and class_of(node) == "sensitive":
            break
    p = node.http("GET", "/v1/profiles/job").json()["cache"]
    assert p["class"] == "sensitive" and p["elasticity"] > 0.1, p
    run = node.wait_run(trigger(node, "job", b"0.4"))
    assert run["resources"]["cache_class"] == "sensitive"
    assert e.journal(op="schemata")[-1]["text"] == "L3:0=1fc;1=1fc\n"


def test_code_and_data_apart(emulate, rdt_node):
    """Mounted with -o cdp and mba_MBps: both lines, and no bandwidth in percent."""
    e = emulate(cdp=True, mba_mbps=True)
    e.rules(**STREAMS)
    node = rdt_node(e)
    streaming(node)
    run = node.wait_run(trigger(node, "job"))
    assert run["resources"]["cache_class"] == "polluter"
    assert [w["text"] for w in e.journal(op="schemata")] == ["L3CODE:0=3;1=3\nL3DATA:0=3;1=3\n"]


@pytest.mark.parametrize("options,fault,says", [
    ({"closids": 3}, None, "Out of CLOSIDs"),
    ({}, ["EINVAL", "Overlaps with exclusive group"], "Overlaps with exclusive group"),
    ({}, ["EINVAL", "Need at least 4 bits in the mask"], "Need at least 4 bits in the mask"),
])
def test_a_class_that_is_refused(emulate, rdt_node, options, fault, says):
    """Its runs are in the default class, measured all the same; the log says it once."""
    e = emulate(**options)
    e.rules(**STREAMS, faults={"write schemata": fault} if fault else {})
    if not fault:
        (e.path / "COS1").mkdir()
        (e.path / "COS2").mkdir()
    node = rdt_node(e)
    streaming(node)
    for _ in range(2):
        run = node.wait_run(trigger(node, "job"))
        assert run["limits"]["cache_class"] == "polluter"
        assert run["resources"]["cache_class"] == "default"
        assert "memory_bandwidth_bytes" in run["resources"]
    assert node.log().count(says) == 1, node.log()
    assert own(e) == []


def test_without_it_one_line(make_node, image_tar):
    node = make_node(node__slots=2)
    node.cli("push", image_tar)
    run = used(node, "echo plain")
    assert "cache_max_bytes" not in run["resources"]
    assert sum("resctrl" in line for line in node.log().splitlines()) == 1
    assert "agent_rdt_rmids_free" not in metrics(node)
