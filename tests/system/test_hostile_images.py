"""Hostile images, end to end: pushed as they are, then run. Each either runs and sees what it
should see, or is refused with a reason; nothing outside of it changes, and the node goes on.

The cases that containerd tests for (names below as there), and those that the CVEs are about.
"""
import gzip
import itertools
import os
import subprocess

import pytest

import lab_image
from conftest import Node
from lab_image import entry, layer

NUMBER = itertools.count()


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    """A node, and a file of the host that nothing may touch."""
    node = Node().start()
    node.canary = tmp_path_factory.mktemp("host") / "canary"
    node.canary.write_text("safe")
    node.canary.chmod(0o640)
    node.base = lab_image.base_layer()
    yield node
    assert node.canary.read_text() == "safe" and node.canary.stat().st_mode & 0o7777 == 0o640
    node.close()


def attempt(box, layers, script="true", config=None, timeout=60, **push):
    """(exit status, stdout, the run's record)"""
    name = f"hostile/x{next(NUMBER)}:1"
    lab_image.push(box, name, layers, config=config, **push)
    p = box.cli("submit", name, "--wait", "--", "sh", "-c", script, check=False, timeout=timeout)
    runs = box.http("GET", "/v1/runs?limit=1").json()["runs"]
    return p.returncode, p.stdout.decode(), runs[0], p.stderr.decode()


def healthy(box):
    assert box.http("GET", "/readyz").status == 200
    assert box.canary.read_text() == "safe"


def runs(box, layers, script, **more):
    code, out, run, err = attempt(box, [box.base, *layers], script, **more)
    assert (code, run["state"]) == (0, "succeeded"), (code, out, err, run)
    healthy(box)
    return out


def refused(box, layers, why, code=125, base=True, **more):
    got, out, run, err = attempt(box, [box.base, *layers] if base else layers, **more)
    assert got == code and run["state"] == "failed" and run["reason"] == "image", (got, run, err)
    assert why in err, err
    healthy(box)


PASSWD = [entry("dir", "etc", mode=0o770), entry("file", "/etc/passwd", "inside")]
SAME = "test {} -ef {}"

