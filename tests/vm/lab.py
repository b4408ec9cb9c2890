#!/usr/bin/env python3
"""A lab of small virtual machines: boots each guest script of this folder in QEMU under software
emulation, on Debian's own 6.1 kernel with cgroup v2, and counts what the scripts say.

A guest script says on its console, one a line:  PASS name | FAIL name: why | SKIP name: why  and
DONE at its end. Its head says on which machines it runs, one line each:

    # vm: cpu=max memory=512 smp=2 timeout=120

Two processors with a slash between them are two machines with a network of their own, 10.9.0.1 and
10.9.0.2: both run the script, and are judged as one.

Nothing is installed on the host: the kernel package is downloaded and unpacked below --build.
"""
import argparse
import concurrent.futures
import glob
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import tiny_elf  # noqa: E402
import tiny_image  # noqa: E402

# What the initial file system needs to mount the disk, then what the guests use.
BOOT_MODULES = ["virtio_blk", "virtio_pci"]
GUEST_MODULES = ["overlay", "veth", "virtio_net"]
DEFAULTS = {"cpu": "max", "memory": "512", "smp": "1", "timeout": "150", "disk": "512"}


class Unavailable(Exception):
    """The lab cannot be built here: its guests are skipped."""


def run(*cmd, **kw):
    return subprocess.run(cmd, check=True, capture_output=True, text=True, **kw).stdout


# ---------------------------------------------------------------- the kernel

