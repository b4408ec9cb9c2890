#!/usr/bin/env python3
"""Shows that every check fails on a sample that breaks its rule and passes on one that does not,
and that the test runners see every way in which a test program can fail."""
import os
import struct
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
COMMON = os.path.join(HERE, "..", "..", "common", "banned.h")

HEADER = "#ifndef %s_H\n#define %s_H\n%s\n#endif\n"
SHORT = "#ifdef UNWANTED\nvoid xmlInitParser(void)\n{\n}\n#endif\n" \
    "int main(int argc, char **argv)\n{\n    (void)argv;\n    return argc;\n}\n"


def header(guard, body=""):
    return HEADER % (guard, guard, body)


def long_function(lines):
    return "int jobs_x(void);\nint jobs_x(void)\n{\n" + "    /* line */\n" * (lines - 3) + \
        "    return 0;\n}\n"


GOOD = {
    "common/README.md": "common\n",
    "common/mem.h": header("COMMON_MEM", "#include <stddef.h>\nvoid *mem_get(size_t n);"),
    "common/mem.c": '#include "common/mem.h"\n#include <stdlib.h>\n'
                    "void *mem_get(size_t n)\n{\n    return malloc(n);\n}\n",
    "agent/jobs/README.md": "jobs\n",
    "agent/jobs/jobs.h": header("AGENT_JOBS_JOBS", "int job_count(const char *s);"),
    "agent/jobs/jobs.c": '#include "agent/jobs/jobs.h"\n#include <string.h>\n'
                         'static const char *const job_names[] = { "a", "b" };\n'
                         "int job_count(const char *s)\n{\n"
                         "    return strcmp(s, job_names[s[0] & 1]);\n}\n",
}

# (what is shown, check, files that differ from GOOD, text that the check must print)
BAD = [
    ("a core sees another core", "layers",
     {"agent/table/table.h": header("T"), "agent/jobs/x.c": '#include "agent/table/table.h"\n'},
     "may not include"),
    ("common sees agent", "layers", {"common/x.c": '#include "agent/jobs/jobs.h"\n'},
     "common/ includes"),
    ("a stranger sees an internal header", "layers",
     {"agent/jobs/jobs_internal.h": header("I"),
      "agent/node/node.c": '#include "agent/jobs/jobs_internal.h"\n'}, "is internal to"),
    ("a pure file takes uv.h", "layers", {"agent/jobs/x.c": "#include <uv.h>\n"}, "includes <uv.h>"),
    ("a pure file takes sockets", "layers", {"agent/jobs/x.c": "#include <sys/socket.h>\n"},
     "includes <sys/socket.h>"),
    ("a pure file takes a shell header", "layers",
     {"common/sys/sys_x.h": header("S"), "agent/jobs/x.c": '#include "common/sys/sys_x.h"\n'},
     "the shell header"),
    ("a pure file takes a header that takes a shell header", "layers",
     {"common/sys/sys_x.h": header("S"), "agent/jobs/y.h": header(
         "Y", '#include "common/sys/sys_x.h"'),
      "agent/jobs/x.c": '#include "agent/jobs/y.h"\n'}, "the shell header"),
    ("a sys file takes uv.h", "layers", {"agent/jobs/sys_x.c": "#include <uv.h>\n"},
     "only uv_* files"),
    ("an include that is not from the root", "layers", {"agent/jobs/x.c": '#include "jobs.h"\n'},
     "not written from the root"),
    ("an unknown folder", "layers", {"agent/misc/x.c": "int misc_x;\n"}, "does not know"),
    ("a header that needs another", "headers", {"common/y.h": header("Y", "size_t y_len(void);")},
     "does not compile alone"),
    ("no guard", "headers", {"common/y.h": "int y_len(void);\n"}, "has no include guard"),
    ("a guard twice", "headers", {"common/y.h": header("COMMON_MEM")}, "has the include guard of"),
    ("a foreign prefix", "symbols",
     {"agent/jobs/x.c": "int table_x(void);\nint table_x(void)\n{\n    return 1;\n}\n"},
     "exports table_x"),
    ("a clock in a pure file", "symbols",
     {"agent/jobs/x.c": "#include <time.h>\nlong job_x(void);\nlong job_x(void)\n{\n"
                        "    return time(NULL);\n}\n"}, "refers to time"),
    ("a descriptor in a pure file", "symbols",
     {"agent/jobs/x.c": "#include <unistd.h>\nint job_x(void);\nint job_x(void)\n{\n"
                        "    return close(1);\n}\n"}, "refers to close"),
    ("the environment in a pure file", "symbols",
     {"agent/jobs/x.c": "#include <stdlib.h>\nchar *job_x(void);\nchar *job_x(void)\n{\n"
                        '    return getenv("X");\n}\n'}, "refers to getenv"),
    ("malloc beside mem", "symbols",
     {"agent/jobs/x.c": "#include <stdlib.h>\nvoid *job_x(void);\nvoid *job_x(void)\n{\n"
                        "    return malloc(9);\n}\n"}, "refers to malloc"),
    ("stdio in a pure file", "symbols",
     {"agent/jobs/x.c": "#include <stdio.h>\nvoid job_x(void);\nvoid job_x(void)\n{\n"
                        '    puts("x");\n}\n'}, "refers to puts"),
    ("a pure file calls a shell", "symbols",
     {"agent/jobs/sys_y.c": "void job_y(void);\nvoid job_y(void)\n{\n}\n",
      "agent/jobs/x.c": "void job_y(void);\nvoid job_x(void);\nvoid job_x(void)\n{\n"
                        "    job_y();\n}\n"}, "refers to job_y"),
    ("a mutable global", "symbols",
     {"agent/jobs/x.c": "int job_x(void);\nstatic int counter;\nint job_x(void)\n{\n"
                        "    return counter++;\n}\n"}, "writable object counter"),
    ("a mutable static in a function", "symbols",
     {"agent/jobs/x.c": "int job_x(void);\nint job_x(void)\n{\n    static int last = 7;\n"
                        "    return last++;\n}\n"}, "writable object last"),
    ("a thread-local", "symbols",
     {"agent/jobs/x.c": "int job_x(void);\nstatic _Thread_local int last;\nint job_x(void)\n{\n"
                        "    return last++;\n}\n"}, "writable object last"),
    ("rand in a shell", "symbols",
     {"agent/jobs/sys_x.c": "#include <stdlib.h>\nint job_x(void);\nint job_x(void)\n{\n"
                            "    return rand();\n}\n"}, "calls rand"),
    ("a long function", "style", {"agent/jobs/x.c": long_function(71)}, "has 71 lines"),
    ("a long file", "style", {"agent/jobs/x.c": "/* line */\n" * 1000}, "1000 lines"),
    ("a folder without README", "style", {"agent/node/x.c": "int node_x;\n"}, "has no README"),
    ("unfinished work", "style", {"agent/jobs/x.c": "/* TO" "DO: more */\n"}, "unfinished work"),
    ("a tab", "style", {"agent/jobs/x.c": "int\tjob_x;\n"}, "a tab"),
    ("a wide line", "style", {"agent/jobs/x.py": "# " + "w" * 100 + "\n"}, "columns"),
    ("a banned call", "banned",
     {"agent/jobs/x.c": "#include <string.h>\nvoid job_x(char *a);\nvoid job_x(char *a)\n{\n"
                        '    strcpy(a, "x");\n}\n'}, "strcpy"),
    ("a banned call with clang", "banned-clang",
     {"agent/jobs/x.c": "#include <stdlib.h>\nint job_x(char *a);\nint job_x(char *a)\n{\n"
                        "    return atoi(a);\n}\n"}, "poisoned"),
]