# name: (layers above the base, what the job checks)
GOOD = {
    "SymlinkAbsolute": (
        [[entry("dir", "etc"), entry("link", "localetc", "/etc"),
          entry("file", "/localetc/unbroken", "expected")]], "grep -q expected /etc/unbroken"),
    "SymlinkUpAndOut": (
        [[entry("dir", "etc"), entry("dir", "dummy"), entry("link", "localetc", "/dummy/../etc"),
          entry("file", "/localetc/unbroken", "expected")]], "grep -q expected /etc/unbroken"),
    "SymlinkMultipleAbsolute": (
        [[entry("dir", "etc"), entry("dir", "dummy"), entry("link", "/dummy/etc", "/etc"),
          entry("link", "localetc", "/dummy/etc"),
          entry("file", "/dummy/etc/unbroken", "expected")]], "grep -q expected /etc/unbroken"),
    "SymlinkMultipleRelative": (
        [[entry("dir", "etc"), entry("dir", "dummy"), entry("link", "/dummy/etc", "/etc"),
          entry("link", "localetc", "./dummy/etc"),
          entry("file", "/dummy/etc/unbroken", "expected")]], "grep -q expected /etc/unbroken"),
    "SymlinkEmptyFile": (
        [[entry("dir", "etc"), entry("file", "etc/emptied", "notempty"),
          entry("link", "localetc", "/etc"), entry("file", "/localetc/emptied")]],
        "test -f /etc/emptied && test ! -s /etc/emptied"),
    "HardlinkRelative": (
        [[*PASSWD, entry("dir", "breakouts"), entry("link", "breakouts/d1", "../../etc"),
          entry("hard", "breakouts/mypasswd", "/breakouts/d1/passwd")]],
        SAME.format("/breakouts/mypasswd", "/etc/passwd")),
    "HardlinkDownAndOut": (
        [[*PASSWD, entry("dir", "breakouts"), entry("dir", "downandout"),
          entry("link", "breakouts/d1", "../downandout/../../etc"),
          entry("hard", "breakouts/mypasswd", "/breakouts/d1/passwd")]],
        SAME.format("/breakouts/mypasswd", "/etc/passwd")),
    "HardlinkAbsolute": (
        [[*PASSWD, entry("link", "localetc", "/etc"),
          entry("hard", "localpasswd", "/localetc/passwd")]],
        SAME.format("/localpasswd", "/etc/passwd")),
    "HardlinkRelativeLong": (
        [[*PASSWD, entry("link", "localetc", "../../../../../../../etc"),
          entry("hard", "localpasswd", "/localetc/passwd")]],
        SAME.format("/localpasswd", "/etc/passwd")),
    "HardlinkRelativeUpAndOut": (
        [[*PASSWD, entry("dir", "upandout"), entry("link", "localetc", "upandout/../../../etc"),
          entry("hard", "localpasswd", "/localetc/passwd")]],
        SAME.format("/localpasswd", "/etc/passwd")),
    "HardlinkDirectRelative": (
        [[*PASSWD, entry("hard", "localpasswd", "../../../../../etc/passwd")]],
        SAME.format("/localpasswd", "/etc/passwd")),
    "HardlinkDirectAbsolute": (
        [[*PASSWD, entry("hard", "localpasswd", "/etc/passwd")]],
        SAME.format("/localpasswd", "/etc/passwd")),
    "SymlinkParentRelative": (
        [[*PASSWD, entry("link", "localetc/sub/..", "/etc/"),
          entry("hard", "/localetc/localpasswd", "/etc/passwd")]],
        SAME.format("/localetc/localpasswd", "/etc/passwd")),
    "SymlinkSlashEnded": (
        [[*PASSWD, entry("dir", "localetc/", mode=0o770),
          entry("hard", "/localetc/localpasswd", "/etc/passwd")]],
        SAME.format("/localetc/localpasswd", "/etc/passwd")),
    "DirectoryOverrideSymlinkAndHardlink": (
        [[*PASSWD, entry("link", "localetc", "etc"),
          entry("hard", "/localetc/localpasswd", "/etc/passwd")],
         [entry("dir", "/localetc/"), entry("file", "/localetc/localpasswd", "different")]],
        "! test /localetc/localpasswd -ef /etc/passwd && grep -q different /localetc/localpasswd"
        " && grep -q inside /etc/passwd"),
    "WhiteoutSymlink": (
        [[*PASSWD, entry("link", "localetc", "/etc")], [entry("file", ".wh.localetc")]],
        "grep -q inside /etc/passwd && test ! -L /localetc"),
    "WhiteoutRelativePath": (
        [[*PASSWD], [entry("file", "dne/../.wh.etc")]], "test ! -e /etc/passwd"),
    "WhiteoutDeadSymlinkParent": (
        [[*PASSWD, entry("link", "localetc", "/dne")], [entry("file", "localetc/.wh.etc")]],
        "grep -q inside /etc/passwd"),
    "HardlinkSymlinkBeforeCreateTarget": (
        [[entry("dir", "etc"), entry("link", "localpasswd", "/etc/passwd"),
          entry("hard", "localpasswd-dup", "localpasswd"),
          entry("file", "/etc/passwd", "after")]],
        SAME.format("/localpasswd-dup", "/etc/passwd")),
    "HardlinkSymlinkRelative": (
        [[*PASSWD, entry("link", "passwdlink", "../../../../../etc/passwd"),
          entry("hard", "localpasswd", "/passwdlink")]],
        "test -L /localpasswd && test /localpasswd -ef /etc/passwd"),
    "HardlinkSymlinkAbsolute": (
        [[*PASSWD, entry("link", "passwdlink", "/etc/passwd"),
          entry("hard", "localpasswd", "/passwdlink")]],
        "test -L /localpasswd && test /localpasswd -ef /etc/passwd"),
    # not of containerd's list
    "DeviceNodes": (
        [[entry("char", "dev/mem", dev=(1, 1)), entry("block", "disk", dev=(8, 0)),
          entry("char", "whiteout", dev=(0, 0))]],
        "test ! -e /disk && test ! -e /dev/mem && test ! -e /whiteout"),
    "DevIsALink": ([[entry("link", "dev", "/etc"), entry("dir", "etc")]],
                   "echo x >/dev/null && test ! -e /etc/null"),
    "ProcIsALink": ([[entry("link", "proc", "/etc")]], "test -r /proc/self/status"),
    "SysIsALink": ([[entry("link", "sys", "/../../../sys")]], "true"),
    "TmpIsALink": ([[entry("file", ".wh.tmp")], [entry("link", "tmp", "/etc")]],
                   "echo x >/tmp/y && test ! -e /etc/y"),
    "RunIsALink": ([[entry("link", "run", "/etc")]], "test ! -e /etc/agent || true"),
    "DevIsAFile": ([[entry("file", "dev", "x")]], "echo x >/dev/null"),
    "SetuidRoot": ([[entry("file", "su", "#!/bin/sh\nid -u", mode=0o4755)]], "test -x /su"),
    "OverlayAttributes": (
        [[entry("dir", "d"), entry("file", "d/kept", "x")],
         [entry("dir", "d", pax={"SCHILY.xattr.trusted.overlay.opaque": "y",
                                 "SCHILY.xattr.user.overlay.opaque": "y",
                                 "SCHILY.xattr.trusted.overlay.redirect": "/etc",
                                 "SCHILY.xattr.security.selinux": "x"})]],
        "test -e /d/kept"),
    "OpaqueComesLast": (
        [[entry("dir", "d"), entry("file", "d/lower", "x")],
         [entry("file", "d/upper", "x"), entry("file", "d/.wh..wh..opq")]],
        "test -e /d/upper && test ! -e /d/lower"),
    "WhiteoutAndNewOne": (
        [[entry("file", "f", "old")], [entry("file", "f", "new"), entry("file", ".wh.f")]],
        "grep -q new /f"),
    "AufsFiles": ([[entry("dir", ".wh..wh.plnk"), entry("file", ".wh..wh.aufs")]],
                  "test ! -e /.wh..wh.plnk"),
    "RootEntry": ([[entry("dir", "/", mode=0o755)], [entry("dir", "./", mode=0o755)]], "true"),
    "LongNames": ([[entry("file", "/".join(["n" * 200] * 9), "deep")]],
                  "test $(find / -xdev -type f -name 'n*' | wc -l) = 1"),
    "NoTrailer": ([[entry("file", "f", "x")]], "grep -q x /f"),
    "ManyLinks": ([[*(entry("link", f"l{i}", f"l{i + 1}") for i in range(39)),
                    entry("dir", "l39"), entry("file", "l0/f", "x")]], "grep -q x /l39/f"),
    "HomeAbove": ([[entry("dir", "work")]], "pwd"),
}