def kernel_tree(build):
    """Directory that holds boot/ and lib/modules/ of Debian's cloud kernel."""
    if glob.glob("/boot/vmlinuz-*-cloud-amd64"):
        return "/"
    tree = os.path.join(build, "kernel")
    if glob.glob(os.path.join(tree, "boot", "vmlinuz-*")):
        return tree
    shutil.rmtree(tree, ignore_errors=True)
    try:
        depends = run("apt-cache", "depends", "linux-image-cloud-amd64")
        package = re.search(r"Depends: (linux-image-[\d.]+-\d+-cloud-amd64)", depends).group(1)
        with tempfile.TemporaryDirectory() as tmp:
            run("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package, cwd=tmp)
            deb, = glob.glob(os.path.join(tmp, "*.deb"))
            run("dpkg-deb", "-x", deb, tree + ".part")
    except (subprocess.CalledProcessError, AttributeError, OSError) as e:
        shutil.rmtree(tree + ".part", ignore_errors=True)
        raise Unavailable(f"Debian's cloud kernel cannot be had: {e}") from e
    os.rename(tree + ".part", tree)
    return tree


def modules(tree, names):
    """Paths of the named modules and of all that they depend on, in the order for insmod."""
    found = {}
    for path in glob.glob(os.path.join(tree, "lib/modules/*-cloud-amd64/**/*.ko"), recursive=True):
        found[os.path.basename(path)[:-3].replace("-", "_")] = path
    order = []

    def take(name):
        path = found.get(name)
        if path is None or path in order:
            return  # built in, or done
        for needed in run("modinfo", "-F", "depends", path).strip().split(","):
            if needed:
                take(needed.replace("-", "_"))
        order.append(path)

    for name in names:
        take(name)
    return order


# ---------------------------------------------------------------- the guest's files

def write_cpio(path, entries):
    """An initial file system ("newc") of (name, mode, bytes)."""
    with open(path, "wb") as f:
        for inode, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
            fields = [inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
            head = b"070701" + b"".join(b"%08X" % x for x in fields) + name.encode() + b"\0"
            f.write(head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4))


def read(path):
    with open(path, "rb") as f:
        return f.read()


def make_initrd(path, tree):
    entries = [(d, stat.S_IFDIR | 0o755, b"") for d in ("bin", "dev", "proc", "root", "modules")]
    entries.append(("bin/busybox", stat.S_IFREG | 0o755, read("/bin/busybox")))
    entries.append(("init", stat.S_IFREG | 0o755, read(os.path.join(HERE, "init.sh"))))
    for n, module in enumerate(modules(tree, BOOT_MODULES)):
        name = f"modules/{n:02}-{os.path.basename(module)}"
        entries.append((name, stat.S_IFREG | 0o644, read(module)))
    write_cpio(path, entries)


def make_root(root, args, tree):
    """The files of the guest's disk, the same for every guest."""
    for d in ("bin", "sbin", "dev", "proc", "sys", "run", "tmp", "etc", "root", "modules",
              "var/lib", "usr/bin"):
        os.makedirs(os.path.join(root, d))
    shutil.copy("/bin/busybox", os.path.join(root, "bin/busybox"))
    for applet in run("/bin/busybox", "--list").split():
        if applet != "busybox":
            os.symlink("busybox", os.path.join(root, "bin", applet))
    shutil.copy(args.agent, os.path.join(root, "usr/bin/agent"))
    loaded = modules(tree, BOOT_MODULES)
    for n, module in enumerate(m for m in modules(tree, GUEST_MODULES) if m not in loaded):
        shutil.copy(module, os.path.join(root, f"modules/{n:02}-{os.path.basename(module)}"))
    for name, text in {
        "passwd": "root:x:0:0:root:/root:/bin/sh\nagent:x:990:990:agent:/var/lib/agent:/bin/false\n"
                  "nobody:x:65534:65534:nobody:/:/bin/false\n",
        "group": "root:x:0:\nagent:x:990:\nnogroup:x:65534:\n",
        "hosts": "127.0.0.1 localhost\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
        "hostname": "guest\n",
    }.items():
        with open(os.path.join(root, "etc", name), "w", encoding="utf-8") as f:
            f.write(text)
    tiny_image.write_docker_save(os.path.join(root, "root/busybox.tar"), "lab/busybox:1",
                                 "/bin/busybox")
    probes = sorted(glob.glob(os.path.join(os.path.dirname(args.agent), "probes", "probe_*")))
    tiny_image.write_docker_save(os.path.join(root, "root/probes.tar"), "lab/probes:1",
                                 "/bin/busybox", programs=probes)
    for level in (2, 3):
        program = os.path.join(root, "tmp", "fast")
        with open(program, "wb") as f:
            f.write(tiny_elf.program(level))
        tiny_image.write_docker_save(os.path.join(root, f"root/level{level}.tar"),
                                     f"lab/level{level}:1", "/bin/busybox", programs=[program],
                                     config={"Cmd": ["/bin/fast"]})
        os.remove(program)
    for script in glob.glob(os.path.join(HERE, "*.sh")):
        shutil.copy(script, os.path.join(root, "root"))


def make_disk(path, root, megabytes):
    with open(path, "wb") as f:
        f.truncate(megabytes << 20)
    run("/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-E", "root_owner=0:0", "-d", root, path)


# ---------------------------------------------------------------- a machine

def machines(script):
    """The option sets of a guest script's `# vm:` lines."""
    out = []
    with open(script, encoding="utf-8") as f:
        for line in f:
            if line.startswith("# vm:"):
                given = dict(pair.split("=", 1) for pair in line[len("# vm:"):].split())
                unknown = set(given) - set(DEFAULTS)
                if unknown:
                    sys.exit(f"{script}: unknown machine options {sorted(unknown)}")
                out.append({**DEFAULTS, **given})
    return out or [dict(DEFAULTS)]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def boot(script, options, *files):
    """One machine, or two that see each other."""
    name = os.path.basename(script)[len("guest-"):-len(".sh")]
    cpus = options["cpu"].split("/")
    port = free_port() if len(cpus) == 2 else 0
    with concurrent.futures.ThreadPoolExecutor(len(cpus)) as pool:
        made = []
        for place, cpu in enumerate(cpus, 1):
            net = [] if not port else [
                "-netdev", f"socket,id=net,{('listen', 'connect')[place - 1]}=127.0.0.1:{port}",
                "-device", f"virtio-net-pci,netdev=net,mac=52:54:00:00:09:0{place}"]
            if made:
                time.sleep(1)  # the first one listens by then
            made.append(pool.submit(machine, script, {**options, "cpu": cpu}, net, place, *files))
        done = [m.result() for m in made]
    lines = [x for d in done for x in d[0] if x != "DONE"]
    if all("DONE" in d[0] for d in done):
        lines.append("DONE")
    late = next((d[1] for d in done if d[1]), "")
    return f"{name} ({options['cpu']})", lines, late, max(d[2] for d in done)


def machine(script, options, net, place, kernel, initrd, root, scratch):
    name = os.path.basename(script)[len("guest-"):-len(".sh")]
    disk = os.path.join(scratch, f"{name}-{options['cpu'].replace(',', '')}-{place}.img")
    make_disk(disk, root, int(options["disk"]))
    cmd = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", options["cpu"], "-m", options["memory"],
           "-smp", options["smp"], "-nographic", "-nodefaults", "-no-reboot", "-serial", "stdio",
           "-kernel", kernel, "-initrd", initrd,
           "-drive", f"file={disk},if=none,id=disk,format=raw,cache=unsafe",
           "-device", "virtio-blk-pci,drive=disk", *net,
           "-append", "console=ttyS0 panic=-1 quiet mitigations=off random.trust_cpu=on "
                      f"guest={os.path.basename(script)} guest_cpu={options['cpu']} "
                      f"guest_place={place}"]
    start = time.monotonic()
    late = ""
    try:
        p = subprocess.run(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, timeout=int(options["timeout"]))
        text = p.stdout
    except subprocess.TimeoutExpired as e:
        text, late = e.stdout or b"", f"no end within {options['timeout']} s"
    finally:
        os.remove(disk)
    lines = text.decode(errors="replace").replace("\r", "").splitlines()
    return lines, late, time.monotonic() - start


