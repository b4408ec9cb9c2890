"""The registry, spoken to in raw HTTP: every endpoint, and the traps that clients
and the conformance suite know."""
import hashlib
import json
import os
import socket
import threading

import pytest

from conftest import Node, wait_for

OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
ABSENT = "sha256:" + "0" * 64


@pytest.fixture(scope="module")
def reg():
    node = Node().start()
    yield node
    node.close()


def sha(data, algo="sha256"):
    return f"{algo}:{hashlib.new(algo, data).hexdigest()}"


def code(r):
    return r.json()["errors"][0]["code"]


def start(reg, repo):
    r = reg.http("POST", f"/v2/{repo}/blobs/uploads/")
    assert r.status == 202 and r.headers["Range"] == "0-0" and r.headers["Docker-Upload-UUID"]
    assert r.headers["Location"].startswith(f"/v2/{repo}/blobs/uploads/")
    return r.headers["Location"]


def push(reg, repo, data, algo="sha256"):
    d = sha(data, algo)
    r = reg.http("PUT", f"{start(reg, repo)}?digest={d}", body=data)
    assert r.status == 201, r.body
    return d


def descriptor(media_type, data, **more):
    return {"mediaType": media_type, "digest": sha(data), "size": len(data), **more}


def manifest(reg, repo, config=b"{}", layers=(b"layer",), **more):
    for blob in (config, *layers):
        push(reg, repo, blob)
    return json.dumps({"schemaVersion": 2, "mediaType": OCI, "config": descriptor(CONFIG, config),
                       "layers": [descriptor(LAYER, x) for x in layers], **more}).encode()


def put(reg, repo, ref, body, media_type=OCI):
    return reg.http("PUT", f"/v2/{repo}/manifests/{ref}", body=body,
                    headers={"Content-Type": media_type})


def test_base_and_unknown(reg):
    r = reg.http("GET", "/v2/")
    assert (r.status, r.body) == (200, b"{}")
    assert r.headers["Docker-Distribution-API-Version"] == "registry/2.0"
    for path, status, what in [
            (f"/v2/no/blobs/{ABSENT}", 404,
             "BLOB_UNKNOWN"), ("/v2/no/manifests/x", 404, "NAME_UNKNOWN"),
            ("/v2/no/manifests/.INVALID", 404, "MANIFEST_UNKNOWN"),
            ("/v2/no/tags/list", 404, "NAME_UNKNOWN"),
            ("/v2/UP/manifests/x", 400, "NAME_INVALID"),
            ("/v2/a/blobs/sha256:zz", 400, "DIGEST_INVALID"),
            ("/v2/..%2f..%2fetc/manifests/x", 400,
             "NAME_INVALID"), ("/v2/a/../b/manifests/x", 400, "NAME_INVALID"),
            ("/v2/a/blobs/uploads/" + "0" * 32, 404, "BLOB_UPLOAD_UNKNOWN"),
            ("/v2/a/referrers/bad", 400, "DIGEST_INVALID"), ("/v2/a/b/c", 404, "NAME_UNKNOWN")]:
        r = reg.http("GET", path)
        assert (r.status, code(r)) == (status, what), path
    assert reg.http("POST", "/v2/").status == 405
    assert reg.http("PUT", f"/v2/a/blobs/{ABSENT}").status == 405


@pytest.mark.parametrize("size", [0, 2, 100, 3_000_000])
@pytest.mark.parametrize("style", ["put", "post", "patch", "chunks", "streamed"])
def test_upload_styles(reg, style, size):
    data = b"{}" if size == 2 else os.urandom(size)
    d, repo = sha(data), f"up/{style}{size}"
    if style == "post":
        r = reg.http("POST", f"/v2/{repo}/blobs/uploads/?digest={d}", body=data)
    else:
        where = start(reg, repo)
        if style == "patch":
            r = reg.http("PATCH", where, body=data)
            assert r.status == 202 and r.headers["Range"] == f"0-{max(size - 1, 0)}"
            where = r.headers["Location"]
        elif style == "streamed":
            r = reg.http("PATCH", where, body=iter([data[:10], data[10:]]))
            assert r.status == 202, r.body
        elif style == "chunks" and size > 2:
            half = size // 2
            for a, b in ((0, half), (half, size)):
                r = reg.http("PATCH", where, body=data[a:b], headers={
                             "Content-Range": f"{a}-{b - 1}"})
                assert r.status == 202 and r.headers["Range"] == f"0-{b - 1}"
        r = reg.http("PUT", f"{where}?digest={d}",
                     body=data if style == "put" or (style == "chunks" and size <= 2) else b"")
    assert r.status == 201, r.body
    assert r.headers["Location"] == f"/v2/{repo}/blobs/{d}"
    assert r.headers["Docker-Content-Digest"] == d
    r = reg.http("GET", f"/v2/{repo}/blobs/{d}")
    assert (r.status, r.body) == (200, data)
    r = reg.http("HEAD", f"/v2/{repo}/blobs/{d}")
    assert r.status == 200 and int(r.headers["Content-Length"]) == size
    assert r.headers["Docker-Content-Digest"] == d and r.headers["ETag"] == f'"{d}"'
    assert r.headers["Content-Type"] == "application/octet-stream"
    assert list((reg.data / "blobs/uploads").iterdir()) == []


