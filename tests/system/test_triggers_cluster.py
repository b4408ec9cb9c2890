"""Schedules, subscriptions, secrets of a whole cluster: one owner each, and another takes over."""
import base64
import hashlib
import hmac
import os
import pathlib
import shutil
import signal
import tempfile
import time
from datetime import datetime, timedelta

import pytest

from conftest import wait_for
from test_cluster import Cluster, own_cluster  # noqa: F401 (a fixture)
from test_sensors import broker  # noqa: F401 (a fixture)
from test_triggers import put

pytestmark = pytest.mark.timeout(180)


def all_runs(cluster, job):
    """The runs that each living node owns, by node."""
    out = {}
    for name, node in cluster.nodes.items():
        if node.process.poll() is None:
            runs = node.http("GET", f"/v1/runs?job={job}&limit=1000").json()["runs"]
            for r in runs:
                out.setdefault(r["entry_node"], {})[r["id"]] = r
    return out


def planned(runs):
    return sorted(r["scheduled_at"] for of in runs.values() for r in of.values())


def known_everywhere(cluster, job):
    def known():
        """every node has the job"""
        return all(n.http("GET", f"/v1/jobs/{job}").status == 200 for n in cluster)
    wait_for(known, 20)


def fired(cluster, job, n, seconds=40):
    def enough():
        """the schedule has fired"""
        runs = all_runs(cluster, job)
        return runs if len(planned(runs)) >= n else None
    return wait_for(enough, seconds, 0.2)


def test_a_schedule_fires_once_in_the_cluster_and_outlives_its_owner(own_cluster):  # noqa: F811
    c = own_cluster()
    put(c["alpha"], "tick", "true", triggers={"schedules": [{"cron": "* * * * * *"}]})
    known_everywhere(c, "tick")
    runs = fired(c, "tick", 4)
    times = planned(runs)
    assert len(set(times)) == len(times), times
    assert len(runs) == 1, "one node fires it"
    (owner,) = runs
    # Its owner is gone without a word: another fires what was missed, and goes on.
    victim = c.nodes[owner]
    pids = [victim.process.pid, victim.agent_pid()]
    before = planned(all_runs(c, "tick"))
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    victim.process.wait(10)

    def taken_over():
        """another node has fired it"""
        left = all_runs(c, "tick")
        return left if sum(len(v) for k, v in left.items() if k != owner) >= 8 else None
    after = wait_for(taken_over, 60, 0.2)
    assert len([k for k in after if k != owner]) == 1
    times = sorted(set(before) | set(planned(after)))
    parsed = [datetime.fromisoformat(t.replace("Z", "+00:00")) for t in times]
    gaps = [b - a for a, b in zip(parsed, parsed[1:])]
    assert all(g == timedelta(seconds=1) for g in gaps), f"nothing is missed: {times}"
    own = [t for k, v in after.items() if k != owner for t in (r["scheduled_at"]
                                                               for r in v.values())]
    assert len(set(own)) == len(own), "nothing is doubled"


def test_one_node_subscribes_and_another_takes_over(image_tar, broker):  # noqa: F811
    c = Cluster(mqtt__url=f"mqtt://127.0.0.1:{broker.port}")
    try:
        c.whole()
        for node in c:
            node.cli("push", image_tar)
        put(c["alpha"], "hot", "cat", triggers={"sensors": [
            {"name": "s", "mqtt": "t/#", "when": "value > 80"}]})
        known_everywhere(c, "hot")

        def subscribers():
            return [name for name, n in c.nodes.items() if n.process.poll() is None
                    and n.log().count("subscribed to 't/#'")
                    > 2 * n.log().count("no longer subscribed to 't/#'")]

        def one():
            """one node has subscribed"""
            s = subscribers()
            return s if len(s) == 1 else None
        (first,) = wait_for(one, 20)
        time.sleep(1)
        broker.publish("t/1", 90)

        def ran(n):
            def so_many():
                """the sensor has set runs off"""
                runs = all_runs(c, "hot")
                return runs if sum(map(len, runs.values())) >= n else None
            return wait_for(so_many, 30, 0.2)
        assert list(ran(1)) == [first]
        os.kill(c[first].process.pid, signal.SIGKILL)
        os.kill(c[first].agent_pid() or c[first].process.pid, signal.SIGKILL)
        c[first].process.wait(10)

        def another():
            """another node has subscribed"""
            s = [x for x in subscribers() if x != first]
            return s if len(s) == 1 else None
        (second,) = wait_for(another, 60)
        time.sleep(1)
        broker.publish("t/2", 91)
        runs = ran(1)
        assert list(runs) == [second] and len(runs[second]) == 1
    finally:
        c.close()


@pytest.fixture
def key_file():
    """A key that node.user may read, and nobody else."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="agent-key-"))
    directory.chmod(0o755)
    key = directory / "secrets.key"
    key.write_bytes(base64.b64encode(os.urandom(32)))
    key.chmod(0o400)
    shutil.chown(key, "nobody")
    yield key
    shutil.rmtree(directory)


def test_secrets_and_hooks_on_every_node(own_cluster, key_file):  # noqa: F811
    c = own_cluster(secrets__key_file=key_file)
    c["alpha"].cli("secret", "set", "s", stdin=b"key")
    put(c["beta"], "hooked", "cat", triggers={"hooks": [{"name": "h", "verify": "github",
                                                         "secret": "s"}]})
    known_everywhere(c, "hooked")
    sign = "sha256=" + hmac.new(b"key", b"x", hashlib.sha256).hexdigest()

    def accepted():
        """every node takes the hook"""
        return all(n.http("POST", "/v1/hooks/hooked/h", b"x",
                          {"X-Hub-Signature-256": sign}).status == 202 for n in c)
    wait_for(accepted, 20, 0.5)


def test_paused_on_every_node(own_cluster):  # noqa: F811
    c = own_cluster()
    put(c["alpha"], "tick", "true", triggers={"schedules": [{"cron": "* * * * * *"}]})
    known_everywhere(c, "tick")
    c["beta"].cli("trigger", "pause", "tick")

    def states():
        return [t["paused"] for n in c
                for t in n.http("GET", "/v1/triggers?job=tick").json()["triggers"]]

    def paused():
        """every node shows it paused"""
        return states() == [True] * 3
    wait_for(paused, 20)
    time.sleep(1.5)
    before = planned(all_runs(c, "tick"))
    time.sleep(3)
    assert planned(all_runs(c, "tick")) == before
    c["gamma"].cli("trigger", "resume", "tick")

    def fires():
        """it fires again, once for each time"""
        return len(planned(all_runs(c, "tick"))) >= len(before) + 3
    wait_for(fires, 20)
    all_planned = planned(all_runs(c, "tick"))
    assert len(set(all_planned)) == len(all_planned)
