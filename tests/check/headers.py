#!/usr/bin/env python3
"""Every header compiles alone, with each compiler, and has a guard that no other header has."""
import argparse
import concurrent.futures
import os
import re
import subprocess
import sys
import tempfile

import rules

FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wpedantic", "-Wundef", "-Werror",
         "-fsyntax-only", "-x", "c"]


def problems_of(root, path, compilers, empty):
    out = []
    for cc in compilers:
        p = subprocess.run([cc, *FLAGS, "-I", root, "-include", path, empty], cwd=root,
                           capture_output=True, text=True)
        if p.returncode != 0:
            out.append(f"{path}: does not compile alone with {cc}:\n{p.stderr.rstrip()}")
    return out


def guard_problems(root, headers):
    seen = {}
    for path in headers:
        with open(os.path.join(root, path), encoding="utf-8") as f:
            m = re.search(r"^#ifndef (\w+_H)\n#define (\w+)$", f.read(), re.M)
        if not m or m.group(1) != m.group(2):
            yield f"{path}: has no include guard"
        elif m.group(1) in seen:
            yield f"{path}: has the include guard of {seen[m.group(1)]}"
        else:
            seen[m.group(1)] = path


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--root", default=".")
    ap.add_argument("--compiler", action="append", required=True)
    ap.add_argument("--jobs", type=int, default=2)
    args = ap.parse_args()
    root = os.path.abspath(args.root)
    headers = [p for p in rules.sources(root) if p.endswith(".h")]
    with tempfile.NamedTemporaryFile(suffix=".c") as empty, \
            concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        found = pool.map(lambda p: problems_of(root, p, args.compiler, empty.name), headers)
        problems = [x for one in found for x in one]
    problems += guard_problems(root, headers)
    return rules.report("headers", problems, len(headers))


sys.exit(main())
