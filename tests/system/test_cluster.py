"""Real nodes as one cluster: any node accepts, another executes, everybody can tell.

Where a run goes is the tests' choice: a requirement of node.name."""
import json
import os
import signal
import subprocess
import threading
import time

import pytest

import faults
from conftest import AGENT, ENDED, TOP, Node, wait_for
from faults import log_of, output, shell

NAMES = ("alpha", "beta", "gamma")


class Cluster:
    def __init__(self, names=NAMES, **settings):
        self.nodes = {}
        for name in names:
            self.add(name, **settings)

    def add(self, name, **settings):
        node = Node(node__name=name, gossip__profile="local",
                    **{"node__slots": 2, "sandbox__grace": "1s", **settings})
        if self.nodes:
            first = next(iter(self.nodes.values()))
            node.settings["gossip.join"] = first.settings["gossip.listen"]
        self.nodes[name] = node
        return node.start()

    def __getitem__(self, name):
        return self.nodes[name]

    def __iter__(self):
        return iter(self.nodes.values())

    def whole(self, seconds=20):
        """Every node sees every other one and knows what it is."""
        def seen():
            """every node is in every node's table"""
            for node in self:
                r = node.http("GET", "/v1/nodes").json()
                if sorted(n["name"] for n in r["nodes"] if n["state"] == "alive") != \
                        sorted(self.nodes) or r["partial"]:
                    return False
            return True
        wait_for(seen, seconds, 0.1)

    def settled(self, node, requirement="node.name=gamma"):
        """A run that needs that node is accepted: its row has come."""
        def known():
            """the other node's capabilities are known"""
            r = node.http("POST", "/v1/runs", shell("true", require=[requirement]))
            return r.status == 202
        wait_for(known, 20, 0.1)

    def close(self):
        for node in self:
            node.close()


@pytest.fixture(scope="module")
def cluster(image_tar):
    c = Cluster()
    try:
        c.whole()
        c["alpha"].cli("push", image_tar)
        for name in NAMES:
            for other in NAMES:
                c.settled(c[name], f"node.name={other}")
        yield c
    finally:
        c.close()


@pytest.fixture
def own_cluster(image_tar):
    """One that a test may break."""
    made = []

    def make(**settings):
        c = Cluster(**settings)
        made.append(c)
        c.whole()
        for node in c:
            node.cli("push", image_tar)
        for name in NAMES:
            for other in NAMES:
                c.settled(c[name], f"node.name={other}")
        return c
    yield make
    for c in made:
        c.close()


def start(node, script, where, **fields):
    r = node.http("POST", "/v1/runs", shell(script, require=[f"node.name={where}"], **fields))
    assert r.status == 202, r.body
    return r.json()["id"]


def await_state(node, run, states, seconds=20):
    def there():
        record = node.run(run)
        assert record["state"] not in ENDED or record["state"] in states, record
        return record if record["state"] in states else None
    there.__doc__ = f"the run is {states}"
    try:
        return wait_for(there, seconds)
    except AssertionError as e:
        placement = node.http("GET", f"/v1/runs/{run}/placement").body
        raise AssertionError(f"{e}\n{node.run(run)}\n{placement}\n{node.log()[-2000:]}") from None


# ---- the story: pushed to one, applied on another, triggered on a third ----

def test_push_apply_and_trigger_on_three_nodes(cluster):
    a, b, g = cluster
    faults.put_job(b, "hello", shell("echo from $AGENT_NODE; cat; echo log >&2",
                                     require=["node.name=beta"]))

    def known():
        """the job is known on gamma"""
        return g.http("GET", "/v1/jobs/hello").status == 200
    wait_for(known, 10)
    assert g.http("GET", "/v1/jobs/hello").json()["revision"] == 1
    run = faults.trigger(g, "hello", b"payload\n")
    record = g.wait_run(run)
    assert (record["state"], record["node"], record["entry_node"]) == ("succeeded", "beta", "gamma")
    for node in (a, b, g):  # any node answers for it
        assert node.run(run) == record
        assert output(node, run) == b"from beta\npayload\n"
        assert log_of(node, run) == b"log\n"
        placement = node.http("GET", f"/v1/runs/{run}/placement").json()
        assert placement["node"] == "beta"
        assert {c["node"] for c in placement["candidates"]} == set(NAMES)
        assert run in [r["id"] for r in node.http("GET", "/v1/runs").json()["runs"]]
        assert node.http("GET", f"/v1/runs/{run}/samples").status == 200
    assert run in a.cli("runs", "-q").stdout.decode()
    assert b"from beta" in a.cli("output", run).stdout


