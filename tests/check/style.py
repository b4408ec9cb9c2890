#!/usr/bin/env python3
"""Sizes and habits: functions of at most 70 lines, files under 1,000, a README in every folder, no
unfinished work, no tabs, no line over 100 columns."""
import argparse
import os
import re
import subprocess
import sys

import rules

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 999
COLUMNS_MAX = 100
TEXT = (".c", ".h", ".py", ".sh", ".md", ".html", ".css", ".js", ".conf", ".example")
# Prose and pages; and C, where clang-format decides.
WIDE_OK = (".md", ".html", ".css", ".js", ".c", ".h", ".example")
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|not implemented|unimplemented)\b")


def tracked(root):
    """Files that git knows or would add, or all of them outside a checkout."""
    p = subprocess.run(["git", "-C", root, "ls-files", "-co", "--exclude-standard"],
                       capture_output=True, text=True)
    if p.returncode == 0:
        names = sorted(set(p.stdout.splitlines()))
        return [f for f in names if os.path.exists(os.path.join(root, f))]
    return sorted(os.path.relpath(os.path.join(d, f), root)
                  for d, _, files in os.walk(root) for f in files)


def functions(text):
    """(name, first line, number of lines) of each function: with our layout its braces are the only
    ones in column 0 that stand alone."""
    start = None
    name = "?"
    for n, line in enumerate(rules.code_only(text).splitlines(), 1):
        if line.startswith("{") and start is None:
            start = n
        elif line.startswith("}") and start is not None:
            yield name, start, n - start + 1
            start = None
        elif start is None:
            m = re.match(r"[A-Za-z_].*?(\w+)\(", line)
            if m:
                name = m.group(1)


def problems_of(root, path):
    with open(os.path.join(root, path), encoding="utf-8", errors="replace") as f:
        text = f.read()
    lines = text.splitlines()
    if len(lines) > FILE_LINES_MAX:
        yield f"{path}: {len(lines)} lines; what is the second thing in it?"
    for n, line in enumerate(lines, 1):
        if len(line) > COLUMNS_MAX and not path.endswith(WIDE_OK):
            yield f"{path}:{n}: {len(line)} columns"
        if "\t" in line and path.endswith((".c", ".h", ".py")):
            yield f"{path}:{n}: a tab"
        if UNFINISHED.search(line) and path != "tests/check/style.py":
            yield f"{path}:{n}: unfinished work: {line.strip()}"
    if path.endswith((".c", ".h")):
        for name, first, count in functions(text):
            if count > FUNCTION_LINES_MAX:
                yield f"{path}:{first}: {name}() has {count} lines"


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--root", default=".")
    args = ap.parse_args()
    files = [f for f in tracked(args.root) if f.endswith(TEXT) and "/corpus/" not in f
             and not f.startswith("tests/check/selftest")]
    problems = [p for f in files for p in problems_of(args.root, f)]
    folders = {os.path.dirname(f) for f in files if f.split("/")[0] in ("agent", "common", "tests",
                                                                        "packaging")}
    for d in sorted(folders):
        if d.count("/") <= 1 and d != "agent" and not os.path.exists(
                os.path.join(args.root, d, "README.md")):
            problems.append(f"{d}: has no README.md")
    return rules.report("style", problems, len(files))


sys.exit(main())