@pytest.mark.parametrize("name", GOOD)
def test_runs_and_stays_inside(box, name):
    layers, script = GOOD[name]
    end = b"" if name == "NoTrailer" else bytes(1024)
    runs(box, [layer(*x, end=end) for x in layers], script,
         config={"WorkingDir": "/../../work"} if name == "HomeAbove" else None)


# name: (layers above the base, what the reason says)
BAD = {
    "NameAbove": ([[entry("file", "../outside", "x")]], "outside"),
    "NameAboveDeep": ([[entry("file", "a/../../../outside", "x")]], "outside"),
    "NameAboveAbsolute": ([[entry("file", "/../outside", "x")]], "outside"),
    "SymlinkParentDirectory": ([[*PASSWD, entry("link", "..", "/etc/")]], "outside"),
    "SymlinkEmptyFilename": ([[*PASSWD, entry("link", "", "/etc/")]], "without a name"),
    "RootIsALink": ([[entry("link", "/", "/tmp")]], "not a directory"),
    "RootIsAFile": ([[entry("file", ".", "x")]], "not a directory"),
    "LowerHardlink": ([PASSWD, [entry("hard", "h", "/etc/passwd")]], "same layer"),
    "SymlinkOverrideDirectory": (
        [[*PASSWD, entry("dir", "localetc")],
         [entry("link", "localetc", "/etc"), entry("hard", "localetc/pw", "/etc/passwd")]],
        "same layer"),
    "SymlinkOverrideDirectoryRelative": (
        [[*PASSWD, entry("dir", "localetc")],
         [entry("link", "localetc", "../../etc"), entry("hard", "localetc/pw", "/etc/passwd")]],
        "same layer"),
    "DirectoryOverrideSymlink": (
        [[*PASSWD, entry("link", "localetc", "/etc")],
         [entry("dir", "localetc/"), entry("hard", "localetc/pw", "/etc/passwd")]], "same layer"),
    "HardlinkToDirectory": ([[entry("dir", "d"), entry("hard", "h", "d")]], "directory"),
    "HardlinkToRoot": ([[entry("hard", "h", "/")]], "bad target"),
    "LinkLoop": ([[entry("link", "a", "b"), entry("link", "b", "a"),
                   entry("file", "a/x", "y")]], "symbolic links"),
    "TooManyLinks": ([[*(entry("link", f"l{i}", f"l{i + 1}") for i in range(45)),
                       entry("dir", "l45"), entry("file", "l0/f", "x")]], "link"),
    "WhiteoutRootParent": ([[entry("file", ".wh...")]], "names no file"),
    "WhiteoutParent": ([[entry("dir", "etc"), entry("file", "etc/.wh...")]], "names no file"),
    "WhiteoutRoot": ([[entry("file", ".wh..")]], "names no file"),
    "WhiteoutCurrentDirectory": ([[entry("file", "etc/.wh..")]], "names no file"),
    "WhiteoutEmpty": ([[entry("file", "etc/.wh.")]], "names no file"),
    "WhiteoutDirectoryName": ([[entry("file", ".wh.etc/somefile", "x")]], "whiteout"),
    "TooDeep": ([[entry("file", "d/" * 300 + "f", "x")]], "components"),
    "IdsTooHigh": ([[entry("file", "f", "x", uid=1_000_000)]], "ids up to"),
    "NulInPax": ([[entry("file", "f", "x", pax={"path": "a\0b"})]], "NUL"),
    "PaxSizeLies": ([[entry("file", "f", "x", pax={"size": "99999999"})]], ""),
    "SparsePax": ([[entry("file", "f", "x", pax={"GNU.sparse.major": "1"})]], "sparse"),
    "BadChecksum": ([[entry("file", "f", "x")[:148] + b"0000000\0" +
                      entry("file", "f", "x")[156:]]], "checksum"),
    "CutOff": ([[entry("file", "f", b"x" * 5000)[:1000]]], "cut off"),
    "NotATar": ([[b"this is not a tar archive at all" * 32]], "checksum"),
}

