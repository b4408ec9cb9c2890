#!/usr/bin/env python3
"""make bench: what a start costs, what a submit costs, and how small the agent is, in one run.

    bench.py --agent build/agent --bin build/bench [--quick] [--out build/bench/bench.json]

Needs root. Prints one table of medians and ratios; writes the same as JSON. Peers (bwrap, runc)
take part when they are installed. Two cores and neighbours: trust the ratios, not single figures.
"""
import argparse
import hashlib
import json
import os
import pathlib
import platform
import shutil
import signal
import socket
import sqlite3
import ssl
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests" / "lib"))
import tiny_image  # noqa: E402


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def family(pid):
    """The process and all that descend from it."""
    found = [pid]
    for p in found:
        try:
            kids = pathlib.Path(f"/proc/{p}/task/{p}/children").read_text().split()
        except OSError:
            kids = []
        found += [int(k) for k in kids]
    return found


def rss(pid):
    try:
        for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


class Node:
    def __init__(self, agent, tls=False, **settings):
        self.agent = agent
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="agent-bench-", dir="/var/tmp"))
        self.dir.chmod(0o711)
        self.addr = f"127.0.0.1:{free_port()}"
        args = {"node.data_dir": self.dir / "data", "node.user": "nobody",
                "http.listen": self.addr, "gossip.listen": f"127.0.0.1:{free_port()}",
                "log.level": "warn", **settings}
        self.ca, scheme, context = None, "http", None
        if tls:
            keys = self.dir / "keys"
            run = [agent, "ca"]
            subprocess.run([*run, "init", "--dir", keys], check=True, stdout=subprocess.DEVNULL)
            subprocess.run([*run, "issue", "bench", "--dir", keys, "--out", keys], check=True,
                           stdout=subprocess.DEVNULL)
            self.ca, scheme = keys / "ca.pem", "https"
            context = ssl.create_default_context(cafile=self.ca)
            args.update({"node.name": "bench", "http.tls_cert": keys / "bench.pem",
                         "http.tls_key": keys / "bench.key", "http.tls_client_ca": self.ca})
        self.log = open(self.dir / "log", "wb")
        started = time.monotonic()
        self.process = subprocess.Popen([agent, "serve", *(f"--{k}={v}" for k, v in args.items())],
                                        stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        while True:
            try:
                with urllib.request.urlopen(f"{scheme}://{self.addr}/readyz", timeout=1,
                                            context=context) as r:
                    if r.status == 200:
                        break
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > started + 10:
                sys.exit((self.dir / "log").read_text(errors="replace"))
            time.sleep(0.0005)
        self.ready_ms = (time.monotonic() - started) * 1000

    def cli(self, *args, **kw):
        more = {"AGENT_CA": str(self.ca)} if self.ca else {}
        return subprocess.run([self.agent, *map(str, args)], check=True,
                              env={**os.environ, "AGENT_ADDR": self.addr, **more}, **kw)

    def rss(self):
        return sum(rss(p) for p in family(self.process.pid))

    def agent_rss(self):
        """Of the process that meets the network alone."""
        most = 0
        for p in family(self.process.pid):
            try:
                if pathlib.Path(f"/proc/{p}").stat().st_uid != 0:
                    most = max(most, rss(p))
            except (FileNotFoundError, ProcessLookupError):
                pass  # a short process of a sandbox
        return most

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(120)
        self.log.close()
        shutil.rmtree(self.dir)


def layout(path, layers, config):
    """An OCI archive with these layers (tar bytes or files)."""
    blobs = {}

    def blob(data):
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"digest": "sha256:" + digest, "size": len(data)}

    parts = [{"mediaType": "application/vnd.oci.image.layer.v1.tar", **blob(d)} for d in layers]
    document = {"architecture": "amd64", "os": "linux", "config": config,
                "rootfs": {"type": "layers", "diff_ids": [p["digest"] for p in parts]}}
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                           **blob(json.dumps(document).encode())},
                "layers": parts}
    index = {"schemaVersion": 2, "manifests": [
        {"mediaType": manifest["mediaType"], **blob(json.dumps(manifest).encode())}]}
    with tarfile.open(path, "w") as tar:
        tiny_image.add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        tiny_image.add(tar, "index.json", json.dumps(index).encode())
        for digest, data in blobs.items():
            tiny_image.add(tar, "blobs/sha256/" + digest, data)


