"""What sets a job off besides a direct call: schedules, jobs after jobs, web hooks."""
import hashlib
import hmac
import json
import time

import pytest

from conftest import wait_for
from faults import trigger

IMAGE = "lab/busybox:1"


@pytest.fixture
def busy(make_node, image_tar):
    node = make_node(node__slots=4)
    node.cli("push", image_tar)
    return node


def put(node, name, script="cat", status=(200, 201), **fields):
    r = node.http("PUT", f"/v1/jobs/{name}",
                  {"image": IMAGE, "command": ["sh", "-c", script], **fields})
    assert r.status in status, r.body
    return r.json()


def runs_of(node, job):
    return node.http("GET", f"/v1/runs?job={job}&limit=1000").json()["runs"]


def ended_runs(node, job, n, seconds=30):
    def enough():
        """the runs have ended"""
        runs = [r for r in runs_of(node, job) if r["ended_at"]]
        return runs if len(runs) >= n else None
    return wait_for(enough, seconds)


def test_a_schedule_fires_at_its_times(busy):
    put(busy, "tick", 'echo "$AGENT_TRIGGER $AGENT_SCHEDULED_AT"',
        triggers={"schedules": [{"cron": "* * * * * *"}]})
    runs = ended_runs(busy, "tick", 3)
    planned = [r["scheduled_at"] for r in runs]
    assert len(set(planned)) == len(planned), "one run for each planned time"
    for r in runs:
        assert r["trigger"] == "schedule" and r["state"] == "succeeded", r
        assert r["scheduled_at"].endswith(".000000Z")
        out = busy.http("GET", f"/v1/runs/{r['id']}/output").body.decode().split()
        assert out == ["schedule", r["scheduled_at"]]
    # Another revision without it: nothing more comes.
    put(busy, "tick", "true")
    time.sleep(1.2)
    n = len(runs_of(busy, "tick"))
    time.sleep(2.2)
    assert len(runs_of(busy, "tick")) == n


def test_nothing_is_doubled_by_a_restart(busy):
    put(busy, "tick", "true", triggers={"schedules": [{"cron": "* * * * * *"}]})
    ended_runs(busy, "tick", 2)
    busy.kill()
    busy.start()
    ended_runs(busy, "tick", 5)
    planned = [r["scheduled_at"] for r in runs_of(busy, "tick")]
    assert len(set(planned)) == len(planned)


def test_overlap_forbid(busy):
    put(busy, "slow", "sleep 2.5", triggers={"schedules": [{"cron": "* * * * * *",
                                                            "overlap": "forbid"}]})
    ended_runs(busy, "slow", 2)
    runs = sorted(runs_of(busy, "slow"), key=lambda r: r["created_at"])
    for a, b in zip(runs, runs[1:]):
        assert a["ended_at"] and a["ended_at"] <= b["created_at"], (a, b)
    assert "the run before has not ended" in busy.log()


def test_overlap_replace(busy):
    put(busy, "slow", "sleep 30", triggers={"schedules": [{"cron": "*/2 * * * * *",
                                                           "overlap": "replace"}]})
    runs = ended_runs(busy, "slow", 2)
    assert all(r["state"] == "cancelled" for r in runs)


def test_a_job_after_another_gets_its_output(busy):
    put(busy, "extract", "echo from extract; exit $(cat)")
    put(busy, "load", "cat; echo loaded",
        triggers={"after": [{"job": "extract", "payload": "output"}]})
    put(busy, "alarm", "echo alarm", triggers={"after": [{"job": "extract", "on": "failed"}]})
    put(busy, "both", "echo both", triggers={"after": [{"jobs": ["load", "extract"]}]})
    trigger(busy, "extract", b"0")
    (run,) = ended_runs(busy, "load", 1)
    assert run["trigger"] == "after"
    assert busy.http("GET", f"/v1/runs/{run['id']}/output").body == b"from extract\nloaded\n"
    ended_runs(busy, "both", 1)
    assert runs_of(busy, "alarm") == []
    trigger(busy, "extract", b"3")
    ended_runs(busy, "alarm", 1)
    assert len(runs_of(busy, "load")) == 1


def test_documents_that_cannot_be(busy):
    def problems(**triggers):
        r = put(busy, "bad", status=(422,), triggers=triggers)
        return {e["field"]: e["detail"] for e in r["errors"]}
    assert "29 days" in problems(schedules=[{"cron": "30 2 31 2 *"}])["triggers.schedules[0].cron"]
    zone = problems(schedules=[{"cron": "@daily", "time_zone": "Europe/Berlim"}])
    assert "Europe/Berlin" in zone["triggers.schedules[0].time_zone"]
    put(busy, "first", triggers={"after": [{"job": "second"}]})
    r = put(busy, "second", status=(422,), triggers={"after": [{"job": "first"}]})
    assert "circle" in r["errors"][0]["detail"]
