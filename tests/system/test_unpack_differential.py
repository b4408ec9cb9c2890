"""Good images, unpacked by us, by umoci and by tar: the same files with the same attributes. The
images are made at random (DIFF_SEED; it is printed), in layers that replace, delete and link."""
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys

import pytest

import lab_image
import tree_listing
from conftest import Node

ROUNDS = int(os.environ.get("DIFF_ROUNDS", "6"))
KINDS = ["file"] * 6 + ["dir"] * 3 + ["link"] * 2 + ["hard", "fifo"]
FIRST_ID = 1879048192  # sandbox.uid_base: what files in layers/ begin at


@pytest.fixture(scope="module")
def box():
    node = Node().start()
    yield node
    node.close()


def random_layer(rng, known, attributes):
    """known: path -> kind, of all layers so far. Everything is below t/. As builders do, a layer
    has its entries' directories too: one that is only implied is 0755, whatever it was below."""
    mine, entries = {}, []

    def with_parents(path):
        for n in range(1, path.count("/") + 1):
            top = "/".join(path.split("/")[:n])
            if top not in mine:
                mine[top] = "dir"
                entries.append(("dir", top, attributes.setdefault(top, {"mode": 0o755})))

    def parent():
        return rng.choice([p for p, k in known.items() if k == "dir"])
    for _ in range(rng.randrange(5, 40)):
        name = f"{parent()}/{rng.choice('abcdefgh')}{rng.choice(['', 'x' * 120, ' y', 'ü'])}"
        kind = rng.choice(KINDS)
        if name in mine or known.get(name) == "dir" and kind != "dir":
            continue  # twice in one layer is another test's; a directory's end is a whiteout's
        if known.get(name) in ("file", "link", "fifo", "hard") and kind == "dir":
            continue  # umoci and tar differ on what becomes of what was there
        with_parents(name)
        if kind == "hard":
            targets = [p for p, k in mine.items() if k == "file"]
            if not targets or name in known:
                continue
            entries.append((kind, name, {"data": rng.choice(targets)}))
        elif kind == "link":
            entries.append((kind, name, {"data": rng.choice(["a", "../b", "/t/a", "none"])}))
        else:
            more = {
                "data": rng.randbytes(rng.choice([0, 1, 511, 512, 513, 20000]))
                if kind == "file" else "",
                "mode": rng.choice([0o644, 0o600, 0o755, 0o4755, 0o1777, 0]),
                "uid": rng.choice([0, 1, 1000, 65535]), "gid": rng.choice([0, 5, 65535])}
            attributes[name] = more
            entries.append((kind, name, more))
        mine[name] = known[name] = kind
    return entries, mine


def with_whiteouts(rng, known, mine):
    """Deletes some of what lower layers had, in directories that this layer has."""
    out = []
    for p in sorted(known):
        gone = rng.random() < 0.2 and p not in mine and known[p] != "dir" and \
            p.rsplit("/", 1)[0] in mine
        if gone:
            head, tail = p.rsplit("/", 1)
            out.append(("file", f"{head}/.wh.{tail}", {}))
            del known[p]
    return out


def tar_layer(entries):
    out = b""
    for kind, name, more in entries:
        data = more.get("data", "")
        pax = {} if name.isascii() and len(name) <= 100 else {"path": name}
        out += lab_image.entry(kind, name if name.isascii() else name.encode().decode("latin-1"),
                               data, more.get("mode"), pax, more.get("uid", 0), more.get("gid", 0))
    return out + bytes(1024)


def ours(box, tmp, name, layers):
    """What a job would see: our directories, stacked by overlayfs in another mount namespace."""
    base = lab_image.base_layer()
    lab_image.push(box, name, [base, *layers])
    box.cli("submit", name, "--wait", "--", "true", timeout=120)
    lower = ":".join(str(box.data / "layers" / lab_image.sha(x).split(":")[1])
                     for x in reversed([base, *layers]))
    root = tmp / "root"
    root.mkdir(exist_ok=True)
    script = 'mount -t overlay overlay -o "ro,lowerdir=$1" "$2" && exec "$3" "$4" "$2" "$5"'
    p = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", lower, str(root),
                        sys.executable, tree_listing.__file__, str(FIRST_ID)], check=True,
                       capture_output=True, text=True, timeout=120)
    return p.stdout.splitlines()


