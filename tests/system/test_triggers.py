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


# ---- secrets, web hooks, events ----

SECRET = "It's a Secret to Everybody"


@pytest.fixture
def hooked(busy):
    busy.cli("secret", "set", "gh-hook", stdin=SECRET.encode() + b"\n")
    put(busy, "deploy", 'echo "$AGENT_TRIGGER $HOOK_X_GITHUB_EVENT"; cat',
        triggers={"hooks": [{"name": "github", "verify": "github", "secret": "gh-hook",
                             "when": "payload.ref == 'refs/heads/main'",
                             "headers": ["X-GitHub-Event"]},
                            {"name": "slack", "verify": "slack", "secret": "gh-hook"},
                            {"name": "open", "verify": "none"}]})
    return busy


def github(node, body, delivery, secret=SECRET, hook="deploy/github"):
    sign = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return node.http("POST", f"/v1/hooks/{hook}", body,
                     {"X-Hub-Signature-256": f"sha256={sign}", "X-GitHub-Delivery": delivery,
                      "X-GitHub-Event": "push", "Content-Type": "application/json"})


def test_a_web_hook_sets_a_run_off(hooked):
    body = json.dumps({"ref": "refs/heads/main", "commits": [{"id": "a1"}]}).encode()
    r = github(hooked, body, "72d3162e")
    assert r.status == 202, r.body
    run = hooked.wait_run(r.json()["id"])
    assert r.headers["Location"] == f"/v1/runs/{run['id']}"
    assert run["trigger"] == "hook" and run["state"] == "succeeded", run
    out = hooked.http("GET", f"/v1/runs/{run['id']}/output").body
    assert out == b"hook push\n" + body
    # The same delivery again is the same run; another one is another.
    again = github(hooked, body, "72d3162e")
    assert again.status == 202 and again.json()["id"] == run["id"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert github(hooked, body, "72d3162f").json()["id"] != run["id"]


def test_hooks_that_are_not_genuine(hooked):
    body = b'{"ref":"refs/heads/main"}'
    refused = [github(hooked, body, "1", secret="wrong"),
               github(hooked, body, "1", hook="deploy/none"),
               github(hooked, body, "1", hook="nothing/github"),
               hooked.http("POST", "/v1/hooks/deploy/github", body)]
    assert {r.status for r in refused} == {401}
    # Whatever was wrong, the answer is the same.
    assert len({r.json()["detail"] for r in refused}) == 1
    assert github(hooked, b'{"ref":"refs/heads/dev"}', "2").json()["accepted"] is False
    assert github(hooked, b"no json", "3").json()["accepted"] is False
    assert hooked.http("POST", "/v1/hooks/deploy", b"").status == 404
    stamp = str(int(time.time()) - 3600)
    sign = hmac.new(SECRET.encode(), f"v0:{stamp}:x".encode(), hashlib.sha256).hexdigest()
    r = hooked.http("POST", "/v1/hooks/deploy/slack", b"x",
                    {"X-Slack-Request-Timestamp": stamp, "X-Slack-Signature": f"v0={sign}"})
    assert r.status == 409 and r.json()["code"] == "replayed"
    assert hooked.http("POST", "/v1/hooks/deploy/open", b"x" * (1 << 20)).status == 202
    assert hooked.http("POST", "/v1/hooks/deploy/open", b"x" * ((1 << 20) + 1)).status == 413
    assert {r["trigger"] for r in runs_of(hooked, "deploy")} == {"hook"}
    assert len(runs_of(hooked, "deploy")) == 1


def test_hook_test_prints_what_the_sender_would_do(hooked):
    import subprocess
    body = b'{"ref":"refs/heads/main","it\'s":1}'
    line = hooked.cli("hook", "test", "deploy", "github", "-p", "-", stdin=body).stdout.decode()
    assert line.startswith("curl ") and SECRET not in line
    out = subprocess.run(["sh", "-c", line], capture_output=True, check=True).stdout
    assert json.loads(out)["accepted"] is True


def test_secrets_are_never_shown(hooked):
    hooked.cli("secret", "set", "other", stdin=b"xyzzy-plugh")
    assert b"gh-hook" in hooked.cli("secret", "ls").stdout
    for path in ("/v1/secrets", "/v1/status", "/v1/triggers", "/v1/table?type=secret", "/metrics"):
        assert b"xyzzy" not in hooked.http("GET", path).body
    for f in hooked.data.rglob("*"):
        if f.is_file():
            assert b"xyzzy-plugh" not in f.read_bytes(), f
    assert "xyzzy" not in hooked.log()
    hooked.kill()
    hooked.start()
    body = b'{"ref":"refs/heads/main"}'
    assert github(hooked, body, "9").status == 202
    hooked.cli("secret", "rm", "gh-hook")
    assert github(hooked, body, "10").status == 401
    assert hooked.http("DELETE", "/v1/secrets/gh-hook").status == 404
    assert hooked.http("PUT", "/v1/secrets/a%20b", b"x").status == 422
    assert hooked.http("PUT", "/v1/secrets/big", b"x" * 65537).status == 413


def event(**more):
    return {"specversion": "1.0", "id": "1", "source": "/plant/7", "type": "org.example.hot",
            **more}


def test_events_find_their_jobs(busy):
    put(busy, "cool", 'echo "$CE_TYPE $CE_SOURCE $CE_ID"; cat',
        triggers={"events": [{"type": "org.example.*", "when": "payload.celsius > 80"}]})
    put(busy, "log", "cat", triggers={"events": [{"source": "/plant/7"}]})
    structured = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
    r = busy.http("POST", "/v1/events", json.dumps(event(data={"celsius": 81})), structured)
    assert r.status == 202 and r.json()["matched"] == 2, r.body
    (run,) = ended_runs(busy, "cool", 1)
    out = busy.http("GET", f"/v1/runs/{run['id']}/output").body
    assert out == b'org.example.hot /plant/7 1\n{"celsius":81}'
    # The same event again: the same runs.
    r = busy.http("POST", "/v1/events", json.dumps(event(data={"celsius": 81})), structured)
    assert all(x["replayed"] for x in r.json()["runs"])
    # Binary mode, and a batch.
    r = busy.http("POST", "/v1/events", b'{"celsius": 5}',
                  {"ce-specversion": "1.0", "ce-id": "2", "ce-source": "/plant/7",
                   "ce-type": "org.example.hot", "Content-Type": "application/json"})
    assert r.json()["matched"] == 1
    batch = [event(id="3", data={"celsius": 90}), event(id="4", source="/x", data_base64="AAE=")]
    r = busy.http("POST", "/v1/events", json.dumps(batch),
                  {"Content-Type": "application/cloudevents-batch+json"})
    assert r.json()["matched"] == 2
    for bad in (event(specversion="0.3"), {"specversion": "1.0"},
                event(data=1, data_base64="AA==")):
        r = busy.http("POST", "/v1/events", json.dumps(bad), structured)
        assert r.status == 400 and r.json()["code"] == "bad_event", r.body


def test_trigger_ls_and_schedule_next(busy):
    put(busy, "report", triggers={"schedules": [{"name": "night", "cron": "30 2 * * *",
                                                 "time_zone": "Europe/Berlin"}]})
    assert b"night" in busy.cli("trigger", "ls").stdout
    lines = busy.cli("schedule", "next", "report", "--no-headers").stdout.decode().splitlines()
    assert len(lines) == 5
    assert all("T02:30:00+0" in line for line in lines), lines


# ---- tested, set off by hand, paused ----

@pytest.fixture
def many(busy):
    put(busy, "extract", "true")
    put(busy, "report", 'echo "$AGENT_TRIGGER"; cat', triggers={
        "schedules": [{"name": "often", "cron": "* * * * * *"},
                      {"name": "never", "cron": "0 0 1 1 *"}],
        "hooks": [{"name": "open", "verify": "none",
                   "when": "payload.ref == 'main' && headers['x-kind'] == 'push'"}],
        "sensors": [{"name": "hot", "mqtt": "plant/+/t", "when": "value > 80"},
                    {"name": "busy", "node": "runs.running", "when": "value > 1000"}],
        "events": [{"name": "made", "type": "com.example.*", "when": "payload.n > 1"}],
        "after": [{"job": "extract", "on": "failed"}]})
    return busy


def test_would_it_go_off(many):
    def ask(trigger, body=b"", query="", headers=None):
        r = many.http("POST", f"/v1/triggers/test/report/{trigger}{query}", body, headers)
        assert r.status == 200, r.body
        return r.json()["would_fire"]
    push = {"X-Kind": "push"}
    assert ask("hook/open", b'{"ref":"main"}', headers=push)
    assert not ask("open", b'{"ref":"dev"}', headers=push)
    assert not ask("open", b'{"ref":"main"}')
    assert ask("hot", b"81") and not ask("hot", b"80") and not ask("hot", b"warm")
    assert ask("hot", b"81", "?topic=plant/a/t") and not ask("hot", b"81", "?topic=plant/a/b/t")
    event = {"specversion": "1.0", "id": "1", "source": "/x", "type": "com.example.made"}
    assert ask("made", json.dumps({**event, "data": {"n": 2}}).encode())
    assert not ask("made", json.dumps({**event, "data": {"n": 1}}).encode())
    assert not ask("made", json.dumps({**event, "type": "org.x", "data": {"n": 2}}).encode())
    assert not ask("made", b"no event")
    assert ask("after/extract", b'{"state":"failed"}')
    assert not ask("after/extract", b'{"state":"succeeded"}')
    r = many.http("POST", "/v1/triggers/test/report/never", b"").json()
    assert r["would_fire"] and len(r["next"]) == 5
    assert many.cli("trigger", "test", "report/hot", "-p", "-", stdin=b"99").stdout[:3] == b"yes"
    assert many.cli("trigger", "test", "report/hot", check=False).returncode == 1
    assert not [r for r in runs_of(many, "report") if r["trigger"] != "schedule"]


def test_names_that_are_not_clear(many):
    put(many, "twice", triggers={"schedules": [{"name": "a", "cron": "@daily"}],
                                 "hooks": [{"name": "a", "verify": "none"}]})
    for path, status in (("twice", 409), ("twice/a", 409), ("twice/b", 404), ("nothing/a", 404),
                         ("twice/sensor/a", 404), ("twice/hook/a", 200)):
        r = many.http("POST", f"/v1/triggers/test/{path}", b"")
        assert r.status == status, (path, r.body)
    assert many.http("POST", "/v1/triggers/pause/twice/a").json()["code"] == "ambiguous"
    assert many.http("POST", "/v1/triggers/pause/nothing").json()["code"] == "unknown_trigger"


def test_fired_by_hand(many):
    run = many.cli("trigger", "fire", "report/hot", "-p", "-", stdin=b"81").stdout.decode().strip()
    end = many.wait_run(run)
    assert end["trigger"] == "sensor" and end["state"] == "succeeded", end
    assert many.http("GET", f"/v1/runs/{run}/output").body == b"sensor\n81"
    many.cli("trigger", "pause", "report")
    run = many.cli("trigger", "fire", "report/never").stdout.decode().strip()
    assert many.wait_run(run)["scheduled_at"]
    assert many.cli("trigger", "fire", "report/none", check=False).returncode == 1


def paused_of(node, job):
    triggers = node.http("GET", f"/v1/triggers?job={job}").json()["triggers"]
    return {f"{t['kind']}/{t['name']}" for t in triggers if t["paused"]}


def test_paused_until_resumed(many):
    ended_runs(many, "report", 1)
    assert many.cli("trigger", "pause", "report/often").stdout == b"trigger/report/often paused\n"
    assert paused_of(many, "report") == {"schedule/often"}
    assert b"paused" in many.cli("trigger", "ls", "report").stdout
    time.sleep(1.1)
    n = len(runs_of(many, "report"))
    many.cli("trigger", "pause", "report/after/extract")
    many.kill()
    many.start()
    assert paused_of(many, "report") == {"schedule/often", "after/extract"}
    time.sleep(3)
    assert len(runs_of(many, "report")) == n
    # All of a job; then what was paused by itself still is.
    many.cli("trigger", "pause", "report")
    assert len(paused_of(many, "report")) == 7
    r = many.http("POST", "/v1/hooks/report/open", b'{"ref":"main"}', {"X-Kind": "push"})
    assert r.status == 200 and r.json() == {"accepted": False, "detail": "the hook is paused"}
    event = {"specversion": "1.0", "id": "1", "source": "/x", "type": "com.example.made",
             "data": {"n": 2}}
    post = ("POST", "/v1/events", json.dumps(event).encode(),
            {"Content-Type": "application/cloudevents+json"})
    assert many.http(*post).json()["matched"] == 0
    many.cli("trigger", "resume", "report")
    assert paused_of(many, "report") == {"schedule/often", "after/extract"}
    assert many.http(*post).json()["matched"] == 1
    r = many.http("POST", "/v1/hooks/report/open", b'{"ref":"main"}', {"X-Kind": "push"})
    assert r.status == 202, r.body
    # Resumed: from now on, and nothing of the time between.
    before = {r["id"] for r in runs_of(many, "report") if r["scheduled_at"]}
    at = time.time()
    many.cli("trigger", "resume", "report/often")

    def again():
        """it fires again"""
        runs = [r for r in runs_of(many, "report") if r["scheduled_at"] and r["id"] not in before]
        return runs if len(runs) >= 2 else None
    runs = wait_for(again, 20)
    first = min(r["scheduled_at"] for r in runs)
    assert first >= time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)), (first, at)
    # The job's end is the pause's end.
    many.cli("trigger", "pause", "report")
    assert many.http("DELETE", "/v1/jobs/report").status in (200, 204)
    put(many, "report", triggers={"hooks": [{"name": "open", "verify": "none"}]})
    assert paused_of(many, "report") == set()