def noop_layer(noop):
    def fill(tar):
        tiny_image.add(tar, "noop", pathlib.Path(noop).read_bytes(), 0o755)
    return tiny_image.tar_of(fill)


def submit(args, node, method, path, n, inflight, wait=0):
    out = subprocess.run([f"{args.bin}/submit", node.addr, method, path, "--n", str(n),
                          "--inflight", str(inflight), "--json", path,
                          *(["--wait", str(wait)] if wait else []),
                          *(["--ca", str(node.ca)] if node.ca else [])],
                         capture_output=True, text=True)
    if not out.stdout:
        sys.exit(f"bench-submit: {out.stderr}")
    result = json.loads(out.stdout)
    if result["failed"]:
        sys.exit(f"bench-submit: {out.stderr}")
    return result


def sqlite_floor(directory):
    """One durable insert (WAL, synchronous=FULL), in microseconds."""
    db = sqlite3.connect(str(directory / "floor.db"), isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("CREATE TABLE t (a BLOB)")
    took = []
    for _ in range(200):
        t = time.perf_counter()
        db.execute("INSERT INTO t VALUES (randomblob(700))")
        took.append((time.perf_counter() - t) * 1e6)
    db.close()
    return statistics.median(took)


def bench_submit(args, node, result):
    n = 300 if args.quick else 2000
    rows = result["http"] = []
    print(f"\n{'over HTTP':<34} {'p50 us':>9} {'p99 us':>9} {'per second':>11}")
    for name, method, path, inflight, wait, count in [
            ("GET /healthz, 1 at a time", "GET", "/healthz", 1, 0, n * 2),
            ("GET /healthz, 64", "GET", "/healthz", 64, 0, n * 20),
            ("submit to accepted, 1", "POST", "/v1/jobs/noop/runs", 1, 0, n // 4),
            ("submit to result, 1", "POST", "/v1/jobs/noop/runs", 1, 30, n // 2),
            ("submit to result, 8", "POST", "/v1/jobs/noop/runs", 8, 30, n),
            ("submit to result, 64", "POST", "/v1/jobs/noop/runs", 64, 30, n)]:
        r = submit(args, node, method, path, count, inflight, wait)
        r["name"] = name
        rows.append(r)
        print(f"{name:<34} {r['p50_us']:>9} {r['p99_us']:>9} {r['rate']:>11.0f}")
        if "accepted" in name:
            time.sleep(2)
    result["sqlite_commit_us"] = sqlite_floor(node.dir)
    print(f"{'floor: one durable SQLite insert':<34} {result['sqlite_commit_us']:>9.0f}")


def bench_tls(args, plain, job, result):
    """The same over kept-alive TLS connections, in turns with plain ones."""
    n = 300 if args.quick else 1000
    node = Node(args.agent, tls=True, **{"node.slots": 16})
    job(node)
    rows = result["tls"] = []
    print(f"\n{'TLS against plain, kept alive':<34} {'plain/s':>9} {'TLS/s':>9} {'ratio':>11}")
    for name, method, path, inflight, wait, count in [
            ("GET /healthz, 64", "GET", "/healthz", 64, 0, n * 20),
            ("submit to result, 64", "POST", "/v1/jobs/noop/runs", 64, 30, n),
            ("submit to accepted, 8", "POST", "/v1/jobs/noop/runs", 8, 0, n // 4)]:
        rates = {}
        for _ in range(5):
            for which, at in ("plain", plain), ("tls", node):
                r = submit(args, at, method, path, count, inflight, wait)
                rates.setdefault(which, []).append(r["rate"])
                if "accepted" in name:
                    time.sleep(2)
        a, b = statistics.median(rates["plain"]), statistics.median(rates["tls"])
        rows.append({"name": name, "plain": a, "tls": b, "ratio": b / a})
        print(f"{name:<34} {a:>9.0f} {b:>9.0f} {b / a:>11.2f}")
    node.close()


def peak_during(node, fn):
    """The largest resident size of the agent process while fn runs, above the one before."""
    before = node.agent_rss()
    peak = [before]
    import threading
    stop = threading.Event()

    def watch():
        while not stop.wait(0.02):
            peak[0] = max(peak[0], node.agent_rss())
    t = threading.Thread(target=watch)
    t.start()
    began = time.monotonic()
    try:
        fn()
    finally:
        stop.set()
        t.join()
    return peak[0] - before, time.monotonic() - began


def bench_big(args, node, result):
    """A gigabyte in, out, and as a layer, must not grow the agent."""
    size = (64 if args.quick else 1024) << 20
    mib = size >> 20
    payload = node.dir / "payload"
    with open(payload, "wb") as f:
        f.truncate(size)
    busybox = node.dir / "busybox.tar"
    tiny_image.write_docker_save(str(busybox), "bench/busybox:1")
    node.cli("push", busybox, stdout=subprocess.DEVNULL)
    big = node.dir / "big.tar"

    def fill(tar):
        info = tarfile.TarInfo("zeros")
        info.size = size
        with open(payload, "rb") as f:
            tar.addfile(info, f)
    layer = node.dir / "layer"
    with tarfile.open(layer, "w") as tar:
        fill(tar)
    layout(big, [layer.read_bytes()], {"Cmd": ["/zeros"]})
    layer.unlink()

    def submit_payload():
        with open(payload, "rb") as f:
            node.cli("submit", "bench/busybox:1", "--wait", "--", "/bin/busybox", "wc", "-c",
                     stdin=f, stdout=subprocess.DEVNULL)

    def read_output():
        node.cli("submit", "bench/busybox:1", "--wait", "--", "/bin/busybox", "head", "-c",
                 size, "/dev/zero", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    rows = result["big"] = []
    print(f"\n{mib} MiB{'':<28} {'RSS grows MiB':>14} {'seconds':>9}")
    for name, fn in [("payload in", submit_payload), ("output out", read_output),
                     ("layer pushed", lambda: node.cli("push", big, "bench/big:1",
                                                       stdout=subprocess.DEVNULL))]:
        grown, seconds = peak_during(node, fn)
        rows.append({"name": name, "mib": mib, "rss_growth": grown, "seconds": seconds})
        print(f"{name:<34} {grown / 2**20:>14.1f} {seconds:>9.2f}")


def agent_pid(node):
    """The process that meets the network."""
    return max((p for p in family(node.process.pid)
                if pathlib.Path(f"/proc/{p}").stat().st_uid != 0), key=rss)


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def count_runs(node, state):
    with urllib.request.urlopen(f"http://{node.addr}/v1/status", timeout=10) as r:
        runs = json.load(r)["runs"]
    return runs.get(state, 0)


def sleeper_node(args, slots, **settings):
    """A node with a job `sleeper` that only sleeps."""
    node = Node(args.agent, **{"node.slots": slots, "node.memory": "1TiB",
                               "sandbox.prepared": "none", "sandbox.grace": "100ms", **settings})
    image = node.dir / "busybox.tar"
    tiny_image.write_docker_save(str(image), "bench/busybox:1")
    node.cli("push", image, "bench/busybox:1", stdout=subprocess.DEVNULL)
    document = {"name": "sleeper", "image": "bench/busybox:1", "memory": "16MiB",
                "command": ["/bin/busybox", "sleep", "600"]}
    node.cli("apply", "-f", "-", stdout=subprocess.DEVNULL, input=json.dumps(document).encode())
    return node


def bench_many(args, result):
    """What a live sandbox costs the agent each second, and what a queued run keeps in memory."""
    live = 100 if args.quick else 1000
    node = sleeper_node(args, live)
    submit(args, node, "POST", "/v1/jobs/sleeper/runs", live, 16)
    deadline = time.monotonic() + 180
    while count_runs(node, "running") < live and time.monotonic() < deadline:
        time.sleep(0.5)
    running = count_runs(node, "running")
    pid = agent_pid(node)
    time.sleep(3)
    before, began = cpu_seconds(pid), time.monotonic()
    time.sleep(20)
    share = (cpu_seconds(pid) - before) / (time.monotonic() - began)
    node.close()

    queued = 2000 if args.quick else 20000
    node = sleeper_node(args, 1)
    submit(args, node, "POST", "/v1/jobs/sleeper/runs", 500, 64)  # what is made once
    before = node.agent_rss()
    submit(args, node, "POST", "/v1/jobs/sleeper/runs", queued, 64)
    each = (node.agent_rss() - before) / queued
    node.close()
    result["many"] = {"live": running, "agent_share_of_core": share, "queued": queued,
                      "bytes_per_queued_run": each}
    print(f"\n{f'{running} live, sampled every second':<34} {share * 100:>9.1f} % of a core")
    print(f"{f'{queued} queued':<34} {each:>9.0f} bytes each, in the agent")


def bench_replicas(args, result):
    """Accepting a run that is durable on two nodes beside one that is durable on one, in turns. The
    nodes share this machine and its disk: two commits for one."""
    n = 300 if args.quick else 2000
    lone = sleeper_node(args, 1)
    seed = f"127.0.0.1:{free_port()}"
    owner = sleeper_node(args, 1, **{"node.name": "owner", "gossip.listen": seed,
                                     "gossip.profile": "local"})
    others = [Node(args.agent, **{"node.name": name, "gossip.join": seed, "node.slots": 1,
                                  "gossip.profile": "local"}) for name in ("one", "two")]
    for node in (lone, owner):  # nothing but accepting: the queue only grows
        submit(args, node, "POST", "/v1/jobs/sleeper/runs", 200, 16)
    time.sleep(3)
    rows = result["replicas"] = []
    print(f"\n{'accepted, on two nodes against one':<34} {'one p50':>9} {'two p50':>9} "
          f"{'one/s':>8} {'two/s':>8} {'p50':>6} {'rate':>6}")
    for inflight, count in (1, n // 4), (64, n):
        got = {"one": [], "two": []}
        for _ in range(3):
            for which, at in ("one", lone), ("two", owner):
                r = submit(args, at, "POST", "/v1/jobs/sleeper/runs", count, inflight)
                got[which].append(r)
        p50 = {w: statistics.median(r["p50_us"] for r in rs) for w, rs in got.items()}
        rate = {w: statistics.median(r["rate"] for r in rs) for w, rs in got.items()}
        rows.append({"inflight": inflight, "p50_us": p50, "rate": rate})
        print(f"{f'{inflight} at a time':<34} {p50['one']:>9.0f} {p50['two']:>9.0f} "
              f"{rate['one']:>8.0f} {rate['two']:>8.0f} {p50['two'] / p50['one']:>6.2f} "
              f"{rate['two'] / rate['one']:>6.2f}")
    for node in (*others, owner, lone):
        node.close()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--agent", required=True)
    p.add_argument("--bin", required=True)
    p.add_argument("--quick", action="store_true")
    p.add_argument("--out")
    args = p.parse_args()
    if os.geteuid() != 0:
        sys.exit("make bench needs root: it starts sandboxes")
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo")
                  if line.startswith("model name")), platform.machine())
    result = {"machine": {"cpu": model, "cores": os.cpu_count(), "kernel": platform.release()}}
    print(f"{model}, {os.cpu_count()} cores, Linux {platform.release()}\n")

    start = pathlib.Path(args.bin) / "start.json"
    rounds = ["--rounds", "4"] if args.quick else []
    subprocess.run([f"{args.bin}/start", "--noop", f"{args.bin}/noop", "--json", str(start),
                    *rounds], check=True)
    result["start"] = json.loads(start.read_text())

    ready = []
    for _ in range(3 if args.quick else 7):
        node = Node(args.agent)
        ready.append(node.ready_ms)
        node.close()
    node = Node(args.agent, **{"node.slots": 16})
    time.sleep(1)
    small = {"binary_bytes": os.path.getsize(args.agent), "idle_rss_bytes": node.rss(),
             "idle_agent_rss_bytes": node.agent_rss(), "ready_ms": statistics.median(ready)}
    result["small"] = small

    def job(at):
        image = at.dir / "noop.tar"
        layout(image, [noop_layer(f"{args.bin}/noop")], {"Cmd": ["/noop"]})
        at.cli("push", image, "bench/noop:1", stdout=subprocess.DEVNULL)
        document = {"name": "noop", "image": "bench/noop:1", "memory": "16MiB"}
        at.cli("apply", "-f", "-", stdout=subprocess.DEVNULL, input=json.dumps(document).encode())
    job(node)
    bench_submit(args, node, result)
    bench_tls(args, node, job, result)
    bench_big(args, node, result)
    node.close()
    bench_many(args, result)
    bench_replicas(args, result)
    import compare
    result["compare"] = compare.compare(args.agent, args.quick)

    print(f"\n{'binary':<34} {small['binary_bytes'] / 2**20:>9.2f} MiB")
    print(f"{'idle, all processes (16 slots)':<34} {small['idle_rss_bytes'] / 2**20:>9.2f} MiB RSS")
    print(f"{'idle, the agent process':<34} {small['idle_agent_rss_bytes'] / 2**20:>9.2f} MiB RSS")
    print(f"{'start to ready':<34} {small['ready_ms']:>9.1f} ms")
    if args.out:
        pathlib.Path(args.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