def test_a_new_revision_is_everywhere(cluster):
    a, b, _ = cluster
    for i, node in enumerate((a, b, a)):
        faults.put_job(node, "revised", shell(f"echo {i}"))

        def same():
            """every node has this revision"""
            docs = [n.http("GET", "/v1/jobs/revised") for n in cluster]
            return all(d.status == 200 and d.json()["revision"] == i + 1 for d in docs)
        wait_for(same, 10)
    run = faults.trigger(cluster["gamma"], "revised")
    assert cluster["gamma"].wait_run(run)["state"] == "succeeded"
    assert output(a, run) == b"2\n"
    assert a.http("DELETE", "/v1/jobs/revised").status == 204

    def gone():
        """the job is gone everywhere"""
        return all(n.http("GET", "/v1/jobs/revised").status == 404 for n in cluster)
    wait_for(gone, 10)


def test_large_payloads_and_outputs_go_through(cluster):
    _, b, g = cluster
    data = os.urandom(6 * 1024 * 1024)
    faults.put_job(g, "mirror", shell("cat; echo done >&2", require=["node.name=beta"],
                                      memory="64MiB"))
    run = faults.trigger(g, "mirror", data)
    record = g.wait_run(run)
    assert record["node"] == "beta" and record["state"] == "succeeded", record
    assert record["output_bytes"] == len(data)
    assert output(cluster["alpha"], run) == data
    part = b.http("GET", f"/v1/runs/{run}/output", headers={"Range": "bytes=1000-1999"})
    assert (part.status, part.body) == (206, data[1000:2000])

    def cleared():
        """the executor has forgotten its guest"""
        return not os.listdir(b.data / "db/guests") and not os.listdir(b.data / "spool") and \
            run not in faults.run_dirs(b)
    wait_for(cleared, 10)


def test_an_output_is_followed_while_it_is_written(cluster):
    a, _, g = cluster
    run = start(g, "for i in 1 2 3 4; do echo line $i >&2; sleep 0.4; done", "beta")
    seen = []
    p = subprocess.Popen([AGENT, "logs", "-f", run], stdout=subprocess.PIPE,
                         env={**os.environ, "AGENT_ADDR": a.addr})
    for line in p.stdout:
        seen.append((time.monotonic(), line))
    assert p.wait(20) == 0
    assert [line for _, line in seen] == [b"line %d\n" % i for i in (1, 2, 3, 4)]
    assert seen[-1][0] - seen[0][0] > 0.6  # as they came, not all at the end


def test_the_client_waits_and_gets_the_exit_code(cluster):
    p = cluster["gamma"].cli("submit", "--wait", "lab/busybox:1", "--", "sh", "-c",
                             "cat; echo $AGENT_NODE >&2; exit 7", stdin=b"in", check=False)
    assert (p.returncode, p.stdout) == (7, b"in")


def test_a_cancel_reaches_the_executor(cluster):
    a, b, g = cluster
    run = start(g, "trap 'echo stopped; exit 3' TERM; sleep 60 & wait", "beta")
    await_state(g, run, ("running",))
    r = a.http("POST", f"/v1/runs/{run}/cancel")
    assert r.status == 200, r.body
    record = g.wait_run(run, 10)
    assert (record["state"], record["reason"]) == ("cancelled", "cancelled")
    assert output(b, run) == b"stopped\n"


