"""Replicated runs: what one node accepted, others know; when it dies, they go on with it.

The node that accepts is gamma; where a run goes is the tests' choice (node.name)."""
import json
import os
import signal
import sqlite3
import threading
import time

import pytest

import faults
from conftest import ENDED, wait_for
from faults import output, shell
from test_cluster import Cluster, await_state

NAMES = ("alpha", "beta", "gamma")


@pytest.fixture
def cluster(image_tar):
    made = []

    def make(names=NAMES, **settings):
        c = Cluster(names, **settings)
        made.append(c)
        c.whole()
        for node in c:
            node.cli("push", image_tar)
        for name in names:
            for other in names:
                c.settled(c[name], f"node.name={other}")
        return c
    yield make
    for c in made:
        c.close()


def rows(node, query, *args):
    """What the node's store says; read beside the running node."""
    db = sqlite3.connect(f"file:{node.data}/db/agent.db?mode=ro", uri=True, timeout=10)
    try:
        return db.execute(query, args).fetchall()
    finally:
        db.close()


def copies(node):
    """{run id: record} of the copies that a node keeps."""
    records = [json.loads(r[0]) for r in rows(node, "SELECT record FROM copy")]
    return {r["id"]: r for r in records}


def holders(c, run, but="gamma"):
    return [name for name in c.nodes if name != but and c[name].process is not None and
            run in copies(c[name])]


def from_any(c, run, dead=()):
    """The run's record as any living node tells it."""
    for name in c.nodes:
        if name not in dead:
            r = c[name].http("GET", f"/v1/runs/{run}")
            if r.status == 200:
                return r.json()
    return None


def ended(c, ids, dead=(), seconds=60):
    found = {}

    def all_ended():
        """every run has ended"""
        for run in ids:
            if run not in found:
                r = from_any(c, run, dead)
                if r is not None and r["state"] in ENDED:
                    found[run] = r
        return len(found) == len(ids)
    try:
        wait_for(all_ended, seconds, 0.1)
    except AssertionError as e:
        left = {run: from_any(c, run, dead) for run in ids if run not in found}
        logs = "\n".join(f"--- {n}\n{c[n].log()[-3000:]}" for n in c.nodes)
        raise AssertionError(f"{e}\n{json.dumps(left, indent=1)[:3000]}\n{logs}") from None
    return found


# ---- accepting ----

def test_an_accepted_run_is_on_another_node_before_the_answer(cluster):
    c = cluster()
    g = c["gamma"]
    faults.put_job(g, "kept", shell("cat; echo done", require=["node.name=gamma"]))
    small = faults.trigger(g, "kept", b"small payload")
    where = holders(c, small)
    assert len(where) == 1
    record = copies(c[where[0]])[small]
    assert record["payload_bytes"] == 13 and record["epoch"] == 1
    assert rows(c[where[0]], "SELECT payload FROM copy WHERE id = ?",
                bytes.fromhex(ulid_hex(small))) == [(b"small payload",)]
    data = os.urandom(300_000)
    large = faults.trigger(g, "kept", data)
    where = holders(c, large)
    assert len(where) == 1
    assert (c[where[0]].data / "db/copies" / large).read_bytes() == data
    for run in (small, large):
        assert g.wait_run(run)["state"] == "succeeded"

        def told():
            """its holder knows its end"""
            return copies(c[holders(c, run)[0]])[run]["state"] == "succeeded"
        wait_for(told, 10)


def ulid_hex(text):
    value = 0
    for ch in text:
        value = value * 32 + "0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(ch)
    return f"{value:032x}"