def test_chunks_out_of_order(reg):
    where = start(reg, "order")
    data = os.urandom(3000)
    assert reg.http("PATCH", where, body=data[:1024], headers={
                    "Content-Range": "0-1023"}).status == 202
    for bad in ("0-1023", "1025-2048", "5000-6023"):
        r = reg.http("PATCH", where, body=data[:1024], headers={"Content-Range": bad})
        assert r.status == 416 and r.headers["Range"] == "0-1023"
        r = reg.http("PUT", f"{where}?digest={sha(data)}",
                     body=data[:1024], headers={"Content-Range": bad})
        assert r.status == 416
    assert reg.http(
        "PATCH",
        where,
        body=b"x" * 5,
        headers={
            "Content-Range": "1024-1030"}).status == 400
    r = reg.http("GET", where)
    assert r.status == 204 and r.headers["Range"] == "0-1023"
    r = reg.http("PUT", f"{where}?digest={sha(data)}",
                 body=data[1024:], headers={"Content-Range": "1024-2999"})
    assert r.status == 201
    assert reg.http("GET", f"/v2/order/blobs/{sha(data)}").body == data


def test_wrong_digest(reg):
    for d in (ABSENT, "sha512:" + "0" * 128):
        r = reg.http("PUT", f"{start(reg, 'wrong')}?digest={d}", body=b"content")
        assert (r.status, code(r)) == (400, "DIGEST_INVALID")
        assert reg.http("GET", f"/v2/wrong/blobs/{d}").status == 404
        r = reg.http("POST", f"/v2/wrong/blobs/uploads/?digest={d}", body=b"content")
        assert (r.status, code(r)) == (400, "DIGEST_INVALID")
    for d in ("sha256:baddigeststring", "",
              "md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:..%2f..%2fx"):
        assert reg.http("PUT", f"{start(reg, 'wrong')}?digest={d}", body=b"x").status == 400
    assert reg.http("PUT", start(reg, "wrong"), body=b"x").status == 400


def test_sha512(reg):
    for query in ("", "?digest-algorithm=sha512"):
        data = os.urandom(5000)
        d = sha(data, "sha512")
        where = reg.http("POST", f"/v2/big/blobs/uploads/{query}").headers["Location"]
        r = reg.http("PUT", f"{where}?digest={d}", body=data)
        assert r.status == 201 and r.headers["Docker-Content-Digest"] == d
        assert reg.http("GET", f"/v2/big/blobs/{d}").body == data
    body = manifest(reg, "big")
    d = sha(body, "sha512")
    r = put(reg, "big", d, body)
    assert r.status == 201 and r.headers["Docker-Content-Digest"] == d
    assert reg.http("GET", f"/v2/big/manifests/{d}").body == body
    assert reg.http("POST", "/v2/big/blobs/uploads/?digest-algorithm=md5").status == 400


def test_session_cancel_and_lifetime(reg):
    where = start(reg, "cancel")
    assert reg.http("PATCH", where, body=b"x" * 100).status == 202
    assert reg.http("GET", where.replace("/cancel/", "/other/")).status == 404
    assert reg.http("DELETE", where).status == 204
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        assert reg.http(method, where).status == 404


