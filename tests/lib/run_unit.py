#!/usr/bin/env python3
"""Runs cmocka programs side by side and sums up what they say.

The output of a program is shown only when it fails. Counts go to --results as JSON, for .ci/run.
"""
import argparse
import concurrent.futures
import json
import os
import re
import subprocess
import sys
import time


def run(program, timeout):
    env = dict(os.environ)
    env.setdefault("ASAN_OPTIONS",
                   "detect_leaks=1:strict_string_checks=1:allocator_may_return_null=1")
    env.setdefault("TSAN_OPTIONS", "allocator_may_return_null=1:halt_on_error=1")
    env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
    start = time.monotonic()
    try:
        p = subprocess.run([program], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, timeout=timeout)
        code, text = p.returncode, p.stdout.decode(errors="replace")
    except subprocess.TimeoutExpired as e:
        code, text = -1, (e.stdout or b"").decode(errors="replace") + f"\nno end after {timeout} s"
    passed = len(re.findall(r"^\[       OK \]", text, re.M))
    failed = len(re.findall(r"^\[  FAILED  \] .*?$", text, re.M))
    skipped = len(re.findall(r"^\[  SKIPPED \] (?!\d)", text, re.M))
    # cmocka names each failed test twice: when it fails and in the closing list.
    m = re.search(r"^\[  FAILED  \] .*?(\d+) test\(s\)", text, re.M)
    if m:
        failed = int(m.group(1))
    m = re.search(r"^\[  SKIPPED \] .*?(\d+) test\(s\)", text, re.M)
    if m:
        skipped = int(m.group(1))
    if code != 0 and failed == 0:
        failed = 1  # a crash, a leak, or no end
    if code == 0 and passed + failed + skipped == 0:
        failed, text = 1, text + "\nthe program ran no test"
    return program, code, text, passed, failed, skipped, time.monotonic() - start


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--results")
    ap.add_argument("--jobs", type=int, default=2)
    ap.add_argument("--timeout", type=int, default=300)
    ap.add_argument("programs", nargs="*")
    args = ap.parse_args()
    total = [0, 0, 0]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for program, code, text, passed, failed, skipped, secs in pool.map(
                lambda p: run(p, args.timeout), args.programs):
            total = [total[0] + passed, total[1] + failed, total[2] + skipped]
            name = os.path.basename(program)
            more = f", {skipped} skipped" if skipped else ""
            if failed or code != 0:
                print(text)
                print(f"FAIL {name}: {passed} passed, {failed} failed{more} (exit {code})")
            else:
                print(f"ok   {name}: {passed} passed{more} ({secs:.1f} s)")
    print(f"unit: {total[0]} passed, {total[1]} failed, {total[2]} skipped")
    if args.results:
        os.makedirs(os.path.dirname(args.results), exist_ok=True)
        with open(args.results, "w") as f:
            json.dump({"passed": total[0], "failed": total[1], "skipped": total[2]}, f)
    return 1 if total[1] else 0


sys.exit(main())
