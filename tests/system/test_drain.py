"""What signals do: SIGTERM drains, SIGQUIT leaves, SIGHUP reloads."""
import signal
import subprocess
import time

import pytest

import faults
from conftest import AGENT, wait_for
from faults import STREAM, STREAM_LOG, STREAM_OUTPUT, shell, trigger

AGAIN = "test $AGENT_ATTEMPT = 1 || { echo again; exit 0; }; "
POLITE = AGAIN + "trap 'echo told; exit 5' TERM; echo here; while :; do sleep 0.05; done"
DEAF = AGAIN + "trap '' TERM; echo here; while :; do sleep 0.05; done"


@pytest.fixture
def draining(make_node, image_tar):
    def make(**settings):
        node = make_node(node__slots=2, **settings)
        node.cli("push", image_tar)
        for name, script, fields in (("polite", POLITE, {}), ("deaf", DEAF, {"grace": "500ms"}),
                                     ("short", "sleep 1; echo done", {}), ("quick", "echo q", {}),
                                     ("stream", STREAM, {})):
            faults.put_job(node, name, shell(script, **fields))
        return node
    return make


def started(node, *runs):
    def output():
        """the jobs have begun"""
        return all(node.run(r)["state"] == "running" for r in runs)
    wait_for(output)
    time.sleep(0.3)  # their traps are set


def test_sigterm_lets_short_runs_finish(draining):
    node = draining(sandbox__grace="20s")
    run = trigger(node, "short")
    started(node, run)
    begin = time.monotonic()
    assert node.stop() == 0
    assert time.monotonic() - begin < 10
    faults.assert_nothing_left(node)
    node.start()
    record = node.run(run)
    assert record["state"] == "succeeded" and faults.output(node, run) == b"done\n"


def test_sigterm_stops_what_outlasts_the_grace(draining):
    node = draining(sandbox__grace="1s")
    polite, deaf = trigger(node, "polite"), trigger(node, "deaf")
    started(node, polite, deaf)
    waiting = trigger(node, "quick")  # both slots are taken
    begin = time.monotonic()
    early = []  # accepted before the signal had come
    node.process.send_signal(signal.SIGTERM)

    def refuses():
        """new runs are refused"""
        r = node.http("POST", "/v1/jobs/quick/runs")
        early.extend([r.json()["id"]] if r.status == 202 else [])
        return r.status == 503 and r
    r = wait_for(refuses)
    assert r.json()["code"] == "draining" and int(r.headers["Retry-After"]) > 0
    r = node.http("GET", "/readyz")
    assert r.status == 503
    assert node.http("GET", "/healthz").status == 200
    assert node.run(waiting)["state"] == "queued"
    assert node.run(polite)["state"] == "running"
    assert node.process.wait(20) == 0
    took = time.monotonic() - begin
    assert 1.4 < took < 8, took  # grace, then the deaf one's own grace
    faults.assert_nothing_left(node)
    assert faults.run_dirs(node) == {polite: [1], deaf: [1]}
    first = (node.data / "runs" / f"{polite}.1" / "stdout").read_bytes()
    assert first == b"here\ntold\n"
    # Nothing accepted is lost: what waited runs, what was stopped runs again, at no charge.
    node.start()
    for run in early:
        assert node.wait_run(run)["state"] == "succeeded"
    record = node.wait_run(waiting)
    assert record["state"] == "succeeded" and record["attempt"] == 1, record
    for run in (polite, deaf):
        record = node.wait_run(run)
        assert (record["state"], record["attempt"]) == ("succeeded", 2), record
        assert faults.output(node, run) == b"again\n"
    assert faults.run_dirs(node) == {polite: [1, 2], deaf: [1, 2], waiting: [1],
                                     **{run: [1] for run in early}}


def test_a_second_sigterm_does_not_wait(draining):
    node = draining(sandbox__grace="60s")
    run = trigger(node, "deaf")
    started(node, run)
    node.process.send_signal(signal.SIGTERM)
    wait_for(lambda: node.http("POST", "/v1/jobs/quick/runs").status == 503)
    node.process.send_signal(signal.SIGTERM)
    assert node.process.wait(10) == 0
    # What ran goes on; the next start takes it up.
    assert len(faults.sandbox_pids(node)) == 1
    node.start()
    assert node.run(run)["state"] == "running"
    node.http("POST", f"/v1/runs/{run}/cancel")
    assert node.wait_run(run)["state"] == "cancelled"


