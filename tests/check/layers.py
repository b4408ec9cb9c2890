#!/usr/bin/env python3
"""The include graph obeys the layer table, and pure files include only pure headers."""
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


def problems_of(root, path, shown_by_node):
    if path == "common/banned.h":
        return  # it includes what declares the functions that it forbids
    mine, kind = rules.folder(path), rules.layer(path)
    for n, quote, name in rules.includes(root, path):
        where = f"{path}:{n}: "
        if quote == "<":
            if kind == "pure" and name not in PURE_SYSTEM and not name.startswith(PURE_SYSTEM_DIRS):
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
        theirs, their_kind = rules.folder(name), rules.layer(name)
        if kind == "pure" and their_kind != "pure":
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
        elif mine == "cli" and their_kind != "pure":
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
    problems = []
    for path in files:
        known = rules.folder(path) in rules.MAY_SEE or rules.folder(path) in ("common", "main")
        if not known:
            problems.append(f"{path}: tests/check/rules.py does not know this folder")
        problems += problems_of(args.root, path, shown)
    return rules.report("layers", problems, len(files))


sys.exit(main())