def test_record_and_output_are_read_when_their_node_is_gone(cluster):
    c = cluster()
    a, b, g = c
    faults.put_job(g, "said", shell("cat; seq 1 $LINES; echo log >&2", env={"LINES": "20000"},
                                    require=["node.name=gamma"]))
    short = g.http("POST", "/v1/runs", shell("echo short", require=["node.name=gamma"]))
    runs = [faults.trigger(g, "said", b"payload\n"), short.json()["id"]]
    want = [g.wait_run(r) for r in runs]
    assert {r["state"] for r in want} == {"succeeded"}
    outputs = [output(g, r) for r in runs]
    for run in runs:
        def told():
            """its holder has its end and its output"""
            return [n for n in holders(c, run) if copies(c[n])[run]["state"] == "succeeded" and
                    (c[n].data / "db/outputs" / f"{run}.1/exit").exists()]
        wait_for(told, 10)
    faults.kill_all_but_sandboxes(g)

    def gone():
        """gossip has said so"""
        return all(m["state"] == "dead" for n in (a, b) for m in
                   n.http("GET", "/v1/members").json()["members"] if m["name"] == "gamma")
    wait_for(gone, 30)
    for node in (a, b):
        for run, record, data in zip(runs, want, outputs):
            assert node.run(run) == record
            assert output(node, run) == data
        assert faults.log_of(node, runs[0]) == b"log\n"


def test_too_few_nodes(cluster):
    c = cluster(names=("alpha", "beta"), store__replicas_min=2)
    a, b = c
    faults.put_job(a, "two", shell("true"))
    assert a.wait_run(faults.trigger(a, "two"))["state"] == "succeeded"
    faults.kill_all_but_sandboxes(b)

    def refused():
        """it is refused, and says why"""
        r = a.http("POST", "/v1/jobs/two/runs", b"")
        assert r.status in (202, 503), r.body
        return r if r.status == 503 else None
    r = wait_for(refused, 30)
    assert r.json()["code"] == "too_few_replicas" and int(r.headers["Retry-After"]) >= 1
    b.start()

    def taken():
        """it is taken again"""
        return a.http("POST", "/v1/jobs/two/runs", b"").status == 202
    wait_for(taken, 30)


# ---- the owner dies ----

def test_the_owner_dies_and_every_run_ends(cluster):
    c = cluster(node__slots=2)
    g = c["gamma"]
    faults.put_job(g, "on", shell("cat; sleep 1; echo ran on $AGENT_NODE", retries={
        "max": 5, "delay": "0s"}))
    ids = [faults.trigger(g, "on", f"{i}\n".encode()) for i in range(24)]
    time.sleep(0.5)
    faults.kill_all_but_sandboxes(g)
    records = ended(c, ids, dead=("gamma",))
    for i, run in enumerate(ids):
        r = records[run]
        assert r["state"] == "succeeded", r
        assert output(c["alpha"], run).startswith(f"{i}\nran on ".encode())
    queued = [r for r in records.values() if r["epoch"] == 2]
    assert queued, records


def test_a_run_elsewhere_goes_on_under_its_new_owner(cluster):
    c = cluster()
    g = c["gamma"]
    runs = {name: g.http("POST", "/v1/runs", shell(
        "echo begin $AGENT_ATTEMPT; sleep 14; echo end", require=[f"node.name={name}"],
        retries={"max": 3, "delay": "0s"})).json()["id"] for name in ("alpha", "beta")}
    for run in runs.values():
        await_state(g, run, ("running",))

    def told():
        """the holders know that they run"""
        return all(copies(c[n])[run]["state"] == "running"
                   for run in runs.values() for n in holders(c, run))
    wait_for(told, 10)
    faults.kill_all_but_sandboxes(g)
    records = ended(c, list(runs.values()), dead=("gamma",))
    for name, run in runs.items():
        r = records[run]
        # Nothing was executed twice: the attempt that ran is the one that ended.
        assert (r["state"], r["attempt"], r["node"], r["epoch"]) == ("succeeded", 1, name, 2), r
        for reader in ("alpha", "beta"):
            assert output(c[reader], run) == b"begin 1\nend\n"


