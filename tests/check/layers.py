#!/usr/bin/env python3
"""The include graph obeys the layer table, and pure files include only pure headers.

A header is a shell's when its name says so (uv_*, sys_*), or when it includes, at any depth, such a
header or a system header beyond PURE_SYSTEM. No pure .c file may include one.
"""
import argparse
import os
import sys

import rules

# What a pure file may take from the system: language, text, numbers, constants and data formats.
PURE_SYSTEM = {
    "assert.h", "cpuid.h", "ctype.h", "elf.h", "endian.h", "errno.h", "float.h", "inttypes.h",
    "limits.h", "math.h", "setjmp.h", "stdalign.h", "stdarg.h", "stdatomic.h",
    "stdbool.h", "stddef.h", "stdint.h", "stdio.h", "stdlib.h", "stdnoreturn.h", "string.h",
    "strings.h", "time.h", "sys/types.h",
    # Constants of kernel interfaces, for planning what a shell then does.
    "fcntl.h", "sched.h", "signal.h", "sys/mount.h", "sys/stat.h", "sys/syscall.h", "net/if.h",
    "arpa/inet.h", "netinet/in.h", "syslog.h", "sys/wait.h", "sys/resource.h",
    # Libraries that compute; which of their functions, pure_symbols.txt says.
    "http_parser.h", "ini.h", "archive.h", "archive_entry.h", "zlib.h", "zstd.h", "seccomp.h",
}
PURE_SYSTEM_DIRS = ("linux/", "openssl/", "yajl/")


def pure_system(name):
    return name in PURE_SYSTEM or name.startswith(PURE_SYSTEM_DIRS)


def shell_headers(root, files):
    """The headers that are for shells only."""
    headers = {p: list(rules.includes(root, p)) for p in files if p.endswith(".h")}
    shells = {p for p in headers if rules.layer(p) != "pure"}
    shells |= {p for p, found in headers.items()
               if any(q == "<" and not pure_system(name) for _, q, name in found)}
    shells.discard("common/banned.h")
    while True:
        more = {p for p, found in headers.items() if p not in shells and
                any(q == '"' and name in shells for _, q, name in found)}
        if not more:
            return shells
        shells |= more


def problems_of(root, path, shown_by_node, shells):
    mine, kind = rules.folder(path), rules.layer(path)
    pure_c = kind == "pure" and path.endswith(".c")
    for n, quote, name in rules.includes(root, path):
        where = f"{path}:{n}: "
        if quote == "<":
            if pure_c and not pure_system(name):
                yield where + f"a pure file includes <{name}>"
            if kind == "sys" and name == "uv.h" and path != "agent/main.c":
                yield where + "only uv_* files (and common/loop) include <uv.h>"
            continue
        if not name.startswith(("agent/", "common/")):
            yield where + f'"{name}" is not written from the root of the tree'
            continue
        if not os.path.exists(os.path.join(root, name)):
            yield where + f'"{name}" does not exist'
            continue
        theirs = rules.folder(name)
        if pure_c and name in shells:
            yield where + f'a pure file includes the shell header "{name}"'
        if theirs == "common" or mine == theirs:
            continue
        if mine == "common":
            yield where + f'common/ includes "{name}"'
        elif name.endswith("_internal.h"):
            yield where + f'"{name}" is internal to agent/{theirs}'
        elif mine == "main":
            continue
        elif mine == "api" and name in shown_by_node:
            continue
        elif theirs not in rules.MAY_SEE.get(mine, []):
            yield where + f'agent/{mine} may not include "{name}"'
        elif mine == "cli" and name in shells:
            yield where + f'cli takes only pure files of agent/{theirs}, not "{name}"'


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--root", default=".")
    args = ap.parse_args()
    node_h = "agent/node/node.h"
    shown = set()
    if os.path.exists(os.path.join(args.root, node_h)):
        shown = {name for _, q, name in rules.includes(args.root, node_h) if q == '"'}
    files = rules.sources(args.root)
    shells = shell_headers(args.root, files)
    problems = []
    for path in files:
        known = rules.folder(path) in rules.MAY_SEE or rules.folder(path) in ("common", "main")
        if not known:
            problems.append(f"{path}: tests/check/rules.py does not know this folder")
        problems += problems_of(args.root, path, shown, shells)
    return rules.report("layers", problems, len(files))


sys.exit(main())
