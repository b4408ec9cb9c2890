"""Kill -9 of every part, at every stage of a run: what was accepted is there and ends once, whole.

The random test prints its seed and takes one: FAULTS_SEED=n, FAULTS_KILLS=n.
"""
import os
import random
import signal
import threading
import time

import pytest

import faults
from conftest import ENDED, wait_for
from faults import STREAM, STREAM_LOG, STREAM_OUTPUT, shell, trigger

IMAGE = "lab/busybox:1"


@pytest.fixture
def busy(make_node, image_tar):
    """A node with four slots and the image."""
    node = make_node(node__slots=4)
    node.cli("push", image_tar)
    return node


def restart(node, kill):
    """Kills, and has the node back: by its own launcher or by a new start."""
    kill(node)
    if node.process.poll() is None:
        node.wait_ready()
    else:
        node.start()


def wait_state(node, run, *states):
    def there():
        """the run is in the state"""
        return node.run(run)["state"] in states
    wait_for(there, 20)


def assert_whole(node, run, record):
    assert (record["state"], record["reason"], record["exit_code"]) == ("failed", "exit", 7), record
    assert record["attempt"] == 1, record
    out = faults.output(node, run)
    assert len(out) == len(STREAM_OUTPUT) and out == STREAM_OUTPUT
    assert record["output_bytes"] == len(STREAM_OUTPUT)
    assert faults.log_of(node, run) == STREAM_LOG


KILLS = [faults.kill_agent, faults.kill_launcher, faults.kill_both, faults.kill_all_but_sandboxes]


@pytest.mark.parametrize("kill", KILLS, ids=lambda k: k.__name__)
def test_what_runs_and_what_waits_outlives_a_kill(busy, kill):
    faults.put_job(busy, "stream", shell(STREAM))
    faults.put_job(busy, "echo", shell("cat"))
    running = [trigger(busy, "stream") for _ in range(4)]
    for run in running:
        # On a slow machine the first may be over before the last is seen to run.
        wait_state(busy, run, "running", "failed")
    waiting = [trigger(busy, "echo", f"payload {i}".encode()) for i in range(20)]
    restart(busy, kill)
    for run in running:
        assert_whole(busy, run, busy.wait_run(run))
    for i, run in enumerate(waiting):
        record = busy.wait_run(run)
        assert record["state"] == "succeeded" and record["attempt"] == 1, record
        assert faults.output(busy, run) == f"payload {i}".encode()
    assert faults.run_dirs(busy) == {run: [1] for run in running + waiting}
    assert busy.stop() == 0
    faults.assert_nothing_left(busy)


def test_an_end_during_the_outage_is_read_from_its_record(busy):
    faults.put_job(busy, "stream", shell(STREAM))
    runs = [trigger(busy, "stream") for _ in range(3)]
    for run in runs:
        wait_state(busy, run, "running")
    faults.kill_both(busy)

    def over():
        """the sandboxes ended by themselves"""
        return not faults.sandbox_pids(busy)
    wait_for(over, 30)
    busy.start()
    for run in runs:
        record = busy.wait_run(run)
        assert_whole(busy, run, record)
        # Its own times and totals, not those of the restart.
        assert 1 < record["run_seconds"] < 20, record
        assert record["resources"]["cpu_seconds"] > 0, record


def test_a_sandbox_that_died_during_the_outage_is_lost_or_tried_again(busy):
    faults.put_job(busy, "once", shell("sleep 30"))
    faults.put_job(busy, "again", shell("test $AGENT_ATTEMPT = 2 || sleep 30; echo two",
                                        retries={"max": 2, "delay": "0s"}))
    once, again = trigger(busy, "once"), trigger(busy, "again")
    wait_state(busy, once, "running")
    wait_state(busy, again, "running")
    boxes = faults.sandbox_pids(busy)
    assert len(boxes) == 2
    faults.kill_both(busy)
    for pid in boxes:
        os.kill(pid, signal.SIGKILL)
        faults.await_death(pid)
    busy.start()
    record = busy.wait_run(once)
    assert (record["state"], record["reason"]) == ("lost", "node_lost"), record
    record = busy.wait_run(again)
    assert (record["state"], record["attempt"]) == ("succeeded", 2), record
    assert faults.output(busy, again) == b"two\n"
    assert busy.stop() == 0
    faults.assert_nothing_left(busy)


def test_a_cancel_survives_the_kill(busy):
    faults.put_job(busy, "deaf", shell("trap '' TERM; sleep 60 & wait; wait", grace="2s"))
    run = trigger(busy, "deaf")
    wait_state(busy, run, "running")
    assert busy.http("POST", f"/v1/runs/{run}/cancel").status in (200, 202)
    restart(busy, faults.kill_both)
    record = busy.wait_run(run, 30)
    assert record["state"] == "cancelled", record


def test_a_timeout_holds_while_nobody_is_there(busy):
    faults.put_job(busy, "slow", shell("echo here; sleep 60", timeout="2s", grace="1s"))
    run = trigger(busy, "slow")
    wait_state(busy, run, "running")
    faults.kill_both(busy)

    def over():
        """the deadline ended the sandbox"""
        return not faults.sandbox_pids(busy)
    wait_for(over, 15)
    busy.start()
    record = busy.wait_run(run)
    assert record["state"] == "timed_out" and record["run_seconds"] < 10, record
    assert faults.output(busy, run) == b"here\n"


