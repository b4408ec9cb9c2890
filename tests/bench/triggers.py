#!/usr/bin/env python3
"""What triggers cost one real node: many schedules, web hooks, messages of a real broker.

    tests/bench/triggers.py --agent build/agent --bin build/bench [--quick] [--out FILE]

Prints a table beside the goals. Schedules fire in January, spread by 'H', so that an idle node is
measured; hooks come over kept-alive connections with durability on; messages go through a condition
that the last one alone meets.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time


def rss_cpu(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    rss = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return rss / 1024, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def schedules(node, n, seconds):
    """MiB for n schedules, share of a core while none is due."""
    pid = node.agent_pid()
    before, _ = rss_cpu(pid)
    for job in range(n // 64):
        doc = {"image": "lab/busybox:1", "triggers": {"schedules": [
            {"name": f"s{i}", "cron": "H H 1 1 *", "time_zone": "Europe/Berlin"}
            for i in range(64)]}}
        r = node.http("PUT", f"/v1/jobs/many{job}", doc)
        assert r.status in (200, 201), r.body
    time.sleep(3)
    after, cpu = rss_cpu(pid)
    time.sleep(seconds)
    idle = (rss_cpu(pid)[1] - cpu) / seconds
    return after - before, idle


def hooks(node, submit, n):
    doc = {"image": "lab/busybox:1", "command": ["true"], "triggers": {
        "hooks": [{"name": "open", "verify": "none"}]}}
    assert node.http("PUT", "/v1/jobs/hooked", doc).status in (200, 201)
    begun = time.monotonic()
    p = subprocess.run([submit, node.addr, "POST", "/v1/hooks/hooked/open", "--n", str(n),
                        "--inflight", "64"], capture_output=True, timeout=300)
    took = time.monotonic() - begun
    assert p.returncode == 0, p.stderr + p.stdout
    return n / took


def messages(node, broker, n):
    doc = {"image": "lab/busybox:1", "command": ["true"], "triggers": {
        "sensors": [{"name": "rare", "mqtt": "plant/+/t", "when": "value > 1000000"}]}}
    assert node.http("PUT", "/v1/jobs/rare", doc).status in (200, 201)
    end = time.monotonic() + 20
    while "subscribed to 'plant/+/t'" not in node.log() and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(0.5)
    lines = b"".join(b"%d\n" % (i % 1000) for i in range(n)) + b"1000001\n"
    begun = time.monotonic()
    subprocess.run(["mosquitto_pub", "-h", "127.0.0.1", "-p", str(broker.port), "-t", "plant/a/t",
                    "-q", "1", "-l"], input=lines, check=True, timeout=300)
    while time.monotonic() - begun < 300:
        if node.http("GET", "/v1/runs?job=rare").json()["runs"]:
            return n / (time.monotonic() - begun)
        time.sleep(0.01)
    raise SystemExit("the last message set nothing off")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--agent", required=True)
    p.add_argument("--bin", required=True)
    p.add_argument("--out")
    p.add_argument("--quick", action="store_true")
    args = p.parse_args()
    os.environ["AGENT"] = args.agent
    sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "system"))
    sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "lib"))
    import conftest
    from test_sensors import Broker
    import tiny_image
    few = 6400 if args.quick else 100000
    many = 5000 if args.quick else 50000
    with tempfile.TemporaryDirectory(prefix="agent-bench-") as tmp:
        broker = Broker(pathlib.Path(tmp))
        broker.start()
        node = conftest.Node(mqtt__url=f"mqtt://127.0.0.1:{broker.port}",
                             store__max_queued=1000000, node__slots=2)
        try:
            node.start()
            tar = pathlib.Path(tmp) / "image.tar"
            tiny_image.write_docker_save(str(tar), "lab/busybox:1")
            node.cli("push", tar)
            mib, idle = schedules(node, few, 10)
            per_s = messages(node, broker, many)
            hook_s = hooks(node, pathlib.Path(args.bin) / "submit", many)
        finally:
            node.close()
            broker.stop()
    rows = [(f"memory for {few // 64 * 64:,} schedules", f"{mib:.1f} MiB", "64 MiB for 100,000"),
            ("one core, none of them due", f"{idle * 100:.2f} %", "1 %"),
            ("messages through a rare condition", f"{per_s:,.0f}/s", "20,000/s"),
            ("web hooks accepted, durable", f"{hook_s:,.0f}/s", "5,000/s on two cores")]
    for what, figure, goal in rows:
        print(f"{what:36} {figure:>14}   goal {goal}")
    if args.out:
        pathlib.Path(args.out).write_text(json.dumps(
            {"schedules": few, "schedules_mib": mib, "idle_share": idle, "messages_per_s": per_s,
             "hooks_per_s": hook_s}, indent=1) + "\n")


if __name__ == "__main__":
    main()