def test_failures_come_home(cluster):
    g = cluster["gamma"]
    run = start(g, "echo x; kill -9 $$", "beta")
    record = g.wait_run(run)
    assert (record["state"], record["reason"], record["signal"]) == ("failed", "signal", 9)
    run = start(g, "sleep 30", "beta", timeout="1s")
    record = g.wait_run(run)
    assert (record["state"], record["reason"]) == ("timed_out", "timeout")
    run = g.http("POST", "/v1/runs", {"image": "lab/busybox:1", "command": ["/not/there"],
                                      "require": ["node.name=beta"]}).json()["id"]
    record = g.wait_run(run)
    assert record["state"] == "failed" and record["node"] == "beta", record


def test_what_no_node_can_take_is_refused(cluster):
    def refused():
        """it is refused for good: the node was up long enough to know everybody"""
        r = cluster["gamma"].http("POST", "/v1/runs", shell("true", require=["node.name=delta"]))
        assert (r.status, r.json()["code"]) in ((422, "no_match"), (503, "starting"))
        return r.status == 422
    wait_for(refused, 30, 0.2)


def test_a_full_node_sends_runs_elsewhere(cluster):
    g = cluster["gamma"]
    ids = [g.http("POST", "/v1/runs", shell("sleep 1.5; echo $AGENT_NODE")).json()["id"]
           for _ in range(6)]
    records = [g.wait_run(i, 60) for i in ids]
    assert {r["state"] for r in records} == {"succeeded"}
    assert {r["node"] for r in records} == set(NAMES)  # two slots each
    for r in records:
        assert output(g, r["id"]).decode().strip() == r["node"]


def test_a_peer_is_asked_before_it_is_chosen(cluster):
    """Whoever gets a run has said just before how busy it is; explain shows it."""
    def chosen_was_asked():
        """the chosen peer answered in time"""
        run = start(cluster["alpha"], "true", "gamma")
        await_state(cluster["alpha"], run, ["succeeded"])
        placement = cluster["alpha"].http("GET", f"/v1/runs/{run}/placement").json()
        gamma, = [c for c in placement["candidates"] if c["node"] == "gamma"]
        assert placement["node"] == "gamma"
        return gamma["probed"] and gamma["age_seconds"] < 1
    wait_for(chosen_was_asked, 30, 0.6)
    run = start(cluster["alpha"], "true", "alpha")
    await_state(cluster["alpha"], run, ["succeeded"])
    placement = cluster["alpha"].http("GET", f"/v1/runs/{run}/placement").json()
    assert placement["node"] == "alpha"  # which needs no asking


def test_status_is_the_same_everywhere(cluster):
    pages = [node.http("GET", "/v1/status").json() for node in cluster]
    for page in pages:
        assert page["cluster"]["nodes"] == page["cluster"]["answered"] == 3
        assert sorted(n["name"] for n in page["nodes"]) == sorted(NAMES)
        assert page["partial"] == []
        assert page["runs"]["succeeded"] == pages[0]["runs"]["succeeded"] > 0
    text = cluster["beta"].cli("status").stdout.decode()
    assert "3 nodes" in text and all(name in text for name in NAMES)
    # Another node's facts, and its draining, from here.
    assert cluster["alpha"].http("GET", "/v1/nodes/gamma").json()["name"] == "gamma"
    assert cluster["alpha"].cli("drain", "gamma").stdout == b"gamma draining\n"
    assert cluster["gamma"].http("GET", "/readyz").status == 503
    assert cluster["alpha"].cli("drain", "gamma", "--resume").stdout == b"gamma alive\n"
    assert cluster["gamma"].http("GET", "/readyz").status == 200


