"""The feed of events: what a node sees, by the API, curl and `agent events`."""
import http.client
import json
import subprocess
import threading
import time

import pytest

from conftest import AGENT, ENDED, wait_for
from members import cluster

IMAGE = "lab/busybox:1"


class Feed:
    """Reads GET /v1/events in a thread: .seen is [(id, type, event)]."""

    def __init__(self, node, query="", last=None):
        self.seen = []
        self.connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=60)
        self.connection.request("GET", f"/v1/events{query}",
                                headers={"Last-Event-ID": last} if last else {})
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200, self.answer.read()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        one = {}
        try:
            while line := self.answer.readline():
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "data":
                    event = json.loads(value)
                    assert one["event"] == event["type"] and event["specversion"] == "1.0"
                    assert one.get("id", event["id"]) == event["id"]
                    self.seen.append((one.get("id"), event["type"], event))
                    one = {}
                elif name:
                    one[name] = value
        except (OSError, ValueError, AttributeError, http.client.HTTPException):
            pass

    def wait(self, what, seconds=30):
        def came():
            """the event has come"""
            return next((e for _, _, e in list(self.seen) if what(e)), None)
        try:
            return wait_for(came, seconds)
        except AssertionError as e:
            raise AssertionError(f"{e}; seen {self.types()}") from e

    def types(self):
        return [t for _, t, _ in list(self.seen)]

    def close(self):
        self.connection.sock and self.connection.sock.close()
        self.connection.close()


@pytest.fixture
def feed():
    made = []

    def make(*args, **kw):
        made.append(Feed(*args, **kw))
        return made[-1]
    yield make
    for f in made:
        f.close()


def put(node, name, script="true", **fields):
    r = node.http("PUT", f"/v1/jobs/{name}",
                  {"image": IMAGE, "command": ["sh", "-c", script], **fields})
    assert r.status in (200, 201), r.body


def run(node, job):
    r = node.http("POST", f"/v1/jobs/{job}/runs", b"", {"Prefer": "wait=30"})
    assert r.status == 200, r.body
    return r.json()


def of_run(run_id, state):
    return lambda e: e["type"] == f"agent.run.{state}" and e["subject"] == run_id


def test_what_a_run_brings_about(node, image_tar, feed):
    node.cli("push", image_tar)
    f = feed(node)
    put(node, "work")
    put(node, "next", triggers={"after": [{"job": "work"}]})
    record = run(node, "work")
    end = f.wait(of_run(record["id"], "succeeded"))
    assert end["job"] == "work" and end["data"] == node.run(record["id"])
    states = [e["data"]["state"] for _, t, e in f.seen
              if t.startswith("agent.run.") and e["subject"] == record["id"]]
    order = ["queued", "placed", "preparing", "running", "succeeded"]
    assert states == sorted(states, key=order.index) and "running" in states
    applied = f.wait(lambda e: e["type"] == "agent.job.applied" and e["job"] == "work")
    assert applied["data"] == {"job": "work", "revision": 1}
    fired = f.wait(lambda e: e["type"] == "agent.trigger.fired")
    assert fired["data"]["kind"] == "after" and fired["data"]["job"] == "next"
    f.wait(of_run(fired["data"]["run"], "succeeded"))
    f.wait(lambda e: e["type"] == "agent.job.profile_updated" and e["job"] == "work")
    assert node.http("DELETE", "/v1/jobs/next").status in (200, 204)
    f.wait(lambda e: e["type"] == "agent.job.deleted" and e["job"] == "next")
    ids = [i for i, _, _ in f.seen]
    numbers = [int(i.split("-")[1]) for i in ids]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "none is missing"


def test_filters(node, image_tar, feed):
    node.cli("push", image_tar)
    ends = feed(node, "?type=agent.run.succeeded")
    mine = feed(node, "?job=b")
    put(node, "a")
    put(node, "b")
    a, b = run(node, "a"), run(node, "b")
    ends.wait(of_run(b["id"], "succeeded"))
    mine.wait(of_run(b["id"], "succeeded"))
    assert [e["subject"] for _, _, e in ends.seen] == [a["id"], b["id"]]
    assert set(ends.types()) == {"agent.run.succeeded"}
    assert {e["job"] for _, _, e in mine.seen} == {"b"}
    for query in "x=y", "type=" + "a" * 200:
        assert node.http("GET", f"/v1/events?{query}").status == 400


