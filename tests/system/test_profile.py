"""What runs teach: profiles, limits that follow them, and the reasons of a placement."""
import json
import pathlib
import time

import pytest

import faults
from conftest import wait_for
from faults import shell, trigger

MIB = 1024 * 1024


def ready(make_node, image_tar, **settings):
    node = make_node(**{"node__slots": 2, **settings})
    node.cli("push", image_tar)
    return node


def profile(node, job):
    r = node.http("GET", f"/v1/profiles/{job}")
    assert r.status == 200, r.body
    return json.loads(r.body)


def runs(node, job, n):
    for _ in range(n):
        assert node.wait_run(trigger(node, job))["state"] == "succeeded"


def test_profile_and_limits_follow_the_runs(make_node, image_tar):
    node = ready(make_node, image_tar)
    faults.put_job(node, "quick", shell("echo done"))
    assert node.http("GET", "/v1/profiles/quick").status == 404
    runs(node, "quick", 12)
    p = profile(node, "quick")
    assert p["runs"] == 12 and p["revision"] == 1
    assert len(p["classes"]) == 1 and 0 < p["classes"][0]["seconds"] < 5
    assert p["limits"]["basis"] == "learned"
    assert 16 * MIB <= p["limits"]["memory_bytes"] < 512 * MIB
    assert p["memory"]["p99_bytes"] > 0 and p["asked_memory_bytes"] == 0
    # The next run gets just this.
    run = node.run(trigger(node, "quick"))
    assert run["limits"]["memory_basis"] == "learned"
    assert run["limits"]["memory_bytes"] == p["limits"]["memory_bytes"]
    out = node.cli("profile", "quick").stdout.decode()
    assert "NODE CLASS" in out and "nothing asked, uses p50" in out
    assert "quick" in node.cli("profile").stdout.decode()


def test_a_fixed_limit_wins(make_node, image_tar):
    node = ready(make_node, image_tar)
    faults.put_job(node, "fixed", dict(shell("echo done"), memory="200MiB"))
    runs(node, "fixed", 3)
    run = node.run(trigger(node, "fixed"))
    assert run["limits"]["memory_basis"] == "asked"
    assert run["limits"]["memory_bytes"] == 200 * MIB
    p = profile(node, "fixed")
    assert p["limits"]["basis"] == "fixed" and p["asked_memory_bytes"] == 200 * MIB
    assert 0 < p["limits"]["memory_learned_bytes"] < 200 * MIB


def share(node, run):
    """What the run's group has of the processors, as a weight: 100 is the usual one. None: there is
    no cpu controller here."""
    def groups():
        """the run is in its groups"""
        if node.run(run)["state"] != "running":
            return None
        for pid in faults.sandbox_pids(node):
            lines = pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines()
            return {line.split(":")[1]: line.split(":", 2)[2] for line in lines}
        return None
    of = wait_for(groups)
    for top, path in [(f"/sys/fs/cgroup/{c}", p) for names, p in of.items()
                      for c in (names, *names.split(","))]:
        for name, usual in (("cpu.shares", 1024), ("cpu.weight", 100)):
            file = pathlib.Path(top + "/" + path) / name
            if file.exists() and faults.group(node) in path:
                return round(int(file.read_text()) * 100 / usual)
    return None


def test_the_share_of_the_processors_follows_the_runs(make_node, image_tar):
    """One that sleeps gets little, a fixed one what it asks for, an unknown one the usual."""
    node = ready(make_node, image_tar, node__slots=1)
    faults.put_job(node, "lazy", shell("sleep $(cat)"))
    for _ in range(5):
        assert node.wait_run(trigger(node, "lazy", b"0.2"))["state"] == "succeeded"
    weight = profile(node, "lazy")["limits"]["cpu_weight"]
    assert weight < 60

    def seen(run):
        got = share(node, run)
        want = node.run(run)["limits"].get("cpu_weight")
        node.http("POST", f"/v1/runs/{run}/cancel")
        node.wait_run(run)
        if got is None:
            pytest.skip("no cpu controller")
        return want, got
    assert seen(trigger(node, "lazy", b"30")) == (weight, weight)
    faults.put_job(node, "new", shell("sleep 30"))
    assert seen(trigger(node, "new")) == (None, 100)
    faults.put_job(node, "asks", dict(shell("sleep 30"), cpus=1.5))
    assert seen(trigger(node, "asks")) == (150, 150)


