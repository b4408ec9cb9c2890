#!/usr/bin/env python3
"""Sums up what gcov counted: lines of agent/ and common/ that the unit tests ran, per file.

    coverage.py build/cov [--uncovered FILE]
"""
import argparse
import json
import os
import subprocess
import sys


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("objects", help="directory of the objects with their .gcda files")
    ap.add_argument("--uncovered", metavar="FILE", help="print the lines of FILE that never ran")
    args = ap.parse_args()
    lines = {}  # file -> {line: count}
    for d, _, names in os.walk(args.objects):
        notes = [os.path.join(d, n) for n in names if n.endswith(".gcno")]
        if not notes:
            continue
        p = subprocess.run(["gcov", "--json-format", "--stdout", *notes], capture_output=True,
                           text=True, check=True)
        for document in p.stdout.splitlines():
            for f in json.loads(document)["files"] if document else []:
                if f["file"].startswith(("agent/", "common/")):
                    counts = lines.setdefault(f["file"], {})
                    for x in f["lines"]:
                        n = x["line_number"]
                        counts[n] = max(counts.get(n, 0), x["count"])
    if args.uncovered:
        with open(args.uncovered, encoding="utf-8") as f:
            source = f.read().splitlines()
        for n, count in sorted(lines.get(args.uncovered, {}).items()):
            if count == 0:
                print(f"{args.uncovered}:{n}: {source[n - 1]}")
        return 0
    rows = sorted((sum(1 for c in counts.values() if c) / len(counts), len(counts), f)
                  for f, counts in lines.items() if counts)
    for share, count, f in rows:
        print(f"{share:6.1%} of {count:5} lines  {f}")
    total = sum(count for _, count, _ in rows)
    if total:
        print(f"{sum(share * count for share, count, _ in rows) / total:6.1%} of {total:5} lines")
    return 0


sys.exit(main())
