#!/usr/bin/env python3
"""make bench-cluster: membership beside memberlist, in one run: N nodes in one process on loopback,
ours (tests/bench/gossip.c) and, where Go and Debian's library are, theirs
(tests/bench/memberlist/main.go), in turns. Prints a table of medians and worst cases.

    cluster.py --bin build/bench [--quick] [--out build/bench/cluster.json]
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess


def measure(program, *args, seconds=900):
    """The JSON lines of one run."""
    try:
        p = subprocess.run([program, *map(str, args)], capture_output=True, timeout=seconds,
                           text=True)
        out = p.stdout
    except subprocess.TimeoutExpired as e:
        out = (e.stdout or b"").decode()
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def spread(rows, name):
    values = sorted(r[name] for r in rows)
    if not values:
        return "-"
    return f"{statistics.median(values):.2f} s (worst of {len(values)}: {values[-1]:.2f})"


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--bin", required=True)
    ap.add_argument("--out")
    ap.add_argument("--quick", action="store_true")
    args = ap.parse_args()
    bench = pathlib.Path(args.bin)
    who = {"ours": str(bench / "gossip")}
    if os.access(bench / "memberlist", os.X_OK):
        who["memberlist"] = str(bench / "memberlist")
    else:
        print("memberlist is not there: packaging/deps interop installs what builds it")
    rounds = 3 if args.quick else 20
    got = {name: [] for name in who}
    for what, n, times in [*(("join", n, rounds) for n in (50, 99, 100)),
                           ("crash", 100, 2 if args.quick else 8),
                           ("update", 100, 4 if args.quick else 20),
                           ("idle", 100, 20 if args.quick else 60)]:
        # In turns, so that a noisy neighbour disturbs both.
        slices = 1 if what in ("idle", "update") else times
        for _ in range(slices):
            for name, program in who.items():
                got[name] += measure(program, what, n, times if slices == 1 else 1)
    table = [("what", *who)]
    for n in (50, 99, 100):
        table.append((f"{n} nodes join one at once: all know all",
                      *(spread([r for r in got[w] if r["what"] == "join" and r["nodes"] == n],
                               "seconds") for w in who)))
    for title, field in (("first knows", "first"), ("all know", "all")):
        table.append((f"one of 100 dies: {title}",
                      *(spread([r for r in got[w] if r["what"] == "crash"], field) for w in who)))
    table.append(("one of 100 changes: all know",
                  *(spread([r for r in got[w] if r["what"] == "update"], "seconds") for w in who)))
    idle = {w: next((r for r in got[w] if r["what"] == "idle"), None) for w in who}
    for title, show in (("packets/s, bytes/s", lambda r: f"{r['packets']:.2f}, {r['bytes']:.0f}"),
                        ("share of one core", lambda r: f"{r['cpu']:.3f} %"),
                        ("memory", lambda r: f"{r['rss'] / 1024:.0f} kB")):
        table.append((f"idle, per node: {title}", *(show(idle[w]) if idle[w] else "-"
                                                    for w in who)))
    for i, row in enumerate(table):
        print("| " + " | ".join(row) + " |")
        if i == 0:
            print("| " + " | ".join("---" for _ in row) + " |")
    if args.out:
        pathlib.Path(args.out).write_text(json.dumps(got, indent=1) + "\n", encoding="utf-8")


main()