def test_pages_of_runs_cover_the_cluster(cluster):
    every, after = [], ""
    while True:
        page = cluster["alpha"].http("GET", f"/v1/runs?limit=3{after}").json()
        every += [r["id"] for r in page["runs"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert every == sorted(set(every), reverse=True)
    assert {r["entry_node"] for r in
            cluster["beta"].http("GET", "/v1/runs?limit=1000").json()["runs"]} == set(NAMES)


# ---- strangers ----

def test_peers_endpoints_are_for_nodes(cluster):
    a = cluster["alpha"]
    assert a.http("POST", "/v1/peer/probe", b"{}").status == 403
    r = a.http("POST", "/v1/peer/probe", b"{}", {"Agent-Node": "beta"})
    assert r.status == 200 and r.json()["answer"] in ("taken", "busy")
    for body in (b"", b"[]", b"{}", b"{" * 9999, b'{"run":{"id":"x"}}', b"\xff\xfe", b"\0" * 100):
        for what in ("offer", "end", "started", "cancel", "check"):
            r = a.http("POST", f"/v1/peer/{what}", body, {"Agent-Node": "beta"})
            assert r.status == 400, (what, body[:20], r.status, r.body)
    # An end for a run that this peer does not have changes nothing.
    run = start(a, "sleep 2", "alpha")
    await_state(a, run, ("running",))
    assert a.http("PUT", f"/v1/peer/output/{run}?attempt=1&file=stdout", b"forged",
                  {"Agent-Node": "beta"}).status == 409
    assert a.http("GET", f"/v1/peer/payload/{run}", headers={"Agent-Node": "beta"}).status == 404
    assert a.wait_run(run)["state"] == "succeeded"


# ---- faults ----

def test_the_executor_dies_and_the_run_goes_elsewhere(own_cluster):
    c = own_cluster()
    a, b, g = c
    faults.put_job(g, "long", shell("echo begin $AGENT_ATTEMPT; sleep 4; echo end", retries={
        "max": 3, "delay": "0s"}, require=["node.name!=gamma"]))
    run = faults.trigger(g, "long")
    record = await_state(g, run, ("running",))
    dead = c[record["node"]]
    other = a if dead is b else b
    faults.kill_all_but_sandboxes(dead)
    dead.http = None

    def moved():
        """another attempt runs on the other node"""
        r = g.run(run)
        return r["attempt"] == 2 and r["node"] == other.settings["node.name"]
    wait_for(moved, 40)
    record = g.wait_run(run, 60)
    assert (record["state"], record["attempt"]) == ("succeeded", 2)
    assert output(other, run) == b"begin 2\nend\n"
    name = dead.settings["node.name"]
    page = g.http("GET", "/v1/status").json()
    assert [n["state"] for n in page["nodes"] if n["name"] == name] == ["dead"]
    del dead.http
    dead.start()  # it comes back, and what it still had is let go

    def let_go():
        """the old attempt is gone from the node that came back"""
        return not os.listdir(dead.data / "db/guests") and not faults.sandbox_pids(dead)
    wait_for(let_go, 40)
    assert g.run(run)["attempt"] == 2


def test_the_executors_agent_restarts_and_the_run_goes_on(own_cluster):
    c = own_cluster()
    b, g = c["beta"], c["gamma"]
    run = start(g, "for i in 1 2 3 4 5 6; do echo $i; sleep 0.5; done", "beta")
    await_state(g, run, ("running",))
    assert faults.kill_agent(b)
    record = g.wait_run(run, 60)
    assert (record["state"], record["attempt"], record["node"]) == ("succeeded", 1, "beta")
    assert output(g, run) == b"1\n2\n3\n4\n5\n6\n"


@pytest.mark.parametrize("ends", ["while it is away", "later"])
def test_the_owner_restarts_and_takes_its_run_up_again(own_cluster, ends):
    c = own_cluster()
    a, b, g = c
    run = start(g, f"echo one; sleep {1 if ends == 'while it is away' else 6}; echo two", "beta")
    await_state(g, run, ("running",))
    faults.kill_both(g)
    time.sleep(2)
    g.start()
    record = g.wait_run(run, 60)
    assert (record["state"], record["attempt"], record["node"]) == ("succeeded", 1, "beta")
    assert output(a, run) == b"one\ntwo\n"
    wait_for(lambda: not os.listdir(b.data / "db/guests"), 20)


def test_both_die_and_nothing_accepted_is_lost(own_cluster):
    c = own_cluster()
    b, g = c["beta"], c["gamma"]
    faults.put_job(g, "both", shell("echo $AGENT_ATTEMPT; sleep 1", retries={
        "max": 5, "delay": "0s"}))
    ids = [faults.trigger(g, "both", key=f"k{i}") for i in range(12)]
    time.sleep(0.7)
    faults.kill_both(b)
    faults.kill_both(g)
    time.sleep(1)
    g.start()
    b.start()
    for run in ids:
        record = g.wait_run(run, 90)
        assert record["state"] == "succeeded", record
        assert output(g, run).decode().strip() == str(record["attempt"])
    assert {faults.trigger(g, "both", key=f"k{i}") for i in range(12)} == set(ids)


def test_kills_at_random_while_runs_are_forwarded(own_cluster):
    """Executors' agents die again and again; every accepted run ends once, whole."""
    c = own_cluster()
    g = c["gamma"]
    faults.put_job(g, "churn", shell("seq 1 2000; sleep 0.3; seq 1 2000", retries={
        "max": 20, "delay": "0s"}))
    want = "".join(f"{i}\n" for i in list(range(1, 2001)) * 2).encode()
    stop = threading.Event()

    def killer():
        names = ["alpha", "beta"]
        while not stop.wait(0.9):
            faults.kill_agent(c[names[0]])
            names.reverse()
    t = threading.Thread(target=killer)
    t.start()
    try:
        ids = [faults.trigger(g, "churn", key=f"c{i}") for i in range(30)]
        records = [g.wait_run(i, 120) for i in ids]
    finally:
        stop.set()
        t.join()
    assert {r["state"] for r in records} == {"succeeded"}, records
    assert {r["node"] for r in records} > {"gamma"}
    for r in records:
        assert output(g, r["id"]) == want


def test_a_draining_nodes_queue_goes_elsewhere(own_cluster):
    c = own_cluster(node__slots=1)
    a, g = c["alpha"], c["gamma"]
    blockers = [start(g, "sleep 8", name) for name in NAMES]
    for run in blockers:
        await_state(g, run, ("running",))
    waiting = [g.http("POST", "/v1/runs", shell("echo $AGENT_NODE")).json()["id"] for _ in range(3)]
    assert {g.run(i)["state"] for i in waiting} == {"queued"}
    assert a.http("POST", "/v1/nodes/gamma/drain", {"draining": True}).status == 200
    assert a.http("POST", f"/v1/runs/{blockers[0]}/cancel").status == 200
    for run in waiting:
        assert g.wait_run(run, 30)["node"] != "gamma"


def test_leaving_is_no_failure(own_cluster):
    c = own_cluster()
    a, b, g = c
    run = start(a, "sleep 30", "gamma", retries={"max": 1, "delay": "0s"})
    await_state(a, run, ("running",))
    left = b.cli("leave", "gamma")  # drains: its guest is stopped, which is not the guest's fault
    assert left.stdout == b"gamma draining\n"
    assert g.process.wait(20) == 0

    def left():
        """the others say that it has left"""
        states = {m["name"]: m["state"] for m in
                  json.loads(b.cli("members", "-o", "json").stdout)["members"]}
        return states["gamma"] == "left"
    wait_for(left, 10)
    record = a.run(run)
    assert record["attempt"] == 2 and record["state"] == "queued", record  # it needs gamma
    g.start()
    c.whole()
    assert await_state(a, run, ("running",), 30)["node"] == "gamma"
    os.kill(g.process.pid, signal.SIGQUIT)  # leaves at once; what runs goes on
    g.process.wait(10)
    g.start()
    assert a.http("POST", f"/v1/runs/{run}/cancel").status == 200
    assert a.wait_run(run, 30)["state"] == "cancelled"


def test_the_demonstration(tmp_path):
    """tests/demo/cluster.sh: a closed cluster of five, with an authority, a key and a token."""
    demo = TOP / "tests" / "demo" / "cluster.sh"
    p = subprocess.run([demo], env={**os.environ, "AGENT": AGENT, "NO_COLOR": "1"}, timeout=300,
                       stdin=subprocess.DEVNULL, capture_output=True)
    assert p.returncode == 0, (p.stdout + p.stderr).decode()[-6000:]
    text = p.stdout.decode()
    assert "from cairo: hello" in text and "attempt 2 runs on" in text
    assert text.endswith("no file of the demo is left\n")
