"""The rules that the checks share: which file is what, who may see whom. DESIGN.md section 5 and
HOUSE_STYLE.md in words that a program can follow. Paths are relative to the root of the tree."""
import os
import re

# Folder of agent/ -> the folders whose public headers it may include (its own and common/ always).
CORES = ["gossip", "table", "hardware", "image", "routing", "jobs", "triggers"]
MAY_SEE = {core: [] for core in CORES}
MAY_SEE["telemetry"] = ["hardware"]
MAY_SEE["sandbox"] = ["hardware", "telemetry"]
MAY_SEE["node"] = CORES + ["telemetry", "sandbox"]
MAY_SEE["api"] = ["node", "ui"]  # and what node.h itself includes
MAY_SEE["cli"] = ["image", "hardware"]  # pure headers only
MAY_SEE["ui"] = []

# Exported names begin with one of these. In agent/ by folder; in common/ by file, where the rule is
# the first word of the file's name.
PREFIX = {folder: [folder + "_"] for folder in MAY_SEE}
PREFIX["jobs"] = ["job_", "jobs_", "run_"]
PREFIX["routing"] = ["route_", "routing_"]
PREFIX["triggers"] = ["trigger_", "triggers_"]
# agent/main.c and the daemon beside it.
PREFIX_MAIN = ["main", "daemon_"]
PREFIX_COMMON = {
    "ids": ["ulid_", "time_"],
    "digest": ["digest_", "hmac_", "mem_"],
}


def sources(root):
    """All .c and .h files of agent/ and common/."""
    out = []
    for top in ("agent", "common"):
        for dirpath, dirs, files in os.walk(os.path.join(root, top)):
            dirs.sort()
            out += [os.path.relpath(os.path.join(dirpath, f), root)
                    for f in sorted(files) if f.endswith((".c", ".h"))]
    return out


def layer(path):
    """'uv', 'sys' or 'pure'. Only shells may touch libuv or make system calls."""
    name = os.path.basename(path)
    if path.startswith("common/loop/") or name.startswith("uv_"):
        return "uv"
    if path.startswith("common/sys/") or name.startswith("sys_") or path == "agent/main.c":
        return "sys"
    return "pure"


def folder(path):
    """'jobs' for agent/jobs/x.c, 'main' for agent/main.c, 'common' for all of common/."""
    parts = path.split("/")
    if parts[0] == "common":
        return "common"
    return parts[1] if len(parts) > 2 else "main"


def includes(root, path):
    """(line number, '"' or '<', name) for each #include of a file."""
    with open(os.path.join(root, path), encoding="utf-8") as f:
        for n, line in enumerate(f, 1):
            m = re.match(r'\s*#\s*include\s*(["<])([^">]+)[">]', line)
            if m:
                yield n, m.group(1), m.group(2)


def code_only(text):
    """The text with comments, strings and character constants blanked; line numbers stay."""
    def blank(m):
        return re.sub(r"[^\n]", " ", m.group(0))
    pattern = r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'"
    return re.sub(pattern, blank, text, flags=re.S)


def report(name, problems, looked_at):
    """Prints the outcome; the exit status."""
    for p in problems:
        print(p)
    if looked_at == 0:
        print(f"FAIL {name}: nothing to look at")
        return 1
    if problems:
        print(f"FAIL {name}: {len(problems)} problems in {looked_at} files")
        return 1
    print(f"ok   {name}: {looked_at} files")
    return 0
