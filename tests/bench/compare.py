#!/usr/bin/env python3
"""Real jobs through `agent submit --wait`, `podman run`, `runc run` and `bwrap`, four at a time:
wall time and the CPU time of everything that they start.

    compare.py --agent build/agent [--quick]

500 times `busybox true` and 50 times an openssl command that encrypts 64 MiB. All four get the same
files, no network, and a writable root that is thrown away (bwrap has no such root but a bind: it
is the only one without). Needs root; who is not installed is left out. Prints a table; bench.py
calls compare() and keeps the rows.
"""
import argparse
import ctypes
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import threading
import time

import bench
from bench import tiny_image

AT_ONCE = 4
SHORT = ["/bin/busybox", "true"]
LONG = ["/bin/sh", "-c", "head -c 67108864 /dev/zero | "
        "openssl enc -aes-256-ctr -pass pass:x -pbkdf2 -iter 1000 > /tmp/out && wc -c < /tmp/out"]
PR_SET_CHILD_SUBREAPER = 36


def libraries(program):
    """What a dynamic program loads, by absolute path."""
    out = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return sorted({w for line in out.splitlines() for w in line.split() if w.startswith("/")})


def fill(tar):
    for d in ("bin", "etc", "proc", "sys", "dev", "tmp", "run", "root"):
        tiny_image.add(tar, d, mode=0o1777 if d == "tmp" else 0o755)
    tiny_image.add(tar, "bin/busybox", pathlib.Path("/bin/busybox").read_bytes(), 0o755)
    for name in ("sh", "head", "wc"):
        tiny_image.add(tar, "bin/" + name, link="busybox")
    openssl = shutil.which("openssl")
    tiny_image.add(tar, "bin/openssl", pathlib.Path(openssl).read_bytes(), 0o755)
    for path in libraries(openssl):
        tiny_image.add(tar, path.lstrip("/"), pathlib.Path(path).read_bytes(), 0o755)
    tiny_image.add(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")


def runc_bundle(directory, rootfs, command):
    directory.mkdir()
    subprocess.run(["runc", "spec"], cwd=directory, check=True)
    config = json.loads((directory / "config.json").read_text())
    config["process"].update(terminal=False, args=command)
    config["process"]["rlimits"] = []
    config["root"].update(path=str(rootfs), readonly=False)
    # What runc calls a writable root is the directory itself: /tmp apart, as for a container.
    config["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"})
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def methods(node, top):
    """Name -> (word for a serial number -> argument vector), for both kinds of job."""
    rootfs = top / "rootfs"
    found = {"agent": lambda cmd, kind, n: [node.agent, "submit", "compare/box:1", "--wait", "--",
                                            *cmd]}
    if shutil.which("podman"):
        found["podman"] = lambda cmd, kind, n: [
            "podman", "--root", str(top / "podman"), "--runroot", str(top / "podman-run"),
            "--cgroup-manager", "cgroupfs", "run", "--rm", "--network", "none", "--log-driver",
            "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--rootfs",
            str(rootfs) + ":O", *cmd]
    if shutil.which("runc"):
        for kind, cmd in (("short", SHORT), ("long", LONG)):
            runc_bundle(top / f"bundle-{kind}", rootfs, cmd)
        found["runc"] = lambda cmd, kind, n: [
            "runc", "--root", str(top / "runc"), "run", "--bundle", str(top / f"bundle-{kind}"),
            f"agent-compare-{os.getpid()}-{kind}-{n}"]
    if shutil.which("bwrap"):
        found["bwrap"] = lambda cmd, kind, n: [
            "bwrap", "--unshare-all", "--die-with-parent", "--bind", str(rootfs), "/", "--proc",
            "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--", *cmd]
    return found


def reap():
    """Children that others left to us (conmon): their time counts."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0] != 0:
            pass
    except ChildProcessError:
        pass


def cpu_of(node):
    """Seconds that the node's processes and all of its dead children have used."""
    ticks = 0
    for pid in bench.family(node.process.pid):
        try:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += sum(map(int, fields[11:15]))
        except OSError:
            pass
    return ticks / os.sysconf("SC_CLK_TCK")


def run_all(argv_of, command, kind, count, env):
    """(wall seconds, CPU seconds of what we started, failures)."""
    left = list(range(count))
    failures = []
    lock = threading.Lock()

    def worker():
        while True:
            with lock:
                if not left:
                    return
                n = left.pop()
            p = subprocess.run(argv_of(command, kind, n), stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env)
            if p.returncode != 0:
                failures.append(p.stderr[-200:].decode(errors="replace"))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.monotonic()
    threads = [threading.Thread(target=worker) for _ in range(AT_ONCE)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    wall = time.monotonic() - begin
    reap()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, failures


def compare(agent, quick):
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    node = bench.Node(agent)
    rows = []
    try:
        top = node.dir / "compare"
        (top / "rootfs").mkdir(parents=True)
        layer = tiny_image.tar_of(fill)
        image = node.dir / "compare.tar"
        bench.layout(image, [layer], {"Env": ["PATH=/bin"]})
        node.cli("push", image, "compare/box:1", stdout=subprocess.DEVNULL)
        subprocess.run(["tar", "-xf", "-", "-C", str(top / "rootfs")], input=layer, check=True)
        env = {**os.environ, "AGENT_ADDR": node.addr}
        print(f"\n{'four at a time':<12} {'jobs':>14} {'wall s':>8} {'CPU s':>8} {'jobs/s':>8}")
        by = methods(node, top)
        for kind, command, count in (("short", SHORT, 40 if quick else 500),
                                     ("long", LONG, 8 if quick else 50)):
            for name, argv_of in list(by.items()):
                idle = cpu_of(node)
                wall, cpu, failures = run_all(argv_of, command, kind, count, env)
                cpu += cpu_of(node) - idle if name == "agent" else 0
                if failures:
                    print(f"{name}: {len(failures)} of {count} failed: {failures[0]}",
                          file=sys.stderr)
                    del by[name]
                    continue
                label = f"{count} {'busybox' if kind == 'short' else 'openssl'}"
                rows.append({"method": name, "jobs": label, "wall_s": wall, "cpu_s": cpu})
                print(f"{name:<12} {label:>14} {wall:>8.2f} {cpu:>8.2f} {count / wall:>8.1f}")
    finally:
        node.close()
    return rows


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--agent", required=True)
    p.add_argument("--quick", action="store_true")
    args = p.parse_args()
    compare(args.agent, args.quick)
