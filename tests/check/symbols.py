#!/usr/bin/env python3
"""What the objects say, whatever the sources look like:

* exported names carry the prefix of their folder (agent/) or file (common/);
* an object of a pure file refers only to other pure objects and to the functions listed in
  pure_symbols.txt: no clock, descriptor, entropy, thread, environment, no malloc beside mem;
* a pure object has no writable data;
* no object calls what common/banned.h cannot forbid because its name is an ordinary word.
"""
import argparse
import fnmatch
import os
import re
import subprocess
import sys

import rules


BANNED = {"rand", "random", "system", "alarm", "sleep", "mallopt", "putenv"}


def nm(path):
    """[(type, name)] of an object; addresses dropped."""
    out = subprocess.run(["nm", "-P", path], capture_output=True, text=True, check=True).stdout
    return [(fields[1], fields[0]) for fields in (line.split() for line in out.splitlines())
            if len(fields) >= 2]


def writable(path):
    """Names of objects in .data, .bss and thread-local storage. Tables of constant pointers live in
    .data.rel.ro, which is read-only once the program runs."""
    p = subprocess.run(["objdump", "-tw", path], capture_output=True, text=True, check=True)
    names = []
    for line in p.stdout.splitlines():
        m = re.match(r"[0-9a-f]+ (.{7}) (\S+)\s+[0-9a-f]+\s+(?:\.hidden )?(\S+)$", line)
        if m and "d" not in m.group(1) and re.match(
                r"\.(data|bss|tdata|tbss)(?!\.rel\.ro)|\*COM\*", m.group(2)):
            names.append(m.group(3))
    return names


def load_allowed(path):
    """{file pattern: [symbol patterns]} and the same for data, from pure_symbols.txt."""
    allowed, data = [], []
    with open(path, encoding="utf-8") as f:
        for n, line in enumerate(f, 1):
            line = line.split("#")[0].strip()
            if not line:
                continue
            where, colon, names = line.partition(":")
            if not colon:
                sys.exit(f"{path}:{n}: no ':'")
            into = allowed
            if where.startswith("data "):
                where, into = where[len("data "):], data
            into.append((where.strip(), names.split()))
    return allowed, data


def names_for(table, source):
    return [n for pattern, names in table if fnmatch.fnmatch(source, pattern) for n in names]


def prefixes(source):
    mine = rules.folder(source)
    stem = os.path.splitext(os.path.basename(source))[0]
    if source.startswith("common/sys/"):
        return ["sys_", "fd_"]
    if source.startswith("common/loop/"):
        stem = stem[len("uv_"):] if stem.startswith("uv_") else stem
        return ["loop_", stem + "_", stem.split("_")[0] + "_"]
    if mine == "common":
        return rules.PREFIX_COMMON.get(stem, [stem.split("_")[0] + "_"])
    if mine == "main":
        return rules.PREFIX_MAIN
    return rules.PREFIX.get(mine, [mine + "_"])


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    here = os.path.dirname(os.path.abspath(__file__))
    ap.add_argument("--root", default=".")
    ap.add_argument("--objects", required=True, help="directory of the objects")
    ap.add_argument("--allowed", default=os.path.join(here, "pure_symbols.txt"))
    args = ap.parse_args()
    allowed, data = load_allowed(args.allowed)
    objects, problems = {}, []
    for source in rules.sources(args.root):
        if source.endswith(".c"):
            path = os.path.join(args.objects, source[:-2] + ".o")
            if os.path.exists(path):
                objects[source] = path
            else:
                problems.append(f"{source}: has no object in {args.objects}")
    symbols = {source: nm(path) for source, path in objects.items()}
    pure_defined = {name for source, table in symbols.items() if rules.layer(source) == "pure"
                    for kind, name in table if kind in "TDRBVWC"}
    pure_defined |= {"version_number", "version_revision", "ui_files", "ui_files_len"}
    for source, table in symbols.items():
        ok = prefixes(source)
        for kind, name in table:
            if kind in "TDRBVWC" and not name.startswith(tuple(ok)):
                problems.append(f"{source}: exports {name}, not {' or '.join(ok)}…")
            if kind in "Uw" and name in BANNED:
                problems.append(f"{source}: calls {name}")
        if rules.layer(source) != "pure":
            continue
        patterns = names_for(allowed, source)
        for kind, name in table:
            if kind in "Uwv" and name not in pure_defined and name != "_GLOBAL_OFFSET_TABLE_" \
                    and not any(fnmatch.fnmatchcase(name, p) for p in patterns):
                problems.append(f"{source}: a pure file refers to {name}")
        patterns = names_for(data, source)
        for name in writable(objects[source]):
            base = name.split(".")[0]
            if not any(fnmatch.fnmatchcase(base, p) for p in patterns):
                problems.append(f"{source}: a pure file has the writable object {name}")
    return rules.report("symbols", problems, len(objects))


sys.exit(main())