def by_umoci(tmp, layers):
    """An OCI layout, unpacked by umoci as root."""
    layout = tmp / "layout"
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(data):
        d = hashlib.sha256(data).hexdigest()
        (blobs / d).write_bytes(data)
        return {"digest": "sha256:" + d, "size": len(data)}
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {
        "type": "layers", "diff_ids": [lab_image.sha(x) for x in layers]}}).encode()
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": lab_image.MANIFEST,
        "config": {"mediaType": lab_image.CONFIG, **blob(config)},
        "layers": [{"mediaType": lab_image.LAYER, **blob(x)} for x in layers]}).encode()
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [{
        "mediaType": lab_image.MANIFEST, **blob(manifest),
        "annotations": {"org.opencontainers.image.ref.name": "x"}}]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:x", str(tmp / "bundle")], check=True,
                   capture_output=True, timeout=120)
    return tree_listing.listing(tmp / "bundle" / "rootfs")


def by_tar(tmp, layer):
    """GNU tar, one layer: it knows nothing of whiteouts."""
    root = tmp / "tar"
    root.mkdir()
    subprocess.run(["tar", "-C", str(root), "--numeric-owner", "--same-owner", "-p", "-xf", "-"],
                   input=layer, check=True, capture_output=True, timeout=120)
    return tree_listing.listing(root)


def comparable(lines, links=True):
    """Without the times of directories: each tool has its own idea when entries come in disorder.
    links=False: without counts of links, which know of deleted ones in lower layers."""
    out = []
    for line in lines:
        words = line.split(" ")
        if " dir " in line:
            words = words[:-1]
        elif " file " in line and not links:
            del words[-2]
        out.append(" ".join(words))
    return out


@pytest.mark.skipif(shutil.which("umoci") is None, reason="umoci is not installed")
@pytest.mark.parametrize("round_", range(ROUNDS))
def test_same_as_umoci_and_tar(box, tmp_path, round_):
    seed = int(os.environ.get("DIFF_SEED", random.SystemRandom().randrange(1 << 32))) + round_
    print(f"DIFF_SEED={seed}")
    rng = random.Random(seed)
    known, attributes = {"t": "dir"}, {}
    layers = [tar_layer([("dir", "t", {"mode": 0o755})])]
    first = None
    for n in range(rng.randrange(1, 6)):
        entries, mine = random_layer(rng, known, attributes)
        if first is None:
            first = tar_layer([("dir", "t", {"mode": 0o755}), *entries])
        gone = with_whiteouts(rng, known, mine) if n > 0 else []
        rng.shuffle(gone)
        layers.append(tar_layer(gone + entries if rng.random() < 0.5 else entries + gone))
    got = ours(box, tmp_path, f"diff/x{round_}:1", layers)
    want = by_umoci(tmp_path, layers)
    assert comparable(got, False) == comparable(want, False), f"DIFF_SEED={seed}"
    got = ours(box, tmp_path, f"diff/y{round_}:1", [first])
    want = by_tar(tmp_path, first)
    assert comparable(got) == comparable(want), f"DIFF_SEED={seed}"


def test_a_real_tree(box, tmp_path):
    """What tar itself writes of a tree with everything that a file system knows."""
    src = tmp_path / "src" / "t"
    src.mkdir(parents=True)
    for i in range(50):
        (src / f"d{i % 5}").mkdir(exist_ok=True)
        f = src / f"d{i % 5}" / f"file {i}"
        f.write_bytes(os.urandom(i * 37))
        os.chown(f, i, 65535 - i)
        f.chmod(0o400 | i)
    (src / "link").symlink_to("d0/file 0")
    os.link(src / "d1" / "file 1", src / "hard")
    os.mkfifo(src / "fifo")
    os.setxattr(src / "hard", "user.note", b"kept")
    for form in ("ustar", "gnu", "posix"):
        data = subprocess.run(["tar", "-C", str(tmp_path / "src"), f"--format={form}",
                               "--numeric-owner", "-cf", "-", "t"], check=True,
                              capture_output=True).stdout
        got = ours(box, tmp_path, f"diff/{form}:1", [data])
        assert got == tree_listing.listing(tmp_path / "src"), form