def test_an_idempotency_key_holds_across_restarts(busy):
    faults.put_job(busy, "echo", shell("cat"))
    first = trigger(busy, "echo", b"x", key="k1")
    for kill in KILLS:
        restart(busy, kill)
        r = busy.http("POST", "/v1/jobs/echo/runs", b"x",
                      {"Idempotency-Key": "k1", "Content-Type": "application/octet-stream"})
        assert r.status == 202 and r.json()["id"] == first, r.body
        assert r.headers["Idempotency-Replayed"] == "true"
        r = busy.http("POST", "/v1/jobs/echo/runs", b"other",
                      {"Idempotency-Key": "k1", "Content-Type": "application/octet-stream"})
        assert r.status == 422 and r.json()["code"] == "idempotency_key_reused"
    busy.wait_run(first)
    assert faults.run_dirs(busy) == {first: [1]}


# ---- at random ----

JOBS = {
    "quick": (shell("echo hello"), b"hello\n", 0),
    "three": (shell("echo three; exit 3"), b"three\n", 3),
    "echo": (shell("cat; sleep 0.3"), None, 0),
    "stream": (shell(STREAM), STREAM_OUTPUT, 7),
    "again": (shell("sleep 0.5; echo done", retries={"max": 20, "delay": "0s"}), b"done\n", 0),
}


class Client(threading.Thread):
    """Submits all the time, each run with a key, and keeps what was accepted."""

    def __init__(self, node, seed):
        super().__init__(daemon=True)
        self.node, self.random, self.seed = node, random.Random(seed), seed
        self.accepted = {}  # id: (job, payload)
        self.enough = threading.Event()
        self.error = None

    def run(self):
        n = 0
        try:
            while not self.enough.is_set():
                n += 1
                job = self.random.choice(list(JOBS))
                payload = self.random.randbytes(self.random.randrange(200_000)) \
                    if job == "echo" else b""
                run = trigger(self.node, job, payload, key=f"{self.seed}-{n}", tries=1000)
                assert run not in self.accepted, f"{run} answers two keys"
                self.accepted[run] = (job, payload)
                time.sleep(self.random.random() * 0.2)
        except BaseException as e:
            self.error = e


def kill_a_sandbox(node, chance):
    boxes = faults.sandbox_pids(node)
    if boxes:
        try:
            os.kill(chance.choice(boxes), signal.SIGKILL)
        except ProcessLookupError:
            pass


class Checker:
    """What must hold of all records, seen again and again: an end never changes."""

    def __init__(self, node):
        self.node, self.ended = node, {}

    def look(self, ids):
        for run in ids:
            record = self.node.run(run)  # 200: it is there
            if run in self.ended:
                assert record == self.ended[run], f"an end changed: {self.ended[run]} -> {record}"
            elif record["state"] in ENDED:
                self.ended[run] = record

    def judge(self, accepted):
        """Counts by outcome, after all have ended."""
        counts = {}
        dirs = faults.run_dirs(self.node)
        assert set(dirs) <= set(accepted), f"nobody's: {set(dirs) - set(accepted)}"
        for run, (job, payload) in accepted.items():
            record = self.ended[run]
            document, expected, code = JOBS[job]
            assert record["job"] == job
            counts[record["reason"]] = counts.get(record["reason"], 0) + 1
            assert max(dirs[run]) <= record["attempt"], (dirs[run], record)
            if record["reason"] == "node_lost":
                assert record["state"] == "lost" and "retries" not in document, record
                continue
            assert record["reason"] == "exit" and record["exit_code"] == code, record
            assert record["state"] == ("failed" if code else "succeeded"), record
            assert record["attempt"] == 1 or "retries" in document, record
            out = faults.output(self.node, run)
            assert out == (payload if expected is None else expected), (record, len(out))
            assert record["output_bytes"] == len(out)
            if job == "stream":
                assert faults.log_of(self.node, run) == STREAM_LOG
        return counts


@pytest.mark.timeout(300)
def test_at_random(busy):
    seed = int(os.environ.get("FAULTS_SEED", 0)) or random.SystemRandom().randrange(1, 2**31)
    kills = int(os.environ.get("FAULTS_KILLS", 24))
    print(f"FAULTS_SEED={seed} FAULTS_KILLS={kills}")
    chance = random.Random(seed)
    for name, (document, _, _) in JOBS.items():
        faults.put_job(busy, name, document)
    clients = [Client(busy, seed + i) for i in range(2)]
    checker = Checker(busy)
    lost_may_be = 0
    for c in clients:
        c.start()
    try:
        for _ in range(kills):
            time.sleep(chance.random() * 0.8)
            kill = chance.choice([*KILLS, None])
            if kill is None:
                kill_a_sandbox(busy, chance)
                lost_may_be += 1
                continue
            restart(busy, kill)
            if kill is not faults.kill_agent:
                lost_may_be += 4  # whose set-up was under way: nobody knows whether they began
            checker.look([i for c in clients for i in list(c.accepted)][-40:])
    finally:
        for c in clients:
            c.enough.set()
    for c in clients:
        c.join(60)
        assert not c.is_alive() and c.error is None, f"{c.error!r}\n{busy.log()[-3000:]}"
    accepted = {k: v for c in clients for k, v in c.accepted.items()}
    for run in accepted:
        busy.wait_run(run, 120)
    restart(busy, faults.kill_both)
    checker.look(accepted)
    checker.look(accepted)
    counts = checker.judge(accepted)
    print(f"kills {kills}, runs {len(accepted)}, ends {counts}")
    assert counts.get("node_lost", 0) <= lost_may_be
    assert counts["exit"] > len(accepted) / 2, counts
    assert busy.stop() == 0
    faults.assert_nothing_left(busy)
