#!/usr/bin/env python3
"""Runs every check and test, as much side by side as the machine allows, and sums up.

Each step is a make target, so that any of them can be run by hand. A step that fails does not stop
the others; its output is shown at once. The closing line is `N passed, N failed, N skipped`,
counted in test cases where a runner reports them (build/results), else one per step.
"""
import argparse
import concurrent.futures
import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree

# (name, make target, results file or None)
STATIC = [(n, "check-" + n, None) for n in (
    "cppcheck", "headers", "symbols", "selftest", "style", "layers", "format", "shell", "binary",
    "example", "traps")]
SIDE_BY_SIDE = [
    ("unit", "unit", "unit.json"),
    ("fuzz", "fuzz-smoke", "fuzz.json"),
    ("sim", "check-sim", None),
    ("vm", "check-vm", "vm.json"),
    ("clang", "check-clang", None),
    *STATIC,
]
# These measure time or use the machine's cgroups: nothing beside them.
ALONE = [
    ("system", "system", "system.xml"),
    ("package", "check-package", None),
]
LONG = [
    ("tsan", "unit-tsan", "tsan.json"),
    ("fuzz-long", "fuzz-long", "fuzz-long.json"),
    ("reproducible", "check-reproducible", None),
    ("fresh", "check-fresh", None),
]


def counts_from(path):
    """[passed, failed, skipped] of a results file, or None."""
    if not os.path.exists(path):
        return None
    if path.endswith(".json"):
        with open(path, encoding="utf-8") as f:
            r = json.load(f)
        return [r["passed"], r["failed"], r["skipped"]]
    total = [0, 0, 0]
    for suite in xml.etree.ElementTree.parse(path).getroot().iter("testsuite"):
        tests, skipped = int(suite.get("tests")), int(suite.get("skipped"))
        failed = int(suite.get("failures")) + int(suite.get("errors"))
        total = [total[0] + tests - failed - skipped, total[1] + failed, total[2] + skipped]
    return total


class Runner:
    def __init__(self, args):
        self.args = args
        self.rows = []

    def step(self, name, target, results, make_args=()):
        path = os.path.join(self.args.build, "results", results) if results else None
        if path and os.path.exists(path):
            os.remove(path)
        start = time.monotonic()
        p = subprocess.run([*self.args.make.split(), "--no-print-directory", "WERROR=1",
                            f"B={self.args.build}", *make_args, target],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT)
        secs = time.monotonic() - start
        text = p.stdout.decode(errors="replace").rstrip()
        counts = (counts_from(path) if path else None) or \
            ([1, 0, 0] if p.returncode == 0 else [0, 1, 0])
        if p.returncode != 0 and counts[1] == 0:
            counts[1] = 1
        self.rows.append((name, secs, counts, p.returncode))
        verdict = "ok  " if p.returncode == 0 else "FAIL"
        shown = text if p.returncode != 0 or results else text.splitlines()[-1] if text else ""
        print(f"--- {verdict} {name} ({secs:.1f} s)\n{shown}", flush=True)
        return p.returncode == 0

    def sum_up(self, started):
        total = [sum(counts[i] for _, _, counts, _ in self.rows) for i in range(3)]
        print("\nstep        seconds  passed  failed  skipped")
        for name, secs, counts, _ in self.rows:
            print(f"{name:<12} {secs:6.1f} {counts[0]:7} {counts[1]:7} {counts[2]:8}")
        line = f"{total[0]} passed, {total[1]} failed, {total[2]} skipped"
        with open(os.path.join(self.args.build, "results", "total"), "w", encoding="utf-8") as f:
            f.write(line + "\n")
        print(f"all {time.monotonic() - started:15.1f}\n{line}", flush=True)
        return 1 if total[1] or any(code for *_, code in self.rows) else 0


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--make", default="make")
    ap.add_argument("--build", default="build")
    ap.add_argument("--jobs", type=int, default=2)
    ap.add_argument("--long", action="store_true")
    args = ap.parse_args()
    # Our own make calls are not part of the jobs of the one that started us.
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL"):
        os.environ.pop(name, None)
    os.makedirs(os.path.join(args.build, "results"), exist_ok=True)
    started = time.monotonic()
    runner = Runner(args)
    built = runner.step("build", "check-prepare", None, [f"-j{args.jobs}", "-k", "-Otarget"])
    # The longest one is spread over the cores by make itself.
    runner.step("tidy", "check-tidy", None, [f"-j{args.jobs}", "-k", "-Otarget"])
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda s: runner.step(*s), SIDE_BY_SIDE if built else STATIC))
    if built:
        for step in ALONE + (LONG if args.long else []):
            runner.step(*step)
    return runner.sum_up(started)


sys.exit(main())
