"""Retries: what an exit code means, what the job asks for, the budget, and what failed for good."""
import time

from conftest import wait_for
from test_triggers import busy, put, runs_of  # noqa: F401 (a fixture)


def submit(node, job):
    return node.http("POST", f"/v1/jobs/{job}/runs", b"").json()["id"]


def end_of(node, job):
    return node.wait_run(submit(node, job))


FAST = {"max": 3, "delay": "10ms", "jitter": 0}


def test_exit_codes(busy):  # noqa: F811
    put(busy, "rules", 'exit $((AGENT_ATTEMPT == 1 ? 71 : 3))',
        retries={**FAST, "exit_codes": {"70-79": "retry", "3": "fail"}})
    run = end_of(busy, "rules")
    assert (run["state"], run["attempt"], run["exit_code"]) == ("failed", 2, 3), run
    put(busy, "all", "exit 9", retries={**FAST, "exit_codes": {"*": "fail"}})
    assert end_of(busy, "all")["attempt"] == 1
    put(busy, "none", "exit 9", retries=FAST)
    assert end_of(busy, "none")["attempt"] == 4
    put(busy, "asks", "exit 75", retries={"delay": "10ms"})
    assert end_of(busy, "asks")["attempt"] == 4
    put(busy, "asks-not", "exit 75", retries={"delay": "10ms", "exit_codes": {"75": "fail"}})
    assert end_of(busy, "asks-not")["attempt"] == 1


def test_the_job_says_when(busy):  # noqa: F811
    """Longer than the document's delay, and shorter; a date; by a user without any right."""
    put(busy, "later", '[ $AGENT_ATTEMPT = 2 ] || { echo 2 > $AGENT_RETRY_AFTER_FILE; exit 75; }',
        retries={"max": 1, "delay": "1ms"}, user="1000")
    run = end_of(busy, "later")
    assert (run["state"], run["attempt"]) == ("succeeded", 2), run
    assert run["started_at"] > run["created_at"]
    begun = time.time()
    put(busy, "sooner", '[ $AGENT_ATTEMPT = 2 ] || { echo 1 > $AGENT_RETRY_AFTER_FILE; exit 75; }',
        retries={"max": 1, "delay": "1h"})
    run = end_of(busy, "sooner")
    assert run["state"] == "succeeded" and 0.9 < time.time() - begun < 60
    at = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 3600))
    put(busy, "date", f"echo '{at}' > $AGENT_RETRY_AFTER_FILE; exit 75",
        retries={"max": 1, "delay": "1ms"})
    run = submit(busy, "date")

    def waits():
        """it waits for its retry"""
        r = busy.run(run)
        return r if r["state"] == "queued" and r["attempt"] == 2 else None
    r = wait_for(waits, 20)
    left = r["retry_at"]
    assert left >= time.strftime("%Y-%m-%dT%H:%M", time.gmtime(time.time() + 3500)), r
    # Rubbish, and a file put in its place, are as if there were none.
    put(busy, "rubbish", "rm -f $AGENT_RETRY_AFTER_FILE; echo 3600 > $AGENT_RETRY_AFTER_FILE; "
        "[ $AGENT_ATTEMPT = 2 ] || exit 75", retries={"max": 1, "delay": "1ms"})
    assert end_of(busy, "rubbish")["state"] == "succeeded"


def test_a_budget(busy):  # noqa: F811
    put(busy, "storm", "exit 1", retries={"max": 5, "delay": "1ms", "budget": 0.1})
    ids = [submit(busy, "storm") for _ in range(30)]
    runs = [busy.wait_run(i) for i in ids]
    retries = sum(r["attempt"] - 1 for r in runs)
    assert 1 <= retries <= 30 * 0.1 + 10 + 1, retries
    assert any("retries.budget" in (r["detail"] or "") for r in runs)


def test_what_failed_for_good(busy):  # noqa: F811
    put(busy, "breaks", "exit 1", retries={"max": 1, "delay": "1ms"})
    put(busy, "other", "exit 1")
    put(busy, "works", "true")
    ids = {busy.wait_run(submit(busy, "breaks"))["id"] for _ in range(3)}
    other = end_of(busy, "other")["id"]
    good = end_of(busy, "works")["id"]
    listed = busy.cli("failed", "ls", "-n", "0").stdout.decode()
    assert all(i in listed for i in ids | {other}) and good not in listed
    assert other not in busy.cli("failed", "ls", "--job", "breaks").stdout.decode()
    # The cause is not mended: they come back. One by one, then all of a job.
    one = sorted(ids)[0]
    assert busy.cli("failed", "retry", one).stdout == f"{one} queued\n".encode()

    def again():
        """it has failed again, with a retry of its own"""
        r = busy.run(one)
        return r if r["ended_at"] and r["attempt"] == 4 else None
    wait_for(again, 20)
    out = busy.cli("failed", "retry", "--all", "--job", "breaks").stdout.decode()
    assert {line.split()[0] for line in out.splitlines()} == ids
    assert busy.run(other)["attempt"] == 1
    assert busy.cli("failed", "retry", check=False).returncode == 2
    assert busy.cli("failed", "retry", "--all", one, check=False).returncode == 2
    assert busy.cli("failed", "retry", good, check=False).returncode in (0, 1)