def test_client_breaks_off(reg):
    """What was received stays, Range says how much, and the upload can go on."""
    data = os.urandom(2_000_000)
    where = start(reg, "broken")
    with socket.create_connection(("127.0.0.1", reg.port)) as s:
        s.sendall(f"PATCH {where} HTTP/1.1\r\nHost: {reg.addr}\r\n"
                  f"Content-Length: {len(data)}\r\n\r\n".encode()
                  + data[:1_000_000])

    def idle():
        """something came, and the session is idle again"""
        r = reg.http("PATCH", where, body=b"")
        return r if r.status == 202 and r.headers["Range"] != "0-0" else None
    r = wait_for(idle)
    have = int(r.headers["Range"].split("-")[1]) + 1
    assert 1 <= have <= 1_000_000
    r = reg.http("PUT", f"{where}?digest={sha(data)}", body=data[have:],
                 headers={"Content-Range": f"{have}-{len(data) - 1}"})
    assert r.status == 201, r.body


def test_ranges(reg):
    data = os.urandom(2048)
    d = push(reg, "range", data)
    for header, a, b in [("500-1499", 500, 1500), ("500-", 500, 2048),
                         ("-500", 1548, 2048), ("2000-5000", 2000, 2048)]:
        r = reg.http("GET", f"/v2/range/blobs/{d}", headers={"Range": f"bytes={header}"})
        assert (r.status, r.body) == (206, data[a:b])
        assert r.headers["Content-Range"] == f"bytes {a}-{b - 1}/2048"
    for header in ("500-0", "5000-10000"):
        r = reg.http("GET", f"/v2/range/blobs/{d}", headers={"Range": f"bytes={header}"})
        assert r.status == 416 and r.headers["Content-Range"] == "bytes */2048"


def test_mount(reg):
    d = push(reg, "from", os.urandom(100))
    r = reg.http("POST", f"/v2/to/blobs/uploads/?mount={d}&from=from&origin=x")
    assert r.status == 201 and r.headers["Location"] == f"/v2/to/blobs/{d}"
    assert reg.http("HEAD", f"/v2/to/blobs/{d}").status == 200
    assert reg.http("POST", f"/v2/anon/blobs/uploads/?mount={d}").status == 201
    for query in (f"mount={ABSENT}&from=from", f"mount={d}&from=nobody", f"mount={d}&from=BAD"):
        r = reg.http("POST", f"/v2/new/blobs/uploads/?{query}")
        assert r.status == 202 and r.headers["Location"]
        assert reg.http("DELETE", r.headers["Location"]).status == 204


def test_manifests(reg):
    body = manifest(reg, "m/a", unknown={"x": [1, None]}) + b"\n"
    d = sha(body)
    r = put(reg, "m/a", "v1", body)
    assert r.status == 201 and r.headers["Docker-Content-Digest"] == d
    for ref in ("v1", d):
        r = reg.http("GET", f"/v2/m/a/manifests/{ref}", headers={"Accept": f"{INDEX}, {OCI}"})
        assert (r.status, r.body, r.headers["Content-Type"]) == (200, body, OCI)
        assert r.headers["Docker-Content-Digest"] == d
        r = reg.http("HEAD", f"/v2/m/a/manifests/{ref}")
        assert r.status == 200 and int(r.headers["Content-Length"]) == len(body) and r.body == b""
    r = put(reg, "m/a", ABSENT, body)
    assert (r.status, code(r)) == (400, "DIGEST_INVALID")
    r = reg.http(
        "PUT",
        f"/v2/m/a/manifests/{d}?tag=x&tag=y",
        body=body,
        headers={
            "Content-Type": OCI})
    assert r.status == 201 and r.headers["OCI-Tag"] == "x, y"
    assert reg.http("GET", "/v2/m/a/tags/list").json() == {"name": "m/a", "tags": ["v1", "x", "y"]}
    assert reg.http("DELETE", "/v2/m/a/manifests/x").status == 202
    assert reg.http("HEAD", "/v2/m/a/manifests/x").status == 404
    assert reg.http("HEAD", f"/v2/m/a/manifests/{d}").status == 200
    assert reg.http("DELETE", f"/v2/m/a/manifests/{d}").status == 202
    for ref in ("v1", "y", d):
        assert reg.http("HEAD", f"/v2/m/a/manifests/{ref}").status == 404
    assert reg.http("DELETE", f"/v2/m/a/manifests/{d}").status == 404


