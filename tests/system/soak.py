#!/usr/bin/env python3
"""A cluster under load, and a fault every two seconds: five agents, each in a network namespace and
on a small disk of its own. Afterwards every accepted run is looked at, and what the nodes left.

    soak.py [--minutes N | --seconds N] [--seed N] [--rate RUNS_PER_SECOND] [--keep]

Faults: kill -9 of an agent, of an agent with its launcher (which stay away for a while), SIGSTOP, a
cut into two sides, a cut in one direction, loss and delay (netem, or a filter where the kernel has
none), a full disk. Prints the table; exits 1 when a run was lost, ended in two ways, was executed
again without a cause, or something is left."""
import argparse
import collections
import ctypes
import http.client
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "tests" / "system"), str(TOP / "tests" / "lib")]
import faults  # noqa: E402
import test_netns  # noqa: E402
import tiny_image  # noqa: E402
from conftest import AGENT, ENDED, Node, wait_for  # noqa: E402

COUNT = 5
EVERY = 2.0
DISK = "192m"


class Net(test_netns.Net):
    """Its bridge has an address, too, and this process goes there."""

    def __init__(self):
        test_netns.COUNT = COUNT
        super().__init__()
        self.inside("br", "ip", "addr", "add", "10.213.7.254/24", "dev", "br0")
        self.inside("br", "ip", "link", "set", "lo", "up")
        self.home = os.open("/proc/self/ns/net", os.O_RDONLY)
        self.enter_self(os.open(f"/run/netns/{self.tag}-br", os.O_RDONLY))

    @staticmethod
    def enter_self(fd):
        if ctypes.CDLL(None, use_errno=True).setns(fd, 0) != 0:
            raise OSError(ctypes.get_errno(), "setns")

    def quiet(self, i):
        self.rules(i)
        self.inside(i, "tc", "qdisc", "del", "dev", "eth0", "root", check=False)

    def close(self):
        self.enter_self(self.home)
        super().close()