STATIC_PIE = ["-static-pie", "-fPIE", "-Wl,-z,relro,-z,now,-z,noexecstack", "-s"]
BINARY = [
    ("a good binary", STATIC_PIE, None),
    ("a dynamic binary", ["-pie", "-fPIE", "-Wl,-z,relro,-z,now", "-s"], "program interpreter"),
    ("a binary at a fixed address", ["-static", "-no-pie", "-s"], "not position independent"),
    ("lazy binding", ["-pie", "-fPIE", "-Wl,-z,lazy", "-s"], "does not bind at start"),
    ("no relro", STATIC_PIE + ["-Wl,-z,norelro"], "no GNU_RELRO"),
    ("an executable stack", STATIC_PIE + ["-Wl,-z,execstack"], "executable stack"),
    ("a segment to write and run", STATIC_PIE + ["patch"], "writable and executable"),
    ("symbols left", STATIC_PIE[:-1], "not stripped"),
    ("a library nobody wants", STATIC_PIE + ["-DUNWANTED"], "holds xmlInitParser"),
]


def write(root, files):
    for path, text in files.items():
        full = os.path.join(root, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w", encoding="utf-8") as f:
            f.write(text)


def compile_all(root, cc="gcc", more=()):
    for d, _, names in os.walk(root):
        for name in names:
            if name.endswith(".c"):
                source = os.path.relpath(os.path.join(d, name), root)
                out = os.path.join(root, "obj", source[:-2] + ".o")
                os.makedirs(os.path.dirname(out), exist_ok=True)
                p = subprocess.run([cc, "-std=c11", "-D_GNU_SOURCE", "-O1", "-fPIE", "-I.", *more,
                                    "-c", "-o", out, source], cwd=root, capture_output=True,
                                   text=True)
                if p.returncode != 0:
                    return p.returncode, p.stderr
    return 0, ""


def run(check, root):
    if check.startswith("banned"):
        cc = "clang-14" if check.endswith("clang") else "gcc"
        return compile_all(root, cc, ["-include", os.path.abspath(COMMON)])
    cmd = [sys.executable, os.path.join(HERE, check + ".py"), "--root", root]
    if check == "headers":
        cmd += ["--compiler", "gcc"]
    if check == "symbols":
        code, text = compile_all(root)
        if code != 0:
            return code, "the sample does not compile:\n" + text
        cmd += ["--objects", os.path.join(root, "obj")]
    p = subprocess.run(cmd, capture_output=True, text=True)
    return p.returncode, p.stdout + p.stderr


def judge_sample(name, check, files, wanted):
    with tempfile.TemporaryDirectory() as root:
        write(root, {**GOOD, **files})
        code, text = run(check, root)
    if wanted is None:
        return [] if code == 0 else [f"{check}, {name}: fails although all is well:\n{text}"]
    if code == 0 or wanted not in text:
        return [f"{check}, {name}: exit {code} and not '{wanted}':\n{text}"]
    return []


def all_segments_rwx(path):
    """Sets read, write and execute in every PT_LOAD of a 64-bit little-endian ELF file."""
    with open(path, "r+b") as f:
        image = bytearray(f.read())
        start, = struct.unpack_from("<Q", image, 32)
        size, count = struct.unpack_from("<HH", image, 54)
        for at in range(start, start + size * count, size):
            if struct.unpack_from("<I", image, at)[0] == 1:
                struct.pack_into("<I", image, at + 4, 7)
        f.seek(0)
        f.write(image)


def judge_binary(name, flags, wanted):
    with tempfile.TemporaryDirectory() as root:
        write(root, {"x.c": SHORT})
        out = os.path.join(root, "x")
        given = [x for x in flags if x != "patch"]
        cmd = ["gcc", "-O2", *given, os.path.join(root, "x.c"), "-o"]
        subprocess.run([*cmd, out], check=True, capture_output=True)
        subprocess.run([x for x in cmd if x != "-s"] + [out + ".debug"], check=True,
                       capture_output=True)
        if "patch" in flags:
            all_segments_rwx(out)
        p = subprocess.run([sys.executable, os.path.join(HERE, "binary.py"), "--debug",
                            out + ".debug", out], capture_output=True, text=True)
    if (p.returncode == 0) != (wanted is None) or (wanted or "") not in p.stdout:
        return [f"binary, {name}: exit {p.returncode} and not '{wanted}':\n{p.stdout}{p.stderr}"]
    return []


# Programs that a runner must call failed, as shell scripts, with what the runner has to say.
RUNNERS = [
    ("a good program", "run_unit.py", "echo '[       OK ] a'", "1 passed, 0 failed, 0 skipped"),
    ("a skipped test", "run_unit.py",
     "echo '[       OK ] a'; echo '[  SKIPPED ] b'; echo '[  SKIPPED ] g: 1 test(s), listed:'",
     "1 passed, 0 failed, 1 skipped"),
    ("a failed test", "run_unit.py",
     "echo '[  FAILED  ] b'; echo '[  FAILED  ] g: 1 test(s), listed:'; exit 1",
     "0 passed, 1 failed, 0 skipped"),
    ("a crash after the tests", "run_unit.py", "echo '[       OK ] a'; kill -SEGV $$",
     "1 passed, 1 failed, 0 skipped"),
    ("a leak at exit", "run_unit.py", "echo '[       OK ] a'; exit 23",
     "1 passed, 1 failed, 0 skipped"),
    ("no test at all", "run_unit.py", "exit 0", "0 passed, 1 failed, 0 skipped"),
    ("a fuzz target", "run_fuzz.py", "echo stat::number_of_executed_units: 9", "1 passed, 0 failed"),
    ("a crashing fuzz target", "run_fuzz.py", "echo stat::number_of_executed_units: 9; exit 77",
     "0 passed, 1 failed"),
    ("a fuzz target that runs nothing", "run_fuzz.py", "exit 0", "0 passed, 1 failed"),
]


def judge_runner(name, runner, script, wanted):
    with tempfile.TemporaryDirectory() as root:
        program = os.path.join(root, "fuzz_x")
        write(root, {"fuzz_x": "#!/bin/sh\n" + script + "\n"})
        os.chmod(program, 0o755)
        cmd = [sys.executable, os.path.join(HERE, "..", "lib", runner), program]
        if runner == "run_fuzz.py":
            cmd += ["--corpus", root]
        p = subprocess.run(cmd, capture_output=True, text=True)
    good = ", 0 failed" in wanted
    if wanted not in p.stdout or (p.returncode == 0) != good:
        return [f"{runner}, {name}: exit {p.returncode} and not '{wanted}':\n{p.stdout}{p.stderr}"]
    return []


def main():
    problems = []
    checks = sorted({check for _, check, _, _ in BAD})
    for check in checks:
        problems += judge_sample("good sample", check, {}, None)
    for sample in BAD:
        problems += judge_sample(*sample)
    for sample in BINARY:
        problems += judge_binary(*sample)
    for sample in RUNNERS:
        problems += judge_runner(*sample)
    for p in problems:
        print(p)
    count = len(checks) + len(BAD) + len(BINARY) + len(RUNNERS)
    print(f"{'FAIL' if problems else 'ok  '} selftest: {count - len(problems)} of {count} samples")
    return 1 if problems else 0


sys.exit(main())