def test_bad_manifests(reg):
    good = json.loads(manifest(reg, "m/b"))
    for change, media_type in [
            ({"manifests": []}, OCI), ({"mediaType": INDEX}, OCI), ({"schemaVersion": 1}, OCI),
            ({}, "application/json"), ({"layers": 5}, OCI), ({"config": None}, OCI)]:
        r = put(reg, "m/b", "t", json.dumps({**good, **change}), media_type)
        assert (r.status, code(r)) == (400, "MANIFEST_INVALID"), change
    for body in (b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000):
        assert put(reg, "m/b", "t", body).status == 400
    r = put(reg, "m/b", "t", json.dumps({**good, "layers": [descriptor(LAYER, b"never pushed")]}))
    assert (r.status, code(r)) == (404, "MANIFEST_BLOB_UNKNOWN")
    r = put(reg, "m/b", "t", json.dumps({**good, "layers": [{**good["layers"][0], "size": 1}]}))
    assert r.status == 400
    foreign = descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
                         b"elsewhere",
                         urls=["http://127.0.0.1:1/x"])
    assert put(reg, "m/b", "foreign", json.dumps({**good, "layers": [foreign]})).status == 201
    padded = {**good, "annotations": {"x": "y" * 3_900_000}}
    assert put(reg, "m/b", "large", json.dumps(padded)).status == 201
    padded["annotations"]["x"] = "y" * (4096 * 1024)
    r = put(reg, "m/b", "larger", json.dumps(padded))
    assert r.status == 413
    assert put(reg, "m/b", "-bad", json.dumps(good)).status == 400


def test_index_docker_types_and_empty(reg):
    body = manifest(reg, "m/c")
    put(reg, "m/c", "one", body)
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        descriptor(OCI, body, platform={"os": "linux", "architecture": "amd64"})]}).encode()
    assert put(reg, "m/c", "multi", index, INDEX).status == 201
    nested = json.dumps({"schemaVersion": 2, "manifests": [descriptor(INDEX, index)]}).encode()
    assert put(reg, "m/c", "nested", nested, INDEX).status == 201
    assert put(reg, "m/c", "empty", b'{"schemaVersion":2,"manifests":[]}', INDEX).status == 201
    assert reg.http("GET", "/v2/m/c/manifests/nested").headers["Content-Type"] == INDEX
    docker = json.loads(body)
    docker["mediaType"] = DOCKER
    docker = json.dumps(docker).encode()
    assert put(reg, "m/c", "docker", docker, DOCKER).status == 201
    r = reg.http("GET", "/v2/m/c/manifests/docker")
    assert (r.headers["Content-Type"], r.body) == (DOCKER, docker)


def test_tags_and_catalog(reg):
    body = manifest(reg, "tags/x")
    for t in ("b", "a", "C", "d"):
        put(reg, "tags/x", t, body)
    r = reg.http("GET", "/v2/tags/x/tags/list?n=2")
    assert r.json()["tags"] == ["C", "a"]
    assert r.headers["Link"] == '</v2/tags/x/tags/list?n=2&last=a>; rel="next"'
    r = reg.http("GET", "/v2/tags/x/tags/list?n=2&last=a")
    assert r.json()["tags"] == ["b", "d"] and r.headers["Link"] is None
    r = reg.http("GET", "/v2/tags/x/tags/list?n=0")
    assert r.json()["tags"] == [] and r.headers["Link"] is None
    assert reg.http("GET", "/v2/tags/x/tags/list?n=x").status == 400
    put(reg, "tags/y", "1", manifest(reg, "tags/y"))
    r = reg.http("GET", "/v2/_catalog?n=1&last=tags/w")
    assert r.json() == {"repositories": ["tags/x"]}
    assert r.headers["Link"] == '</v2/_catalog?n=1&last=tags/x>; rel="next"'