def test_one_that_comes_back_misses_nothing(node, image_tar, feed):
    node.cli("push", image_tar)
    put(node, "work")
    first = feed(node)
    record = run(node, "work")
    first.wait(of_run(record["id"], "succeeded"))
    first.close()
    time.sleep(0.2)
    meanwhile = run(node, "work")
    seen = len(first.seen)
    back = feed(node, last=first.seen[seen - 1][0])
    back.wait(of_run(meanwhile["id"], "succeeded"))
    assert "agent.feed.gap" not in back.types()
    last = int(first.seen[seen - 1][0].split("-")[1])
    assert int(back.seen[0][0].split("-")[1]) == last + 1
    # Of another life: what is known, after a word that it is not all.
    node.kill()
    node.start()
    other = feed(node, last=back.seen[-1][0])
    gap = other.wait(lambda e: e["type"] == "agent.feed.gap")
    assert gap["data"]["after"] == back.seen[-1][0] and other.types()[0] == "agent.feed.gap"
    assert other.seen[0][0] is None, "it has no id to come back with"
    again = run(node, "work")
    other.wait(of_run(again["id"], "succeeded"))


def test_members_come_and_go(make_node, image_tar, feed):
    nodes = cluster(make_node, 2, gossip__profile="local")
    f = feed(nodes[0], "?type=agent.node.")
    assert nodes[0].http("POST", "/v1/nodes/n1/drain", {}).status == 200
    f.wait(lambda e: e["type"] == "agent.node.draining" and e["subject"] == "n1")
    assert nodes[0].http("POST", "/v1/nodes/n1/drain", {"draining": False}).status == 200
    f.wait(lambda e: e["type"] == "agent.node.resumed" and e["subject"] == "n1")
    nodes[1].kill()
    failed = f.wait(lambda e: e["type"] == "agent.node.failed", 60)
    assert failed["subject"] == "n1" and failed["data"] == {"node": "n1"}
    assert failed["source"] == "/v1/nodes/n0"
    nodes[1].start()
    f.wait(lambda e: e["type"] == "agent.node.joined" and e["subject"] == "n1", 60)


def test_a_callbacks_end_is_an_event(make_node, image_tar, feed):
    node = make_node(callbacks__allow_private="yes")
    node.cli("push", image_tar)
    f = feed(node, "?type=agent.callback.")
    # The node itself is the receiver, of something that it answers with 200.
    url = f"http://{node.addr}/v1/images/prune"
    put(node, "work", callbacks=[{"url": url}])
    record = run(node, "work")
    event = f.wait(lambda e: e["type"] == "agent.callback.delivered")
    assert event["job"] == "work" and event["subject"] == f"{record['id']}.1.0"
    assert event["data"]["url"] == url and event["data"]["status"] == 200


def test_the_client(node, image_tar):
    node.cli("push", image_tar)
    put(node, "work")
    p = subprocess.Popen([AGENT, "events", "-t", "agent.run.", "-n", "2", "-o", "json"],
                         stdout=subprocess.PIPE, env={"AGENT_ADDR": node.addr})
    text = subprocess.Popen([AGENT, "events", "-j", "work", "-n", "1", "-t", "agent.run.succeeded"],
                            stdout=subprocess.PIPE, env={"AGENT_ADDR": node.addr})
    try:
        wait_for(lambda: b"agent_event_readers 2" in node.http("GET", "/metrics").body)
        record = run(node, "work")
        out, _ = p.communicate(timeout=20)
        events = [json.loads(line) for line in out.splitlines()]
        assert len(events) == 2 and all(e["subject"] == record["id"] for e in events)
        assert p.returncode == 0
        line, _ = text.communicate(timeout=20)
        assert b" agent.run.succeeded " in line and record["id"].encode() in line
        assert line.endswith(b"\n") and line.count(b"\n") == 1
        wait_for(lambda: b"agent_event_readers 0" in node.http("GET", "/metrics").body)
        # Behind an event that is remembered.
        out = node.cli("events", "--after", events[0]["id"], "-n", "1", "-o", "json").stdout
        assert json.loads(out)["id"] == events[1]["id"]
    finally:
        for q in p, text:
            q.kill()
            q.wait()
    p = node.cli("events", "-n", "0", check=False)
    assert p.returncode == 2 or b"--count" in p.stderr


def test_a_client_goes_on_after_a_restart(node, image_tar):
    node.cli("push", image_tar)
    put(node, "work")
    p = subprocess.Popen([AGENT, "events", "-t", "agent.", "-n", "40", "-o", "json"],
                         stdout=subprocess.PIPE, text=True, env={"AGENT_ADDR": node.addr})
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(iter(p.stdout.readline, "")), daemon=True)
    reader.start()
    try:
        wait_for(lambda: b"agent_event_readers 1" in node.http("GET", "/metrics").body)
        before = run(node, "work")
        wait_for(lambda: any(before["id"] in x and "succeeded" in x for x in list(lines)))
        node.kill()
        node.start()
        wait_for(lambda: b"agent_event_readers 1" in node.http("GET", "/metrics").body)
        after = run(node, "work")
        assert after["state"] in ENDED
        wait_for(lambda: any(after["id"] in x and "succeeded" in x for x in list(lines)))
        assert any("agent.feed.gap" in x for x in lines)
        assert p.poll() is None
    finally:
        p.kill()
        p.wait()
