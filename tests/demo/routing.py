#!/usr/bin/env python3
"""The point of it all, live: real agents on one machine, some of which have no AES, some no SHA.

    sudo make demo-routing      or   tests/demo/routing.py --agent build/agent [--runs N] [--svg F]

Six nodes on loopback. Each runs its jobs with a mask of processor features (OPENSSL_ia32cap,
GLIBC_TUNABLES), so that they really differ: a third has no AES, another one no SHA extensions. A
mixed stream of jobs (AES-GCM, SHA-256, compression, a matrix product, sleep with I/O) arrives at
random nodes, once for each policy, with the same arrivals. Nobody says what a job needs; the
learned policy finds out. Nothing is left behind.
"""
import argparse
import collections
import hashlib
import http.client
import json
import os
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import tiny_image  # noqa: E402

NO_AES = "-AESNI,-CLMUL"
NODES = [("full-1", ""), ("full-2", ""), ("full-3", ""), ("nosha-1", "-SHA"),
         ("noaes-1", NO_AES), ("noaes-2", NO_AES)]
JOBS = {
    "aes-gcm": "crypt gcm {0}",
    "sha-256": "crypt sha {0} > /dev/null",
    "compress": "head -c {0}m /dev/zero | gzip -6 > /dev/null",
    "matrix": "awk 'BEGIN {{ n = {0}; for (i = 0; i < n; i++) for (j = 0; j < n; j++) "
              "{{ s = 0; for (k = 0; k < n; k++) s += i * k - j; t += s }} print t }}' > /dev/null",
    "sleep-io": "dd if=/dev/zero of=/tmp/f bs=64k count={0} 2> /dev/null; sleep 0.1",
}
SIZES = {"aes-gcm": 128, "sha-256": 64, "compress": 6, "matrix": 60, "sleep-io": 64}
POLICIES = ["random", "least-loaded", "power-of-two", "learned"]
ENDED = {"succeeded", "failed", "timed_out", "cancelled", "lost"}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def call(port, method, path, body=None, timeout=30):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        headers = {}
        if isinstance(body, dict):
            body, headers = json.dumps(body), {"Content-Type": "application/json"}
        c.request(method, path, body=body, headers=headers)
        r = c.getresponse()
        data = r.read()
        return r.status, json.loads(data) if data[:1] in b"{[" else data
    finally:
        c.close()


def image_with_crypt(path, program):
    """busybox and the crypt program, as `docker save` writes it."""
    applets = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True,
                             check=True).stdout.split()

    def fill(tar):
        for name in ("bin", "etc", "tmp"):
            tiny_image.add(tar, name, mode=0o1777 if name == "tmp" else 0o755)
        for source, name in [("/bin/busybox", "bin/busybox"), (program, "bin/crypt")]:
            tiny_image.add(tar, name, pathlib.Path(source).read_bytes(), 0o755)
        for applet in applets:
            if applet != "busybox":
                tiny_image.add(tar, "bin/" + applet, link="busybox")
        tiny_image.add(tar, "etc/passwd", b"root:x:0:0::/:/bin/sh\n")

    layer = tiny_image.tar_of(fill)
    config = json.dumps({
        "architecture": "amd64", "os": "linux",
        "config": {"Env": ["PATH=/bin", "OPENSSL_CONF=/dev/null"], "WorkingDir": "/tmp"},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
    }).encode()
    name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = json.dumps([{"Config": name, "RepoTags": ["demo/routing:1"],
                            "Layers": ["layer.tar"]}]).encode()

    def outer(tar):
        tiny_image.add(tar, "layer.tar", layer)
        tiny_image.add(tar, name, config)
        tiny_image.add(tar, "manifest.json", manifest)

    path.write_bytes(tiny_image.tar_of(outer))


