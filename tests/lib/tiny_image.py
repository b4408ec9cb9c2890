#!/usr/bin/env python3
"""Makes a small image without a container tool: one layer with busybox, in `docker save` format.

    tiny_image.py OUT.tar NAME:TAG [/bin/busybox]
"""
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile


def add(tar, name, data=None, mode=0o644, link=None):
    info = tarfile.TarInfo(name)
    info.mode = mode
    if link is not None:
        info.type, info.linkname = tarfile.SYMTYPE, link
    elif data is None:
        info.type = tarfile.DIRTYPE
    else:
        info.size = len(data)
    tar.addfile(info, io.BytesIO(data) if data else None)


def tar_of(fill):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        fill(tar)
    return out.getvalue()


def busybox_layer(busybox, programs=()):
    """programs: paths of more static programs, put into /bin."""
    with open(busybox, "rb") as f:
        program = f.read()
    applets = subprocess.run([busybox, "--list"], check=True, capture_output=True,
                             text=True).stdout.split()

    def fill(tar):
        for d, mode in (("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777),
                        ("var", 0o755)):
            add(tar, d, mode=mode)
        add(tar, "bin/busybox", program, 0o755)
        for applet in applets:
            if applet != "busybox":
                add(tar, "bin/" + applet, link="busybox")
        for path in programs:
            with open(path, "rb") as f:
                add(tar, "bin/" + os.path.basename(path), f.read(), 0o755)
        add(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
        add(tar, "etc/group", b"root:x:0:\nnogroup:x:65534:\n")

    return tar_of(fill)


def write_docker_save(path, name, busybox="/bin/busybox", config=None, programs=()):
    """Writes the image; its only layer is busybox, with programs beside it. config: more members of
    the image's config."""
    layer = busybox_layer(busybox, programs)
    diff_id = "sha256:" + hashlib.sha256(layer).hexdigest()
    document = {
        "architecture": "amd64", "os": "linux", "created": "1970-01-01T00:00:00Z",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "WorkingDir": "/", **(config or {})},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "tiny_image"}],
    }
    config_bytes = json.dumps(document, sort_keys=True).encode()
    config_name = hashlib.sha256(config_bytes).hexdigest() + ".json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]

    def fill(tar):
        add(tar, "layer.tar", layer)
        add(tar, config_name, config_bytes)
        add(tar, "manifest.json", json.dumps(manifest).encode())

    part = path + ".part"
    with open(part, "wb") as f:
        f.write(tar_of(fill))
    os.rename(part, path)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    write_docker_save(*sys.argv[1:])
