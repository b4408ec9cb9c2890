#!/usr/bin/env python3
"""Judges the built file: static, position independent, read-only relocations, bound at start, no
executable stack, nothing writable and executable, stripped, small."""
import argparse
import os
import re
import subprocess
import sys

SIZE_MAX = 9 * 1024 * 1024
# libxml2, ICU, ACLs, archive writers (specs: only the reader of libarchive is linked).
UNWANTED = r"^(xmlInitParser|u_init\w*|acl_set_file|archive_write_(new|open\w*|set_format_\w+))\b"


def readelf(option, path):
    return subprocess.run(["readelf", "-W", option, path], capture_output=True, text=True,
                          check=True).stdout


def problems_of(path, size_max):
    header, program, dynamic = readelf("-h", path), readelf("-l", path), readelf("-d", path)
    if not re.search(r"Type:\s+DYN", header):
        yield "is not position independent"
    if "FLAGS_1" not in dynamic or "PIE" not in dynamic:
        yield "is not marked PIE"
    if "INTERP" in program:
        yield "asks for a program interpreter"
    if "(NEEDED)" in dynamic:
        yield "needs shared libraries: " + ", ".join(re.findall(r"NEEDED.*\[(.*?)\]", dynamic))
    if "GNU_RELRO" not in program:
        yield "has no GNU_RELRO"
    if "BIND_NOW" not in dynamic and not re.search(r"FLAGS_1.*NOW", dynamic):
        yield "does not bind at start"
    if "TEXTREL" in dynamic:
        yield "relocates its code"
    stack = re.search(r"GNU_STACK\s+(?:0x\w+\s+){5}(\S+(?: E)?)", program)
    if not stack:
        yield "does not say what its stack is"
    elif "E" in stack.group(1):
        yield "has an executable stack"
    for flags in re.findall(r"LOAD\s+(?:0x\w+\s+){5}(R?W? ?E?)", program):
        if "W" in flags and "E" in flags:
            yield "has a segment that is writable and executable"
    if ".symtab" in readelf("-S", path):
        yield "is not stripped"
    size = os.path.getsize(path)
    if size > size_max:
        yield f"has {size} bytes, more than {size_max}"


def unwanted(path):
    """Names in the unstripped binary of libraries that only a mistake in linking brings in."""
    names = subprocess.run(["nm", "-P", path], capture_output=True, text=True, check=True).stdout
    found = {m.group(0) for m in re.finditer(UNWANTED, names, re.M)}
    return [f"holds {name}" for name in sorted(found)[:5]]


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--size-max", type=int, default=SIZE_MAX)
    ap.add_argument("--debug", help="the same binary with its symbols")
    ap.add_argument("binary")
    args = ap.parse_args()
    problems = list(problems_of(args.binary, args.size_max))
    if args.debug:
        problems += unwanted(args.debug)
    for p in problems:
        print(f"{args.binary}: {p}")
    if problems:
        print(f"FAIL binary: {len(problems)} problems")
        return 1
    print(f"ok   binary: {os.path.getsize(args.binary)} bytes, static PIE, RELRO, BIND_NOW, NX")
    return 0


sys.exit(main())