class Cluster:
    def __init__(self, agent, policy, image):
        self.agent, self.policy = agent, policy
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="agent-demo-routing-"))
        self.dir.chmod(0o711)
        self.nodes, join = [], None
        for name, mask in NODES:
            port, gossip = free_port(), free_port()
            log = open(self.dir / f"{name}.log", "wb")
            settings = {"node.name": name, "node.data_dir": self.dir / name, "node.user": "nobody",
                        "node.slots": 2, "node.capabilities_mask": mask,
                        "http.listen": f"127.0.0.1:{port}", "gossip.listen": f"127.0.0.1:{gossip}",
                        "gossip.profile": "local", "routing.policy": policy, "log.level": "warn"}
            if join:
                settings["gossip.join"] = join
            join = join or f"127.0.0.1:{gossip}"
            process = subprocess.Popen(
                [agent, "serve", *(f"--{k}={v}" for k, v in settings.items() if v != "")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            self.nodes.append((name, port, process))
        try:
            self.wait("every node to know every other", self.whole)
            port = self.nodes[0][1]
            for _, each, _ in self.nodes:
                subprocess.run([agent, "push", image], check=True, capture_output=True,
                               env={**os.environ, "AGENT_ADDR": f"127.0.0.1:{each}"})
            for job, script in JOBS.items():
                status, body = call(port, "PUT", f"/v1/jobs/{job}", {
                    "image": "demo/routing:1", "timeout": "2m",
                    "command": ["/bin/sh", "-c", script.format(SIZES[job])]})
                assert status in (200, 201), body
            self.wait("the jobs to be known everywhere", self.jobs_known)
        except BaseException:
            self.close()
            raise

    def wait(self, what, ready, seconds=60):
        end = time.monotonic() + seconds
        while True:
            try:
                if ready():
                    return
            except OSError:
                pass
            if any(p.poll() is not None for _, _, p in self.nodes) or time.monotonic() > end:
                for name, _, _ in self.nodes:
                    sys.stderr.write((self.dir / f"{name}.log").read_text(errors="replace")[-2000:])
                raise SystemExit(f"demo: waited in vain for {what}")
            time.sleep(0.1)

    def whole(self):
        for _, port, _ in self.nodes:
            status, body = call(port, "GET", "/v1/nodes", timeout=5)
            if status != 200 or sum(n["state"] == "alive" for n in body["nodes"]) < len(NODES):
                return False
        return True

    def jobs_known(self):
        return all(call(port, "GET", f"/v1/jobs/{job}", timeout=5)[0] == 200
                   for _, port, _ in self.nodes for job in JOBS)

    def runs(self):
        out, after = [], ""
        while True:
            status, body = call(self.nodes[0][1], "GET", f"/v1/runs?limit=1000{after}", timeout=60)
            assert status == 200, body
            out += body["runs"]
            if not body.get("next"):
                return out
            after = "&after=" + body["next"]

    def close(self):
        for _, _, process in self.nodes:
            process.terminate()
        for _, _, process in self.nodes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        shutil.rmtree(self.dir, ignore_errors=True)


def share_line(runs, seconds):
    """Where the last runs of each job went, by what the node has."""
    parts = []
    for job in JOBS:
        recent = [r for r in runs if r["job"] == job and r.get("node")][:16]
        where = collections.Counter(r["node"].split("-")[0] for r in recent)
        n = max(len(recent), 1)
        parts.append(f"{job} " + "/".join(f"{100 * where[c] // n:3d}"
                                          for c in ("full", "nosha", "noaes")))
    return f"  {seconds:4.0f} s  " + "   ".join(parts)


def stream(cluster, runs_per_job, gap, seed):
    """Poisson arrivals at random nodes; the same for every policy."""
    rng = random.Random(seed)
    order = [job for job in JOBS for _ in range(runs_per_job)]
    rng.shuffle(order)
    begin = time.monotonic()
    due, shown = begin, begin
    for job in order:
        due += rng.expovariate(1 / gap)
        time.sleep(max(0, due - time.monotonic()))
        status, body = call(rng.choice(cluster.nodes)[1], "POST", f"/v1/jobs/{job}/runs", b"")
        assert status == 202, body
        if time.monotonic() - shown > 5:
            shown = time.monotonic()
            print(share_line(cluster.runs(), shown - begin), flush=True)
    end = time.monotonic() + 300
    while True:
        runs = cluster.runs()
        if len(runs) == len(order) and all(r["state"] in ENDED for r in runs):
            print(share_line(runs, time.monotonic() - begin), flush=True)
            return runs
        if time.monotonic() > end:
            raise SystemExit("demo: runs did not end")
        time.sleep(0.3)


def seconds_of(run):
    return run["queue_seconds"] + run["start_seconds"] + run["run_seconds"]


def measure(runs, learned_after):
    """Of each job's runs after its first `learned_after`, in the order of their acceptance."""
    out = {}
    for job in JOBS:
        own = sorted((r for r in runs if r["job"] == job), key=lambda r: r["id"])[learned_after:]
        bad = [r for r in own if r["state"] != "succeeded"]
        assert not bad, f"{len(bad)} runs of {job} failed: {bad[0]}"
        out[job] = own
    return out


def table(results):
    """Mean and p99 slowdown against each job's median time under its best policy; CPU seconds."""
    def median(own):
        return sorted(r["run_seconds"] for r in own)[len(own) // 2]
    best = {job: min(median(m[job]) for m in results.values()) for job in JOBS}
    rows = {}
    print(f"\n{'policy':14} {'mean':>9} {'p99':>9}   CPU seconds per run")
    print(f"{'':14} {'slowdown':>9} {'slowdown':>9}   " + " ".join(f"{j:>9}" for j in JOBS) +
          f" {'all':>9}")
    for policy, m in results.items():
        slow = sorted(seconds_of(r) / best[job] for job in JOBS for r in m[job])
        cpu = {job: sum(r["resources"]["cpu_seconds"] for r in m[job]) / len(m[job])
               for job in JOBS}
        rows[policy] = {"mean": sum(slow) / len(slow), "p99": slow[int(len(slow) * 0.99)],
                        "cpu": cpu, "all": sum(cpu.values()),
                        "aes": sum(r["run_seconds"] for r in m["aes-gcm"]) / len(m["aes-gcm"])}
        print(f"{policy:14} {rows[policy]['mean']:9.2f} {rows[policy]['p99']:9.2f}   " +
              " ".join(f"{cpu[j]:9.3f}" for j in JOBS) + f" {rows[policy]['all']:9.3f}")
    return rows


def plot(rows, path):
    top = max(r["all"] for r in rows.values()) * 1.1
    colours = ["#1764ab", "#4a98c9", "#94c4df", "#c6dbef", "#dddddd"]
    out = ["<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 620 300' font-size='12' "
           "font-family='sans-serif'><rect width='620' height='300' fill='#fff'/>"
           "<text x='20' y='22' font-size='14'>CPU seconds for one run of each job, once each has "
           "had its learning runs</text>"]
    for i, (policy, r) in enumerate(rows.items()):
        y = 50 + i * 45
        x = 120.0
        out.append(f"<text x='110' y='{y + 20}' text-anchor='end'>{policy}</text>")
        for job, colour in zip(JOBS, colours):
            w = r["cpu"][job] / top * 440
            out.append(f"<rect x='{x:.1f}' y='{y}' width='{w:.1f}' height='30' fill='{colour}'/>")
            x += w
        out.append(f"<text x='{x + 6:.1f}' y='{y + 20}'>{r['all']:.2f}</text>")
    for i, (job, colour) in enumerate(zip(JOBS, colours)):
        out.append(f"<rect x='{120 + i * 95}' y='250' width='12' height='12' fill='{colour}'/>"
                   f"<text x='{136 + i * 95}' y='261'>{job}</text>")
    out.append("</svg>")
    pathlib.Path(path).write_text("\n".join(out) + "\n")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--agent", default="build/agent")
    p.add_argument("--crypt", default="build/demo/crypt")
    p.add_argument("--runs", type=int, default=80, help="of each job, for each policy")
    p.add_argument("--learn", type=int, default=40, help="of them, before measuring begins")
    p.add_argument("--gap", type=float, default=0.25, help="mean seconds between arrivals")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--policy", action="append", choices=POLICIES)
    p.add_argument("--svg")
    a = p.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("demo: needs root, as 'agent serve' does: sudo make demo-routing")
    agent = os.path.realpath(a.agent)
    results = {}
    with tempfile.TemporaryDirectory(prefix="agent-demo-image-") as d:
        image = pathlib.Path(d) / "image.tar"
        image_with_crypt(image, a.crypt)
        for policy in a.policy or POLICIES:
            print(f"\n{policy}: share of each job's last 16 runs on nodes that have all / no SHA / "
                  "no AES, percent", flush=True)
            cluster = Cluster(agent, policy, image)
            try:
                results[policy] = measure(stream(cluster, a.runs, a.gap, a.seed), a.learn)
                if policy == "learned":
                    address = f"127.0.0.1:{cluster.nodes[1][1]}"
                    print(subprocess.run([agent, "profile", "aes-gcm"], capture_output=True,
                                         env={**os.environ, "AGENT_ADDR": address},
                                         text=True, check=True).stdout)
            finally:
                cluster.close()
    rows = table(results)
    if a.svg:
        plot(rows, a.svg)
        print(f"plot: {a.svg}")
    if "learned" in rows and "least-loaded" in rows:
        l, o = rows["learned"], rows["least-loaded"]
        print(f"\nlearned against least-loaded: AES-GCM {o['aes'] / l['aes']:.2f} x as fast "
              f"(goal 2), CPU seconds {100 * (1 - l['all'] / o['all']):.0f} % fewer (goal 25)")


main()