@pytest.mark.parametrize("name", BAD)
def test_is_refused(box, name):
    layers, why = BAD[name]
    end = b"" if name in ("CutOff", "NotATar") else bytes(1024)
    refused(box, [layer(*x, end=end) for x in layers], why)


def test_links_to_the_host(box):
    """HardlinkSymlinkChmod: nothing of the host is linked to, read or changed."""
    host = str(box.canary)
    linked = layer(entry("link", "also", host), entry("hard", "sketchy", "also"))
    out = runs(box, [linked], f"cat {host} 2>/dev/null; cat /sketchy; true")
    assert "safe" not in out
    refused(box, [layer(entry("hard", "h", host))], "same layer")
    refused(box, [layer(entry("link", "l", str(box.canary.parent)),
                        entry("hard", "h", "l/canary"))], "same layer")


# -- what the config says

def test_passwd_of_every_kind(box):
    """User lookup never follows, waits or swallows."""
    job = {"User": "job"}
    line = b"job:x:1234:1234::/:/bin/sh\n"
    gone = entry("file", "etc/.wh.passwd")
    assert runs(box, [layer(entry("file", "etc/passwd", line))], "id -u", config=job) == "1234\n"
    for kind, data in (("fifo", ""), ("link", "/etc/group"), ("link", str(box.canary)),
                       ("link", "passwd"), ("link", "/proc/self/environ"), ("dir", ""),
                       ("file", ""), ("file", b"x" * (64 << 20)),
                       ("file", b"a:x:1:1::/:/bin/sh\n" * 200_000)):
        layers = [layer(gone), layer(entry(kind, "etc/passwd", data))]
        code, out, run, err = attempt(box, [box.base, *layers], "id -u", config=job)
        assert code == 125 and run["state"] == "failed", (kind, code, out, run)
        healthy(box)
    huge = b"".join(b"g%d:x:%d:job\n" % (i, i) for i in range(1000, 41000))
    layers = [layer(entry("file", "etc/passwd", line), entry("file", "etc/group", huge))]
    code, out, run, err = attempt(box, [box.base, *layers], "id -G | wc -w", config=job)
    assert (code == 125 and run["state"] == "failed") or int(out) <= 65536, (code, run)
    healthy(box)