def test_referrers(reg):
    r = reg.http("GET", f"/v2/never/pushed/referrers/{ABSENT}")
    assert r.status == 200 and r.headers["Content-Type"] == INDEX
    assert r.json() == {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
    body = manifest(reg, "ref")
    put(reg, "ref", "1", body)
    subject = descriptor(OCI, body)
    sig = manifest(
        reg,
        "ref",
        subject=subject,
        artifactType="application/x.sig",
        annotations={
            "k": "v"})
    sbom = manifest(reg, "ref", layers=(b"sbom",), subject=subject)
    missing = manifest(reg, "ref", subject={**subject, "digest": ABSENT})
    for m, d in ((sig, sha(body)), (sbom, sha(body)), (missing, ABSENT)):
        r = put(reg, "ref", sha(m), m)
        assert r.status == 201 and r.headers["OCI-Subject"] == d
    got = {
        x["digest"]: x for x in reg.http(
            "GET",
            f"/v2/ref/referrers/{sha(body)}").json()["manifests"]}
    assert got[sha(sig)] == {"mediaType": OCI, "digest": sha(sig), "size": len(sig),
                             "artifactType": "application/x.sig", "annotations": {"k": "v"}}
    assert got[sha(sbom)]["artifactType"] == CONFIG and len(got) == 2
    r = reg.http("GET", f"/v2/ref/referrers/{sha(body)}?artifactType=application/x.sig")
    assert [x["digest"] for x in r.json()["manifests"]] == [sha(sig)]
    assert r.headers["OCI-Filters-Applied"] == "artifactType"
    assert len(reg.http("GET", f"/v2/ref/referrers/{ABSENT}").json()["manifests"]) == 1
    reg.http("DELETE", f"/v2/ref/manifests/{sha(sig)}")
    assert len(reg.http("GET", f"/v2/ref/referrers/{sha(body)}").json()["manifests"]) == 1


def test_blobs_belong_to_repositories(reg):
    d = push(reg, "mine", os.urandom(50))
    assert reg.http("GET", f"/v2/yours/blobs/{d}").status == 404
    reg.http("POST", f"/v2/yours/blobs/uploads/?mount={d}&from=mine")
    assert reg.http("DELETE", f"/v2/mine/blobs/{d}").status == 202
    assert reg.http("HEAD", f"/v2/mine/blobs/{d}").status == 404
    assert reg.http("DELETE", f"/v2/mine/blobs/{d}").status == 404
    assert reg.http("GET", f"/v2/yours/blobs/{d}").status == 200


def test_files_are_private(reg):
    d = push(reg, "files", b"private")
    path = reg.data / "blobs" / "sha256" / d[7:9] / d[7:]
    st = path.stat()
    assert st.st_mode & 0o777 == 0o600 and st.st_uid != 0
    assert path.read_bytes() == b"private"


def test_parallel_pushes_of_one_blob(reg):
    data = os.urandom(1_000_000)
    results = []
    threads = [threading.Thread(target=lambda i=i: results.append(push(reg, f"par/{i}", data)))
               for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == [sha(data)] * 8


def test_memory_stays_flat(reg):
    """A 256 MiB layer goes through without being held."""
    def rss():
        pid = reg.agent_pid()
        for line in open(f"/proc/{pid}/status", encoding="utf-8"):
            if line.startswith("VmHWM"):
                return int(line.split()[1])
    push(reg, "flat", b"warm" * 1000)
    before = rss()
    piece = os.urandom(1 << 20)
    whole = hashlib.sha256()
    for _ in range(256):
        whole.update(piece)
    r = reg.http("PATCH", where := start(reg, "flat"), body=(piece for _ in range(256)),
                 headers={"Content-Length": str(256 << 20)}, timeout=120)
    assert r.status == 202
    d = f"sha256:{whole.hexdigest()}"
    assert reg.http("PUT", f"{where}?digest={d}").status == 201
    r = reg.http("GET", f"/v2/flat/blobs/{d}", timeout=120)
    assert hashlib.sha256(r.body).hexdigest() == d[7:]
    assert rss() - before < 32 * 1024


def test_survives_restart(make_node):
    node = make_node()
    body = manifest(node, "keep/me", layers=(b"one", b"two"))
    put(node, "keep/me", "1", body)
    where = start(node, "keep/me")
    node.http("PATCH", where, body=b"unfinished")
    agent = node.agent_pid()
    os.kill(agent, 9)

    def back():
        """another agent process answers"""
        try:
            return node.agent_pid() not in (None, agent) and node.http("GET", "/v2/").status == 200
        except OSError:
            return False
    wait_for(back)
    assert node.http("GET", "/v2/keep/me/manifests/1").body == body
    assert node.http("GET", f"/v2/keep/me/blobs/{sha(b'one')}").body == b"one"
    assert node.http("GET", where).status == 404
    assert list((node.data / "blobs/uploads").iterdir()) == []
