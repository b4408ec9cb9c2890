"""Images made by hand for tests: tar entries as they are told, however odd; pushed over plain
HTTP."""
import gzip
import hashlib
import io
import json
import tarfile

import tiny_image

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
KINDS = {"file": tarfile.REGTYPE, "dir": tarfile.DIRTYPE, "link": tarfile.SYMTYPE,
         "hard": tarfile.LNKTYPE, "fifo": tarfile.FIFOTYPE, "char": tarfile.CHRTYPE,
         "block": tarfile.BLKTYPE}


def sha(data, algo="sha256"):
    return f"{algo}:{hashlib.new(algo, data).hexdigest()}"


def entry(kind, name, data=b"", mode=None, pax=None, uid=0, gid=0, dev=(1, 3)):
    """One entry, name as it stands. data: a file's content, or a link's target."""
    info = tarfile.TarInfo()
    info.name, info.type = name, KINDS[kind]
    info.mode = mode if mode is not None else 0o755 if kind == "dir" else 0o644
    info.uid, info.gid, info.mtime = uid, gid, 1_000_000_000
    if kind in ("link", "hard"):
        info.linkname = data
    elif kind in ("char", "block"):
        info.devmajor, info.devminor = dev
    elif kind == "file":
        data = data.encode() if isinstance(data, str) else data
        info.size = len(data)
    info.pax_headers = pax or {}
    out = info.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT)
    if kind == "file":
        out += data + bytes(-len(data) % 512)
    return out


def layer(*entries, end=bytes(1024)):
    return b"".join(entries) + end


def base_layer(busybox="/bin/busybox"):
    return tiny_image.busybox_layer(busybox)


def upload(node, repo, data):
    d = sha(data)
    if node.http("HEAD", f"/v2/{repo}/blobs/{d}").status != 200:
        r = node.http("POST", f"/v2/{repo}/blobs/uploads/?digest={d}", body=data, timeout=120)
        assert r.status == 201, r.body
    return d


def descriptor(media_type, data):
    return {"mediaType": media_type, "digest": sha(data), "size": len(data)}


def push(node, name, layers, config=None, blobs=None, diff_ids=None, document=None):
    """layers: tar streams, the lowest first. blobs: what stands for them in the registry (default:
    each by gzip). config: the members of the image's config; document: of the whole document."""
    repo, tag = name.rsplit(":", 1)
    blobs = blobs or [gzip.compress(x, 1, mtime=0) for x in layers]
    text = json.dumps({
        "architecture": "amd64", "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], **(config or {})},
        "rootfs": {"type": "layers", "diff_ids": diff_ids or [sha(x) for x in layers]},
        **(document or {})}).encode()
    for blob in (text, *blobs):
        upload(node, repo, blob)
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, text),
        "layers": [descriptor(LAYER + ("+gzip" if b[:2] == b"\x1f\x8b" else ""), b)
                   for b in blobs]}).encode()
    r = node.http("PUT", f"/v2/{repo}/manifests/{tag}", body=manifest,
                  headers={"Content-Type": MANIFEST})
    assert r.status == 201, r.body
    return sha(manifest)


def tar_of(fill):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as t:
        fill(t)
    return out.getvalue()