def test_wrong_documents(box):
    good = layer(entry("file", "f", "x"))
    other = layer(entry("file", "g", "y"))
    refused(box, [good], "", diff_ids=[lab_image.sha(box.base), lab_image.sha(other)])
    refused(box, [good], "", diff_ids=[lab_image.sha(box.base)])
    for document in ({"architecture": "arm64"}, {"os": "windows"},
                     {"rootfs": {"type": "squashfs", "diff_ids": []}}):
        name = f"hostile/x{next(NUMBER)}:1"
        lab_image.push(box, name, [box.base], document=document)
        p = box.cli("submit", name, "--wait", check=False)
        assert p.returncode == 125 and p.stderr, p.stderr
    # Never let a label drive the host, whatever it says.
    assert runs(box, [], "echo fine", config={
        "Labels": {"agent.network": "host", "io.containerd.runc": "/bin/sh"},
        "Volumes": {"/../../etc": {}}, "ExposedPorts": {"x": {}},
        "Healthcheck": {"Test": ["CMD", "x"]}, "OnBuild": ["RUN x"], "Shell": None}) == "fine\n"


# -- bombs

def compressed_zeroes(tmp_path, tool, size):
    """A tar of one file of `size` zero bytes, through a compressor."""
    raw = tmp_path / "zero.tar"
    info = lab_image.tarfile.TarInfo("bomb")
    info.size = size
    with open(raw, "wb") as f:
        f.write(info.tobuf(lab_image.tarfile.GNU_FORMAT))
        f.truncate(512 + size + 1024)
    blob = subprocess.run([*tool, str(raw)], check=True, capture_output=True, timeout=300).stdout
    raw.unlink()
    return blob


def bomb(box, blob, why, timeout=120):
    """What is not known to be right is never used: the DiffID is a lie as well."""
    got, out, run, err = attempt(box, [b"x"], blobs=[blob], diff_ids=[lab_image.sha(b"x")],
                                 timeout=timeout)
    assert (got, run["reason"]) == (125, "image") and why in err, (got, run, err)
    healthy(box)


@pytest.mark.parametrize("tool, size, why", [
    (["zstd", "-1", "-c"], 2 << 30, "1200:1"), (["gzip", "-9", "-c"], 1 << 30, "")],
    ids=["zstd", "gzip"])
def test_bombs(box, tmp_path, tool, size, why):
    """Refused while they come; what there was on disk goes."""
    before = used(box)
    bomb(box, compressed_zeroes(tmp_path, tool, size), why)
    assert used(box) - before < 64 << 20


def used(box):
    out = subprocess.run(["du", "-sxk", "--exclude=blobs", str(box.data)], check=False,
                         capture_output=True, text=True).stdout
    return int(out.split()[0]) << 10


@pytest.mark.skipif(not os.environ.get("SLOW"), reason="SLOW=1: half a minute")
def test_a_million_files(box):
    """Two million and one entries: over the limit, and nothing is left of them."""
    one = entry("file", "d/f", "")
    blob = gzip.compress(one * 2_000_001 + bytes(1024), 1)
    bomb(box, blob, "entries", timeout=300)


def test_many_layers(box):
    layers = [layer(entry("file", f"f{i}", str(i))) for i in range(126)]
    assert runs(box, layers, "ls / | grep -c '^f'", timeout=180) == "126\n"
    more = [layer(entry("file", f"f{i}", str(i))) for i in range(500)]
    name = f"hostile/x{next(NUMBER)}:1"
    lab_image.push(box, name, more)
    p = box.cli("submit", name, "--wait", check=False)
    assert p.returncode == 125 and b"127" in p.stderr, p.stderr
    healthy(box)