class Member(Node):
    def __init__(self, net, i):
        ip = net.ip(i)
        super().__init__(node__name=f"n{i}", http__listen=f"{ip}:7575",
                         gossip__listen=f"{ip}:7946", gossip__profile="local",
                         gossip__join=",".join(f"{net.ip(k)}:7946" for k in range(COUNT)),
                         auth__insecure="yes", node__slots=4, node__memory="1GiB",
                         sandbox__grace="1s", sandbox__prepared="none",
                         store__min_free_bytes="16MiB")
        self.net, self.i, self.ip = net, i, ip
        self.addr = f"{ip}:7575"
        self.lock = threading.Lock()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=711", "soak",
                        str(self.dir)], check=True)

    def start(self, wait=True, env=None):
        args = [AGENT, "serve", *(f"--{k}={v}" for k, v in self.settings.items())]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen([*self.net.enter(self.i), *args], stdout=log,
                                            stderr=log, stdin=subprocess.DEVNULL)
        if wait:
            self.wait_ready(60)
        return self

    def http(self, method, path, body=None, headers=None, timeout=10):
        c = http.client.HTTPConnection(self.ip, 7575, timeout=timeout)
        try:
            if isinstance(body, dict):
                body = json.dumps(body)
                headers = {"Content-Type": "application/json", **(headers or {})}
            c.request(method, path, body=body, headers=headers or {})
            r = c.getresponse()
            r.body = r.read()
            r.json = lambda: json.loads(r.body)
            return r
        except http.client.HTTPException as e:
            raise OSError(str(e)) from e
        finally:
            c.close()

    def close(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        log = self.log()
        subprocess.run(["umount", "-l", str(self.dir)], check=True)
        os.rmdir(self.dir)
        assert "filter refused" not in log, log[-4000:]


class Load(threading.Thread):
    """Stubborn clients: each run has a key and is submitted, anywhere, until it is accepted."""

    def __init__(self, nodes, rate, rng):
        super().__init__(daemon=True)
        self.nodes, self.rate, self.rng = nodes, rate, rng
        self.accepted, self.split_keys, self.given_up = {}, 0, 0
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.open = 0

    def one(self, i, seed):
        rng = random.Random(seed)
        body = f"{rng.choice((0.02, 0.1, 0.4, 1.5))}\n".encode()
        end = time.monotonic() + 90
        try:
            while time.monotonic() < end:
                node = rng.choice(self.nodes)
                try:
                    r = node.http("POST", "/v1/jobs/work/runs", body,
                                  {"Idempotency-Key": f"soak-{i}"}, timeout=8)
                except OSError:
                    r = None
                if r is not None and r.status == 202:
                    with self.lock:
                        self.accepted[r.json()["id"]] = i
                    return
                time.sleep(0.1)
            with self.lock:
                self.given_up += 1
        finally:
            with self.lock:
                self.open -= 1

    def run(self):
        i = 0
        while not self.stop.wait(1 / self.rate):
            with self.lock:
                if self.open >= 200:
                    continue
                self.open += 1
            threading.Thread(target=self.one, args=(i, self.rng.random()), daemon=True).start()
            i += 1

    def close(self):
        self.stop.set()
        self.join()
        wait_for(lambda: self.open == 0, 100, 0.1)


class Faults:
    """One at a time begins every EVERY seconds; each is undone after its time."""

    def __init__(self, net, nodes, rng):
        self.net, self.nodes, self.rng = net, nodes, rng
        self.count = collections.Counter()
        self.undo = []  # (when, what)
        self.down = set()

    def later(self, seconds, what):
        self.undo.append((time.monotonic() + seconds, what))

    def kill_agent(self, node):
        faults.kill_agent(node)

    def kill_launcher(self, node):
        if node.i in self.down or len(self.down) > 1:
            return self.kill_agent(node)
        faults.kill_both(node)
        self.down.add(node.i)

        def back():
            node.start(wait=False)
            self.down.discard(node.i)
        return self.later(self.rng.choice((0.2, 3, 9)), back)

    def stop(self, node):
        pid = node.agent_pid()
        if pid is not None:
            os.kill(pid, signal.SIGSTOP)

            def go_on():
                try:
                    os.kill(pid, signal.SIGCONT)
                except ProcessLookupError:
                    pass
            self.later(self.rng.choice((1, 4, 10)), go_on)

    def cut(self, node):
        side = {node.i, self.rng.randrange(COUNT)}
        other = [i for i in range(COUNT) if i not in side]
        self.net.split(sorted(side), other)
        self.later(self.rng.choice((2, 8)), self.heal)

    def one_way(self, node):
        other = self.rng.choice([i for i in range(COUNT) if i != node.i])
        self.net.rules(node.i, f"ip saddr {self.net.ip(other)}")
        self.later(self.rng.choice((2, 8)), self.heal)

    def heal(self):
        for i in range(COUNT):
            self.net.quiet(i)

    def loss(self, node):
        self.net.quiet(node.i)
        self.net.lossy(node.i, 25)
        self.later(6, lambda: self.net.quiet(node.i))

    def full_disk(self, node):
        path = node.dir / "filler"

        def give_back():
            path.unlink(missing_ok=True)
        subprocess.run(["dd", "if=/dev/zero", f"of={path}", "bs=1M"], stderr=subprocess.DEVNULL,
                       check=False)
        self.later(3, give_back)

    def step(self, all_of_it=False):
        now = time.monotonic()
        due = [u for u in self.undo if all_of_it or u[0] <= now]
        self.undo = [u for u in self.undo if u not in due]
        for _, what in due:
            what()

    def begin(self):
        kind = self.rng.choice(("kill_agent", "kill_launcher", "stop", "cut", "one_way", "loss",
                                "full_disk"))
        node = self.rng.choice([n for n in self.nodes if n.i not in self.down])
        self.count[kind] += 1
        getattr(self, kind)(node)


def everybody_sees_everybody(nodes, seconds):
    def whole():
        """every node sees every other one"""
        for node in nodes:
            try:
                r = node.http("GET", "/v1/members")
            except OSError:
                return False
            alive = [m for m in r.json()["members"] if m["state"] == "alive"]
            if r.status != 200 or len(alive) != COUNT:
                return False
        return True
    wait_for(whole, seconds, 0.3)


def look_at_runs(nodes, accepted, seconds):
    """{run: record of its end}, and those that were told in two ways."""
    found, end = {}, time.monotonic() + seconds
    while len(found) < len(accepted) and time.monotonic() < end:
        for i, run in enumerate(r for r in accepted if r not in found):
            try:
                r = nodes[i % COUNT].http("GET", f"/v1/runs/{run}")
            except OSError:
                continue
            if r.status == 200 and r.json()["state"] in ENDED:
                found[run] = r.json()
        time.sleep(0.2)
    time.sleep(2)  # what is still on its way between the nodes
    torn = []
    for run, record in list(found.items())[-3000:]:
        told = set()
        for node in nodes:
            r = node.http("GET", f"/v1/runs/{run}")
            if r.status == 200:
                told.add((r.json()["state"], r.json()["attempt"], r.json()["epoch"]))
        if len(told) != 1:
            torn.append((run, sorted(told)))
    return found, torn


def leftovers(nodes):
    out = []
    for node in nodes:
        node.stop(60)
        try:
            wait_for(lambda: not faults.processes_left(node), 10)
        except AssertionError:
            out.append(f"n{node.i}: processes {faults.processes_left(node)}")
        mounts = pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8")
        names = [d.name for place in ("runs", "layers") for d in (node.data / place).iterdir()]
        for what, left in (
                ("mounts", [m for m in mounts.splitlines() if f"{node.dir}/" in m]),
                ("groups", faults.groups_left(node)),
                ("slots", list((node.data / "slots").iterdir())),
                ("directories", [n for n in names if n.startswith("tmp")]),
                ("guests", os.listdir(node.data / "db/guests"))):
            if left:
                out.append(f"n{node.i}: {what} {left}")
    return out


def soak(seconds, seed, rate):
    print(f"seed {seed}", flush=True)
    rng = random.Random(seed)
    net = Net()
    nodes = []
    try:
        nodes += [Member(net, i) for i in range(COUNT)]
        for node in nodes:
            node.start(wait=False)
        for node in nodes:
            node.wait_ready(60)
        everybody_sees_everybody(nodes, 60)
        image = nodes[0].dir / "image.tar"
        tiny_image.write_docker_save(str(image), "lab/busybox:1")
        for node in nodes:
            node.cli("push", image)
        faults.put_job(nodes[0], "work", faults.shell(
            "read t; sleep $t; echo $AGENT_RUN_ID $AGENT_ATTEMPT", memory="16MiB",
            retries={"max": 100, "delay": "0s"}))
        wait_for(lambda: all(n.http("GET", "/v1/jobs/work").status == 200 for n in nodes), 20)
        load, bad = Load(nodes, rate, random.Random(seed + 1)), Faults(net, nodes, rng)
        load.start()
        end = time.monotonic() + seconds
        due = time.monotonic() + EVERY
        while time.monotonic() < end:
            bad.step()
            if time.monotonic() >= due:
                due += EVERY
                bad.begin()
            time.sleep(0.05)
        bad.step(all_of_it=True)
        bad.heal()
        load.close()
        everybody_sees_everybody(nodes, 90)
        found, torn = look_at_runs(nodes, load.accepted, 120 + seconds / 10)
        lost = [r for r in load.accepted if r not in found]
        again = [r for r in found.values() if r["attempt"] > 1]
        # An attempt is only tried again when its node or its owner was lost: the program always
        # succeeds. Whatever failed otherwise is a finding.
        failed = [r for r in found.values() if r["state"] != "succeeded" and
                  r["reason"] not in ("node_lost", "quota", "sandbox")]
        keys = collections.Counter(load.accepted.values())
        report = {
            "runs": len(load.accepted), "faults": dict(sorted(bad.count.items())),
            "lost": len(lost), "told in two ways": len(torn), "failed for no cause": len(failed),
            "executed again, with cause": len(again),
            "taken over": sum(r["epoch"] > 1 for r in found.values()),
            "ends that did not stand": sum(r["merged"] for r in found.values()),
            "keys with two runs (splits)": sum(n > 1 for n in keys.values()),
            "not accepted in 90 s": load.given_up,
        }
        details = [*(f"lost: {r}" for r in lost[:10]), *(f"torn: {t}" for t in torn[:10]),
                   *(f"failed: {json.dumps(r)}" for r in failed[:5])]
        if lost:
            for node in nodes:
                told = [json.loads(node.http("GET", f"/v1/runs/{r}").body) for r in lost[:3]]
                details.append(f"n{node.i}: {json.dumps(told)[:2000]}")
        left = leftovers(nodes)
        report["leftovers"] = len(left)
        for name, value in report.items():
            print(f"| {name} | {value} |")
        print("\n".join([*details, *left]))
        return report
    finally:
        for node in nodes:
            node.close()
        net.close()


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--minutes", type=float)
    ap.add_argument("--seconds", type=float, default=60)
    ap.add_argument("--seed", type=int, default=int(time.time()))
    ap.add_argument("--rate", type=float, default=8)
    args = ap.parse_args()
    seconds = args.minutes * 60 if args.minutes else args.seconds
    r = soak(seconds, args.seed, args.rate)
    bad = r["lost"] + r["told in two ways"] + r["failed for no cause"] + r["leftovers"]
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