def test_the_owner_comes_back_and_learns_that_it_is_not_the_owner(cluster):
    c = cluster(node__slots=1)
    a, b, g = c
    faults.put_job(g, "back", shell("sleep 0.5; echo $AGENT_ATTEMPT", retries={
        "max": 5, "delay": "0s"}))
    ids = [faults.trigger(g, "back") for _ in range(10)]
    faults.kill_all_but_sandboxes(g)

    def taken():
        """others have taken the runs over"""
        return sum(len(rows(n, "SELECT 1 FROM run WHERE id IN (%s)" % ",".join(
            f"x'{ulid_hex(i)}'" for i in ids))) for n in (a, b)) >= 1
    wait_for(taken, 40)
    g.start()
    records = ended(c, ids, seconds=90)
    assert {r["state"] for r in records.values()} == {"succeeded"}

    def agreed():
        """every node tells the same of every run, once"""
        owners = {i: [n.settings["node.name"] for n in c if rows(
            n, "SELECT 1 FROM run WHERE id = ?", bytes.fromhex(ulid_hex(i)))] for i in ids}
        return all(len(o) == 1 for o in owners.values()) and all(
            n.run(i)["state"] == "succeeded" and n.run(i)["epoch"] == records[i]["epoch"]
            for n in c for i in ids)
    wait_for(agreed, 30)

    def cleared():
        """nothing is left of what the node gave up"""
        mine = {i for i in ids if rows(g, "SELECT 1 FROM run WHERE id = ?",
                                       bytes.fromhex(ulid_hex(i)))}
        return set(faults.run_dirs(g)) & set(ids) <= mine
    wait_for(cleared, 30)


# ---- claims ----

def test_the_same_key_at_two_nodes_is_one_run(cluster):
    c = cluster()
    a, b, g = c
    faults.put_job(g, "once", shell("true"))

    def known():
        """the job is everywhere"""
        return all(n.http("GET", "/v1/jobs/once").status == 200 for n in c)
    wait_for(known, 10)
    for i in range(10):
        got = {}

        def submit(node):
            got[node.settings["node.name"]] = faults.trigger(node, "once", b"x", key=f"key {i}")
        threads = [threading.Thread(target=submit, args=(n,)) for n in c]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert len(got) == 3 and len(set(got.values())) == 1, got
        r = a.http("POST", "/v1/jobs/once/runs", b"another body", {"Idempotency-Key": f"key {i}"})
        assert (r.status, r.json()["code"]) == (422, "idempotency_key_reused")


# ---- splits ----

def test_a_split_heals_and_one_record_stands(cluster):
    """gamma's agent is stopped for so long that the others go on without it, and then goes on
    itself as if nothing had been."""
    c = cluster(node__slots=2)
    a, b, g = c
    faults.put_job(g, "split", shell("sleep 2; echo $AGENT_NODE", retries={
        "max": 5, "delay": "0s"}))
    ids = [faults.trigger(g, "split") for _ in range(12)]
    pid = g.agent_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        def taken():
            """others go on with its runs"""
            return sum(len(rows(n, "SELECT 1 FROM run WHERE id = ?",
                                bytes.fromhex(ulid_hex(i)))) for n in (a, b) for i in ids) >= 6
        wait_for(taken, 60)
    finally:
        os.kill(pid, signal.SIGCONT)
    ended(c, ids, seconds=90)

    def agreed():
        """one node has each run, and all tell the same of it"""
        for i in ids:
            have = [n for n in c if rows(n, "SELECT 1 FROM run WHERE id = ?",
                                         bytes.fromhex(ulid_hex(i)))]
            told = [n.run(i) for n in c]
            if len(have) != 1 or len({json.dumps({k: v for k, v in t.items() if k != "merged"})
                                      for t in told}) != 1 or told[0]["state"] != "succeeded":
                return False
        return True
    try:
        wait_for(agreed, 40, 0.2)
    except AssertionError as e:
        left = [[n.run(i) for n in c] for i in ids]
        raise AssertionError(f"{e}\n{json.dumps(left)[:4000]}\n{g.log()[-3000:]}") from None