def judge(name, lines, late, secs):
    """(passed, failed, skipped) and prints what matters."""
    passed = sum(1 for x in lines if x.startswith("PASS "))
    skips = [x for x in lines if x.startswith("SKIP ")]
    fails = [x for x in lines if x.startswith("FAIL ")]
    if late or "DONE" not in lines:
        fails.append(f"FAIL {name}: {late or 'the script did not reach its end'}")
    if passed == 0 and not fails:
        fails.append(f"FAIL {name}: nothing was tested")
    for x in skips + fails:
        print(f"{name}: {x}")
    if fails:
        print("\n".join("    " + x for x in lines[-120:]))
    print(f"{'FAIL' if fails else 'ok  '} vm {name}: {passed} passed, {len(fails)} failed, "
          f"{len(skips)} skipped ({secs:.0f} s)", flush=True)
    return passed, len(fails), len(skips)


def lab(args):
    for tool in ("qemu-system-x86_64", "modinfo", "/bin/busybox", "/sbin/mke2fs"):
        if shutil.which(tool) is None:
            raise Unavailable(f"{tool} is not installed (packaging/deps vm)")
    os.makedirs(args.build, exist_ok=True)
    tree = kernel_tree(os.path.abspath(args.build))
    kernel = sorted(glob.glob(os.path.join(tree, "boot", "vmlinuz-*-cloud-amd64")))[-1]
    scripts = sorted(glob.glob(os.path.join(HERE, "guest-*.sh")))
    jobs = [(s, o) for s in scripts for o in machines(s) if args.only in os.path.basename(s)]
    total = [0, 0, 0]
    with tempfile.TemporaryDirectory() as scratch, \
            concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        initrd, root = os.path.join(scratch, "initrd"), os.path.join(scratch, "root")
        make_initrd(initrd, tree)
        make_root(root, args, tree)
        for outcome in pool.map(lambda j: boot(*j, kernel, initrd, root, scratch), jobs):
            total = [a + b for a, b in zip(total, judge(*outcome))]
            if args.verbose:
                print("\n".join(outcome[1]))
    return total


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--agent", required=True)
    ap.add_argument("--build", required=True, help="where the kernel is kept")
    ap.add_argument("--results")
    ap.add_argument("--only", default="", help="scripts whose name holds this")
    ap.add_argument("--jobs", type=int, default=1)
    ap.add_argument("--verbose", action="store_true", help="show every console")
    args = ap.parse_args()
    try:
        total = lab(args)
    except Unavailable as e:
        print(f"SKIP vm: {e}")
        total = [0, 0, 1]
    print(f"vm: {total[0]} passed, {total[1]} failed, {total[2]} skipped")
    if args.results:
        os.makedirs(os.path.dirname(args.results), exist_ok=True)
        with open(args.results, "w", encoding="utf-8") as f:
            json.dump(dict(zip(("passed", "failed", "skipped"), total)), f)
    return 1 if total[1] else 0


if __name__ == "__main__":
    sys.exit(main())
