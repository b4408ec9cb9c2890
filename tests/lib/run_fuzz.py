#!/usr/bin/env python3
"""Runs libFuzzer programs over their corpus: a number of executions each (smoke), or for a time.

A target `fuzz_thing` reads tests/fuzz/corpus/thing. New inputs go to --new, never into the tracked
corpus. With a fixed --seed two runs do the same.
"""
import argparse
import concurrent.futures
import json
import os
import subprocess
import sys
import tempfile
import time


def run(program, args, scratch):
    name = os.path.basename(program)
    corpus = os.path.join(args.corpus, name[len("fuzz_"):])
    new = os.path.join(args.new or scratch, name)
    os.makedirs(new, exist_ok=True)
    cmd = [program, f"-seed={args.seed}", "-print_final_stats=1", "-timeout=20",
           "-rss_limit_mb=2048", f"-artifact_prefix={os.path.join(args.artifacts, name)}-"]
    cmd.append(f"-max_total_time={args.seconds}" if args.seconds else f"-runs={args.runs}")
    cmd.append(new)
    if os.path.isdir(corpus):
        cmd.append(corpus)
    start = time.monotonic()
    p = subprocess.run(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT)
    text = p.stdout.decode(errors="replace")
    done = 0
    for line in text.splitlines():
        if line.startswith("stat::number_of_executed_units:"):
            done = int(line.split()[1])
    inputs = len(os.listdir(corpus)) if os.path.isdir(corpus) else 0
    return name, p.returncode, text, done, inputs, time.monotonic() - start


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--results")
    ap.add_argument("--jobs", type=int, default=2)
    ap.add_argument("--runs", type=int, default=20000)
    ap.add_argument("--seconds", type=int, default=0)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--corpus", required=True)
    ap.add_argument("--new")
    ap.add_argument("--artifacts", default=".")
    ap.add_argument("programs", nargs="*")
    args = ap.parse_args()
    passed = failed = 0
    with tempfile.TemporaryDirectory() as scratch, \
            concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for name, code, text, done, inputs, secs in pool.map(
                lambda p: run(p, args, scratch), args.programs):
            if code == 0 and done > 0:
                passed += 1
                print(f"ok   {name}: {done} executions from {inputs} inputs ({secs:.1f} s)")
            else:
                failed += 1
                print("\n".join(text.splitlines()[-80:]))
                print(f"FAIL {name}: exit {code} after {done} executions")
    print(f"fuzz: {passed} passed, {failed} failed, 0 skipped")
    if args.results:
        os.makedirs(os.path.dirname(args.results), exist_ok=True)
        with open(args.results, "w") as f:
            json.dump({"passed": passed, "failed": failed, "skipped": 0}, f)
    return 1 if failed else 0


sys.exit(main())