def test_sigquit_leaves_what_runs_to_the_next_start(draining):
    node = draining()
    runs = [trigger(node, "stream") for _ in range(2)]
    started(node, *runs)
    waiting = [trigger(node, "quick") for _ in range(3)]
    begin = time.monotonic()
    node.process.send_signal(signal.SIGQUIT)
    assert node.process.wait(10) == 0
    assert time.monotonic() - begin < 2
    assert len(faults.sandbox_pids(node)) == 2
    assert faults.groups_left(node) != []
    node.start()
    for run in runs:
        record = node.wait_run(run)
        assert (record["exit_code"], record["attempt"]) == (7, 1), record
        assert faults.output(node, run) == STREAM_OUTPUT
        assert faults.log_of(node, run) == STREAM_LOG
    assert {node.wait_run(r)["state"] for r in waiting} == {"succeeded"}
    assert node.stop() == 0
    faults.assert_nothing_left(node)


def test_signals_to_a_node_that_is_not_ready_yet(make_node):
    for sig in (signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
        for delay in (0, 0.005, 0.02):
            node = make_node(start=False)
            node.start(wait=False)
            time.sleep(delay)
            node.process.send_signal(sig)
            if sig == signal.SIGHUP:
                # It may have been taken as what it is: read the configuration again.
                node.process.send_signal(signal.SIGTERM)
            status = node.process.wait(20)
            # Before the launcher took signals over, they do what they do to any process.
            assert status in (0, -sig, -signal.SIGTERM), (sig, delay, status, node.log())


def reload(node, conf, text):
    before = len(node.log())
    conf.write_text(text)
    node.reload()

    def said():
        """the reload is in the log"""
        return "SIGHUP" in node.log()[before:]
    wait_for(said)
    time.sleep(0.1)
    return node.log()[before:]


def with_conf(make_node, text):
    node = make_node(start=False)
    conf = node.dir / "agent.conf"
    conf.write_text(text)
    conf.chmod(0o644)
    args = [AGENT, "serve", "--config", conf, *(f"--{k}={v}" for k, v in node.settings.items())]
    with open(node.log_path, "ab") as log:
        node.process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    node.wait_ready()
    return node, conf


def test_sighup_says_what_it_took_and_what_needs_a_restart(make_node, image_tar):
    node, conf = with_conf(make_node, "[http]\nmax_body_bytes = 1MiB\n")
    node.cli("push", image_tar)
    faults.put_job(node, "quick", shell("wc -c"))
    big = b"x" * 2000
    assert node.http("POST", "/v1/jobs/quick/runs", big).status == 202

    said = reload(node, conf, "[http]\nmax_body_bytes = 1KiB\n")
    assert "1 settings changed" in said or "1 setting changed" in said, said
    assert node.http("POST", "/v1/jobs/quick/runs", big).status == 413

    said = reload(node, conf, "[http]\nmax_body_bytes = 1KiB\n[sandbox]\nuid_base = 1000000\n")
    assert "sandbox.uid_base" in said and "restart" in said, said

    said = reload(node, conf, "[http]\nmax_body_bytes = many\n")
    assert "stay as they were" in said and "max_body_bytes" in said and "agent.conf" in said, said
    assert node.http("POST", "/v1/jobs/quick/runs", big).status == 413

    said = reload(node, conf, "[http]\nmax_body_bytes = 4KiB\n[log]\nlevel = debug\n")
    assert "2 settings changed" in said, said
    assert node.http("POST", "/v1/jobs/quick/runs", big).status == 202
    # What was taken from the file outlives the agent process; a file that is bad then does not
    # keep the next one from starting.
    faults.kill_agent(node)
    node.wait_ready()
    assert node.http("POST", "/v1/jobs/quick/runs", big).status == 202
    assert node.http("POST", "/v1/jobs/quick/runs", big * 3).status == 413
    conf.write_text("[http]\nmax_body_bytes = many\n")
    faults.kill_agent(node)
    node.wait_ready()
    assert node.http("GET", "/readyz").status == 200