def test_what_is_never_used_is_not_held(make_node, image_tar):
    """A fixed limit stays, but room is held for what the job needs: more runs fit."""
    node = ready(make_node, image_tar, node__slots=4, node__memory="256MiB")
    faults.put_job(node, "fixed", dict(shell("sleep $(cat)"), memory="200MiB"))
    for _ in range(100):  # runs that are too short to be measured do not count
        assert node.wait_run(trigger(node, "fixed", b"0.05"))["state"] == "succeeded"
        if profile(node, "fixed")["limits"]["runs"] > 20:
            break
    runs_now = [trigger(node, "fixed", b"30") for _ in range(3)]

    def all_run():
        """three of them run at a time"""
        return all(node.run(r)["state"] == "running" for r in runs_now)
    wait_for(all_run)
    limits = node.run(runs_now[0])["limits"]
    assert limits["memory_bytes"] == 200 * MIB and limits["memory_basis"] == "asked"
    assert limits["memory_reserved_bytes"] < 60 * MIB
    p = profile(node, "fixed")["limits"]
    assert p["basis"] == "fixed" and p["memory_reserved_bytes"] == p["memory_learned_bytes"]
    for r in runs_now:
        node.http("POST", f"/v1/runs/{r}/cancel")
        node.wait_run(r)


def test_killed_for_memory_grows_and_goes_on(make_node, image_tar):
    """The job learns that it is small, then needs 60 MiB: killed, and tried again with twice as
    much, without a retry of the user's, until it fits."""
    node = ready(make_node, image_tar)
    faults.put_job(node, "grows", shell('head -c "$(cat)" /dev/zero | tail -c 1 | wc -c'))
    for _ in range(8):
        assert node.wait_run(trigger(node, "grows", b"1000"))["state"] == "succeeded"
    before = profile(node, "grows")["limits"]["memory_bytes"]
    assert before < 60 * MIB
    # tail keeps what it may have to print: as much as it reads.
    faults.put_job(node, "grows", shell('x=$(head -c "$(cat)" /dev/zero | tr "\\0" x); echo ${#x}'))
    run = node.wait_run(trigger(node, "grows", str(60 * MIB).encode()))
    assert run["state"] == "succeeded", run
    assert run["attempt"] > 1  # and the document allows no retry
    assert run["limits"]["memory_bytes"] >= 2 * before
    p = profile(node, "grows")
    assert p["memory"]["oom_kills"] == run["attempt"] - 1
    assert p["limits"]["memory_bytes"] > before


def test_explain_agrees_with_the_decision(make_node, image_tar):
    node = ready(make_node, image_tar)
    faults.put_job(node, "quick", shell("echo done"))
    runs(node, "quick", 3)
    run = node.wait_run(trigger(node, "quick"))
    placement = json.loads(node.http("GET", f"/v1/runs/{run['id']}/placement").body)
    assert placement["node"] == run["node"]
    assert placement["policy"] == "learned" and placement["basis"] in ("local", "learned")
    me = placement["candidates"][0]
    assert me["verdict"] == "fit" and me["learned"]["class_runs"] >= 3
    assert me["learned"]["seconds"] > 0 and me["score"] > 0
    out = node.cli("explain", run["id"]).stdout.decode()
    assert f"node    {run['node']}" in out and "basis   " + placement["basis"] in out
    now = json.loads(node.cli("explain", "--job", "quick", "-o", "json").stdout)
    assert now["node"] == run["node"]
    assert node.cli("explain", check=False).returncode == 2
    assert node.cli("top", "--once").returncode == 0


def test_a_policy_of_old_is_still_there(make_node, image_tar):
    node = ready(make_node, image_tar, routing__policy="least-loaded")
    faults.put_job(node, "quick", shell("echo done"))
    run = node.wait_run(trigger(node, "quick"))
    placement = json.loads(node.http("GET", f"/v1/runs/{run['id']}/placement").body)
    assert placement["policy"] == "least-loaded" and placement["basis"] == "least_loaded"
    assert node.run(trigger(node, "quick"))["limits"]["memory_bytes"] == 512 * MIB


def test_profiles_outlive_a_restart(make_node, image_tar):
    node = ready(make_node, image_tar)
    faults.put_job(node, "quick", shell("echo done"))
    runs(node, "quick", 5)
    before = profile(node, "quick")
    time.sleep(1.5)  # a row goes to disk soon, not at once
    assert node.stop() == 0
    node.start()
    after = profile(node, "quick")
    assert after["runs"] == before["runs"] == 5
    assert after["classes"][0]["seen_seconds"] == before["classes"][0]["seen_seconds"]
    runs(node, "quick", 1)
    assert profile(node, "quick")["runs"] == 6
