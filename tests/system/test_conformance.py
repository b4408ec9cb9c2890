"""A conformance battery for OCI distribution-spec 1.1, from the specification's text: every way to
upload, mount, ask for, list and delete, with both digest algorithms and every kind of document that
the image specification knows. Each `check` is one request with what must come back; their number is
printed and kept in the results.

CONFORMANCE_REGISTRY=host:port runs it against another registry instead (plain HTTP), which is how
it shows that it can fail.
"""
import hashlib
import http.client
import json
import os
import types
import urllib.parse

import pytest

from conftest import Node

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
TAR = "application/vnd.oci.image.layer.v1.tar"
ND = "application/vnd.oci.image.layer.nondistributable.v1.tar"
EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
OCTETS = "application/octet-stream"
ONE, TWO = "conformance/repo1", "conformance/repo2"
ALGOS = ("sha256", "sha512")
CHUNK = 1024


def digest(data, algo="sha256"):
    return f"{algo}:{hashlib.new(algo, data).hexdigest()}"


class Registry:
    """Requests, each judged; what is wrong is collected, so that one failure hides no other."""

    def __init__(self, addr):
        self.addr, self.checks, self.failures = addr, 0, []

    def request(self, method, path, body=None, chunked=False, **headers):
        c = http.client.HTTPConnection(self.addr, timeout=60)
        try:
            if chunked:  # without a length
                size = max(1, len(body) // 2)
                body = iter([body[i:i + size] for i in range(0, len(body), size)])
            c.request(method, path, body=body, encode_chunked=chunked,
                      headers={k.replace("_", "-"): v for k, v in headers.items()} |
                              ({"Transfer-Encoding": "chunked"} if chunked else {}))
            r = c.getresponse()
            r.body = r.read()
            return r
        finally:
            c.close()

    def check(self, what, method, path, status, want=None, want_body=None, **more):
        """want: headers that must be there with this value (None: with any)."""
        r = self.request(method, path, **more)
        statuses = status if isinstance(status, tuple) else (status,)
        wrong = [] if r.status in statuses else [f"status {r.status}, not {status}: {r.body[:120]}"]
        for name, value in (want or {}).items():
            got = r.headers[name]
            if got is None or (value is not None and got != str(value)):
                wrong.append(f"{name}: {got!r}, not {value!r}")
        if want_body is not None and r.body != want_body:
            wrong.append(f"a body of {len(r.body)} bytes, not {len(want_body)}")
        self.say(what, f"{method} {path}", wrong)
        return r

    def say(self, what, request, wrong):
        self.checks += 1
        if wrong:
            self.failures.append(f"{what}: {request}: " + "; ".join(wrong))

    def judge(self, what, good):
        self.say(what, "", [] if good else ["no"])


@pytest.fixture(scope="module")
def target():
    other = os.environ.get("CONFORMANCE_REGISTRY")
    if other:
        yield types.SimpleNamespace(addr=other, total=0)
        return
    node = Node().start()
    node.total = 0
    yield node
    node.close()


@pytest.fixture
def reg(target, request, record_property):
    reg = Registry(target.addr)
    yield reg
    target.total += reg.checks
    record_property("conformance_checks", reg.checks)
    print(f"\n{request.node.name}: {reg.checks} checks, {len(reg.failures)} failed; "
          f"{target.total} so far")
    assert not reg.failures, "\n".join(reg.failures)


def location(r):
    """Path and query of a Location, absolute or relative."""
    u = urllib.parse.urlsplit(r.headers["Location"] or "/missing")
    return u.path + ("?" + u.query if u.query else "")


def with_digest(where, d):
    return f"{where}{'&' if '?' in where else '?'}digest={urllib.parse.quote(d, safe='')}"


# -- ways to upload: each answers with the last reply

def session(reg, repo):
    return location(reg.check("open", "POST", f"/v2/{repo}/blobs/uploads/", 202,
                              want={"Location": None}, Content_Length="0"))


def post_only(reg, repo, data, d, bad):
    path = f"/v2/{repo}/blobs/uploads/?digest={urllib.parse.quote(d, safe='')}"
    return reg.check("post only", "POST", path, 400 if bad else 201, body=data,
                     Content_Type=OCTETS)


def post_put(reg, repo, data, d, bad):
    return reg.check("post+put", "PUT", with_digest(session(reg, repo), d), 400 if bad else 201,
                     body=data, Content_Type=OCTETS)


def streamed(reg, repo, data, d, bad):
    r = reg.check("stream", "PATCH", session(reg, repo), 202, body=data, chunked=True,
                  Content_Type=OCTETS, want={"Location": None})
    return reg.check("stream", "PUT", with_digest(location(r), d), 400 if bad else 201,
                     Content_Length="0", Content_Type=OCTETS)


def chunked(reg, repo, data, d, bad, put_last=False, disorder=False):
    where, at = session(reg, repo), 0
    size = max(CHUNK, len(data) // 3 + 1)

    def send(begin, end, status, **more):
        last = put_last and end == len(data)
        return reg.check("chunk", "PUT" if last else "PATCH",
                         with_digest(where, d) if last else where,
                         status if status else (400 if bad else 201) if last else 202,
                         body=data[begin:end], Content_Type=OCTETS,
                         Content_Range=f"{begin}-{end - 1}", **more)
    while at < len(data):
        if disorder:
            wrong = at + size if at + size < len(data) else 0
            if wrong != at:
                send(wrong, min(wrong + size, len(data)), 416)
                r = reg.check("where am I", "GET", where, 204, want={
                    "Location": None, "Range": f"0-{max(at - 1, 0)}"})
                where = location(r)
        end = min(at + size, len(data))
        r = send(at, end, None)
        if end < len(data) or not put_last:
            reg.judge("the chunk's Range", r.headers["Range"] == f"0-{end - 1}")
            where = location(r)
        at = end
    if put_last:
        return r
    return reg.check("close", "PUT", with_digest(where, d), 400 if bad else 201,
                     Content_Length="0", Content_Type=OCTETS)


def chunked_put(reg, repo, data, d, bad):
    return chunked(reg, repo, data, d, bad, put_last=True)


def disorderly(reg, repo, data, d, bad):
    return chunked(reg, repo, data, d, bad, disorder=True)


def disorderly_put(reg, repo, data, d, bad):
    return chunked(reg, repo, data, d, bad, put_last=True, disorder=True)


WAYS = (post_only, post_put, streamed, chunked, chunked_put, disorderly, disorderly_put)


def upload(reg, repo, data, algo="sha256", way=post_put):
    """Uploads, and follows what the answer says."""
    d = digest(data, algo)
    r = way(reg, repo, data, d, False)
    reg.judge("the digest of an upload", r.headers["Docker-Content-Digest"] in (None, d))
    reg.check("an upload's Location", "GET", location(r), 200, want_body=data)
    return d


def blob_is_there(reg, repo, data, d):
    path = f"/v2/{repo}/blobs/{d}"
    headers = {"Content-Length": len(data), "Docker-Content-Digest": d}
    reg.check("blob head", "HEAD", path, 200, want=headers, want_body=b"")
    reg.check("blob get", "GET", path, 200, want=headers, want_body=data)


def delete(reg, what, path):
    reg.check(what, "DELETE", path, 202)
    reg.check(what + " is done at once", "HEAD", path, 404)
    reg.check(what + " is done at once", "GET", path, 404)


def delete_blob(reg, repo, d):
    delete(reg, "blob delete", f"/v2/{repo}/blobs/{d}")


# -- blobs

@pytest.mark.parametrize("algo", ALGOS)
@pytest.mark.parametrize("way", WAYS, ids=lambda w: w.__name__)
def test_upload(reg, algo, way):
    for size in (0, 2, 512, 3 * CHUNK - 5, 300_000):
        if size < 2 * CHUNK and way in (chunked, chunked_put, disorderly, disorderly_put) \
                and size == 0:
            continue  # nothing to cut
        data = b"{}" if size == 2 else os.urandom(size)
        d = upload(reg, ONE, data, algo, way)
        blob_is_there(reg, ONE, data, d)
        delete_blob(reg, ONE, d)


@pytest.mark.parametrize("algo", ALGOS)
@pytest.mark.parametrize("way", WAYS, ids=lambda w: w.__name__)
def test_wrong_digest(reg, algo, way):
    data = os.urandom(3 * CHUNK - 5)
    d = digest(data, algo)
    way(reg, ONE, data + b"more", d, True)
    reg.check("a refused blob", "HEAD", f"/v2/{ONE}/blobs/{d}", 404)
    reg.check("a refused blob", "GET", f"/v2/{ONE}/blobs/{digest(data + b'more', algo)}", 404)
    for malformed in ("sha256:baddigeststring", "nonsense", "md5:" + "0" * 32, ""):
        post_put(reg, ONE, data, malformed, True)


@pytest.mark.parametrize("algo", ALGOS)
def test_range(reg, algo):
    data = os.urandom(2048)
    d = upload(reg, ONE, data, algo)
    for text, begin, end in (("500-1499", 500, 1499), ("500-", 500, 2047), ("-500", 1548, 2047),
                             ("2000-5000", 2000, 2047), ("0-0", 0, 0), ("-5000", 0, 2047)):
        reg.check("range " + text, "GET", f"/v2/{ONE}/blobs/{d}", 206, Range="bytes=" + text,
                  want={"Content-Length": end - begin + 1, "Docker-Content-Digest": d,
                        "Content-Range": f"bytes {begin}-{end}/2048"},
                  want_body=data[begin:end + 1])
    for text in ("500-0", "5000-10000", "2048-", "-0"):
        reg.check("range " + text, "GET", f"/v2/{ONE}/blobs/{d}", 416, Range="bytes=" + text)
    delete_blob(reg, ONE, d)


@pytest.mark.parametrize("algo", ALGOS)
def test_mount_and_cancel(reg, algo):
    for source in (f"&from={TWO}", ""):
        data = os.urandom(512)
        d = upload(reg, TWO, data, algo)
        r = reg.check("mount", "POST", f"/v2/{ONE}/blobs/uploads/?mount={d}{source}", 201)
        reg.check("a mount's Location", "GET", location(r), 200, want_body=data)
        blob_is_there(reg, ONE, data, d)
        delete_blob(reg, ONE, d)
        blob_is_there(reg, TWO, data, d)
        delete_blob(reg, TWO, d)
    data = os.urandom(512)
    d = digest(data, algo)
    r = reg.check("mount of nothing", "POST", f"/v2/{ONE}/blobs/uploads/?mount={d}&from={TWO}", 202)
    r = reg.check("and on", "PUT", with_digest(location(r), d), 201, body=data,
                  Content_Type=OCTETS)
    blob_is_there(reg, ONE, data, d)
    delete_blob(reg, ONE, d)
    where = session(reg, ONE)
    reg.check("cancel", "DELETE", where, 204)
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        reg.check("a cancelled upload", method, with_digest(where, d), 404)


# -- documents

class Data:
    """Documents and blobs of one test, in the order in which they have to come."""

    def __init__(self, reg, algo="sha256"):
        self.reg, self.algo = reg, algo
        self.blobs, self.documents, self.tags, self.referrers = {}, {}, {}, {}

    def digest(self, data):
        return digest(data, self.algo)

    def blob(self, media_type, data, keep=True, **more):
        if keep:
            self.blobs[self.digest(data)] = data
        return {"mediaType": media_type, "digest": self.digest(data), "size": len(data), **more}

    def document(self, media_type, body, tag=None):
        text = json.dumps({"schemaVersion": 2, "mediaType": media_type, **body}).encode()
        d = self.digest(text)
        self.documents[d] = (media_type, text)
        if tag:
            self.tags[tag] = d
        if "subject" in body:
            kind = body.get("artifactType", body.get("config", {}).get("mediaType"))
            self.referrers.setdefault(body["subject"]["digest"], []).append(
                {"digest": d, "mediaType": media_type, "size": len(text),
                 "artifactType": kind, "annotations": body.get("annotations")})
        return {"mediaType": media_type, "digest": d, "size": len(text)}

    def image(self, tag=None, layers=2, config=None, config_type=CONFIG, layer_type=TAR + "+gzip",
              arch="amd64", media_type=MANIFEST, **more):
        made = [self.blob(layer_type, os.urandom(300 + i)) for i in range(layers)]
        text = config if config is not None else json.dumps({
            "architecture": arch, "os": "linux", "rootfs": {
                "type": "layers", "diff_ids": [x["digest"] for x in made]}}).encode()
        return self.document(media_type, {"config": self.blob(config_type, text), "layers": made,
                                          **more}, tag)

    def index(self, tag=None, arches=("amd64", "arm64"), media_type=INDEX, image=None, **more):
        entries = [{**self.image(arch=a, **(image or {})),
                    "platform": {"os": "linux", "architecture": a}} for a in arches]
        return self.document(media_type, {"manifests": entries, **more}, tag)

    # each step of the life of what was made

    def push(self, tag_param=False):
        for d, data in self.blobs.items():
            upload(self.reg, ONE, data, self.algo, WAYS[int(d[-1], 16) % 2])
        for d, (media_type, text) in self.documents.items():
            tags = [t for t in self.tags if self.tags[t] == d]
            query = "?" + "&".join(f"tag={t}" for t in tags) if tag_param and tags else ""
            r = self.put(d + query, d, media_type, text)
            if query:
                got = [x.strip() for v in r.headers.get_all("OCI-Tag", []) for x in v.split(",")]
                self.reg.judge("OCI-Tag", sorted(got) == sorted(tags))
        if not tag_param:
            for t, d in self.tags.items():
                self.put(t, d, *self.documents[d])

    def put(self, ref, d, media_type, text):
        want = {"Location": None, "Docker-Content-Digest": d}
        subject = json.loads(text).get("subject")
        if subject:
            want["OCI-Subject"] = subject["digest"]
        r = self.reg.check("manifest put", "PUT", f"/v2/{ONE}/manifests/{ref}", 201, want=want,
                           body=text, Content_Type=media_type)
        self.reg.check("a manifest's Location", "GET", location(r), 200, want_body=text,
                       want={"Content-Type": media_type})
        return r

    def pull(self):
        refs = [(d, d) for d in self.documents] + list(self.tags.items())
        for ref, d in refs:
            media_type, text = self.documents[d]
            want = {"Content-Type": media_type, "Content-Length": len(text),
                    "Docker-Content-Digest": d}
            for method, body in (("HEAD", b""), ("GET", text)):
                self.reg.check("manifest " + method.lower(), method, f"/v2/{ONE}/manifests/{ref}",
                               200, want=want, want_body=body, Accept=f"{INDEX}, {MANIFEST}")
        for d, data in self.blobs.items():
            blob_is_there(self.reg, ONE, data, d)

    def list(self):
        all_tags = self.listing("")
        self.reg.judge("tags are listed", set(self.tags) <= set(all_tags))
        self.reg.judge("tags are sorted", all_tags == sorted(all_tags))
        if len(all_tags) > 1:
            middle = all_tags[len(all_tags) // 2 - 1]
            self.reg.judge("last", self.listing(f"?last={middle}") ==
                           all_tags[len(all_tags) // 2:])

    def listing(self, query):
        r = self.reg.check("tags", "GET", f"/v2/{ONE}/tags/list{query}",
                           200 if self.tags else (200, 404))
        return json.loads(r.body).get("tags") or [] if r.status == 200 else []

    def refer(self):
        for subject, wanted in self.referrers.items():
            path = f"/v2/{ONE}/referrers/{subject}"
            self.compare(path, wanted)
            for kind in {w["artifactType"] for w in wanted if w["artifactType"]} | {"no/such"}:
                r = self.compare(f"{path}?artifactType={urllib.parse.quote(kind, safe='')}",
                                 [w for w in wanted if w["artifactType"] == kind])
                self.reg.judge("OCI-Filters-Applied",
                               r.headers["OCI-Filters-Applied"] == "artifactType")

    def compare(self, path, wanted):
        r = self.reg.check("referrers", "GET", path, 200, want={"Content-Type": INDEX})
        got = json.loads(r.body) if r.status == 200 else {"manifests": []}
        self.reg.judge("a referrers index", (got.get("schemaVersion"), got.get("mediaType")) ==
                       (2, INDEX))
        seen = {x["digest"]: x for x in got["manifests"]}
        self.reg.judge("all referrers and no others", set(seen) == {w["digest"] for w in wanted})
        for w in wanted:
            x = seen.get(w["digest"], {})
            self.reg.judge("a referrer's descriptor", all(x.get(k) == v for k, v in w.items()))
        return r

    def delete(self):
        for t in self.tags:
            delete(self.reg, "tag delete", f"/v2/{ONE}/manifests/{t}")
        for d in reversed(self.documents):
            delete(self.reg, "manifest delete", f"/v2/{ONE}/manifests/{d}")
        for subject in self.referrers:
            self.compare(f"/v2/{ONE}/referrers/{subject}", [])
        for d in self.blobs:
            delete_blob(self.reg, ONE, d)

    def live(self, tag_param=False):
        self.push(tag_param)
        self.list()
        self.pull()
        self.refer()
        self.delete()


def artifact(kind, **more):
    return {"artifactType": kind, "config": b"{}", "config_type": EMPTY, "layers": 1,
            "layer_type": kind, **more}


SIG, SBOM = "application/vnd.example.sig.v1", "application/vnd.example.sbom.v1"
NOTES = {"org.example.note": "hello", "org.example.other": "\u00fc \" \\ \n"}


def make_image(d):
    d.image("image", layers=4)


def make_uncompressed(d):
    d.image("image-uncompressed", layer_type=TAR)


def make_zstd(d):
    d.image("image-zstd", layer_type=TAR + "+zstd")


def make_large(d):
    d.image("large", annotations={f"note-{i}": "A" * 10_000 for i in range(390)})


def make_index(d):
    d.index("index")


def make_nested(d):
    inner = [d.index(), d.index()]
    d.document(INDEX, {"manifests": inner}, "nested")


def make_empty_index(d):
    d.index("empty-index", arches=())


def make_artifact(d):
    d.image("artifact", **artifact(SIG))


def make_artifact_index(d):
    d.index("artifact-index", image=artifact(SIG), artifactType=SIG)


def make_bare_artifact(d):
    d.image("artifact-bare", **artifact(EMPTY, artifactType=SIG))


def make_subject(d):
    subject = d.image("image")
    d.image(subject=subject)
    d.image("sig", **artifact(SIG, subject=subject, annotations=NOTES))
    d.image("sbom", **artifact(SBOM, subject=subject, annotations=NOTES))


def make_index_subject(d):
    subject = d.index("index")
    d.index("about-it", image=artifact(SIG), artifactType=SIG, subject=subject, annotations=NOTES)
    d.index("of-no-kind", subject=subject)


def make_missing_subject(d):
    subject = d.blob(MANIFEST, b"missing content", keep=False)
    d.image("about-nothing", **artifact(SIG, subject=subject, annotations=NOTES))


def make_data_field(d):
    d.image("data", layers=0, config=b"{}")
    _, text = d.documents.popitem()[1]
    body = json.loads(text)
    body["config"]["data"] = "e30="
    d.document(MANIFEST, {k: body[k] for k in ("config", "layers")}, "data")


def make_nondistributable(d):
    elsewhere = [d.blob(ND + kind, os.urandom(99), keep=False, urls=["https://example.org/x"])
                 for kind in ("+gzip", "")]
    here = d.blob(TAR + "+gzip", os.urandom(300))
    config = d.blob(CONFIG, b'{"architecture":"amd64","os":"linux"}')
    d.document(MANIFEST, {"config": config, "layers": [*elsewhere, here]}, "non-distributable")


def make_custom_fields(d):
    d.index("custom", image={"org.example.field": {"deep": [1, None, "x"]}}, extra=["y", 1.5])


def make_no_layers(d):
    d.image("no-layers", layers=0)


def make_docker(d):
    d.index("docker", media_type=DOCKER_LIST, image={
        "media_type": DOCKER, "config_type": "application/vnd.docker.container.image.v1+json",
        "layer_type": "application/vnd.docker.image.rootfs.diff.tar.gzip"})


MAKERS = [v for k, v in list(globals().items()) if k.startswith("make_")]


@pytest.mark.parametrize("algo", ALGOS)
@pytest.mark.parametrize("make", MAKERS, ids=lambda m: m.__name__[5:])
def test_documents(reg, make, algo):
    data = Data(reg, algo)
    make(data)
    if algo == "sha512":  # by a tag alone a registry takes its own algorithm
        data.tags = {}
    data.live()


@pytest.mark.parametrize("algo", ALGOS)
def test_tag_param(reg, algo):
    data = Data(reg, algo)
    top = data.index("several-0")["digest"]
    data.tags.update({"several-1": top, "several-2": top, "one": next(iter(data.documents))})
    data.live(tag_param=True)


# -- the rest

def test_ping_and_empty(reg):
    reg.check("ping", "GET", "/v2/", 200)
    nobody = "never/pushed"
    reg.check("tags of nothing", "GET", f"/v2/{nobody}/tags/list", (200, 404))
    Data(reg).compare(f"/v2/{nobody}/referrers/{digest(b'x')}", [])
    Data(reg).compare(f"/v2/{nobody}/referrers/{digest(b'x', 'sha512')}", [])
    reg.check("referrers of a bad digest", "GET", f"/v2/{nobody}/referrers/sha256:bad", 400)
    for algo in ALGOS:
        for kind in ("blobs", "manifests"):
            for method in ("GET", "HEAD"):
                reg.check("missing", method, f"/v2/{nobody}/{kind}/{digest(b'x', algo)}", 404)
    reg.check("a missing tag", "GET", f"/v2/{nobody}/manifests/missing", 404)
    for kind, ref in (("blobs", digest(b"x")), ("manifests", digest(b"x")),
                      ("manifests", "missing")):
        r = reg.check("delete of nothing", "DELETE", f"/v2/{nobody}/{kind}/{ref}", 404)
        errors = json.loads(r.body or b"{}").get("errors", [{}])
        reg.judge("an error's code", errors[0].get("code") in (
            "BLOB_UNKNOWN", "MANIFEST_UNKNOWN", "NAME_UNKNOWN"))
    for name in ("UPPER/x", "-x", "x-", "x/.y", "a" * 300):
        reg.check("a bad name", "GET", f"/v2/{name}/tags/list", (400, 404))


def test_manifest_errors(reg):
    data = Data(reg)
    data.image(layers=1)
    (d, (media_type, text)), = data.documents.items()
    path = f"/v2/{ONE}/manifests/"
    reg.check("blobs are missing", "PUT", path + d, (400, 404), body=text, Content_Type=media_type)
    for b in data.blobs.values():
        upload(reg, ONE, b)
    for body in (text + b"  ", text[:-1], b"", b"null"):
        reg.check("another document", "PUT", path + d, 400, body=body, Content_Type=media_type)
    reg.check("a refused manifest", "GET", path + d, 404)
    reg.check("a bad digest", "PUT", path + "sha256:baddigeststring", 400, body=text,
              Content_Type=media_type)
    reg.check("a bad digest", "GET", path + "sha256:baddigeststring", (400, 404))
    reg.check("too large", "PUT", path + "large", 413, body=b" " * (5 << 20),
              Content_Type=media_type)
    for b in data.blobs:
        delete_blob(reg, ONE, b)


def test_tag_paging(reg):
    data = Data(reg)
    top = data.image()["digest"]
    data.tags = {t: top for t in ("v10", "v9", "V2", "_x", "a.b-c_d", "A" * 128)}
    data.push()
    names = sorted(data.tags)
    got, path, pages = [], f"/v2/{ONE}/tags/list?n=4", 0
    while path and pages < 9:
        r = reg.check("a page", "GET", path, 200)
        got += json.loads(r.body)["tags"]
        link = r.headers["Link"]
        reg.judge("a Link", link is None or (link.startswith("<") and 'rel="next"' in link))
        path = urllib.parse.urlsplit(link[1:link.index(">")]) if link else None
        path = f"{path.path}?{path.query}" if path else None
        pages += 1
    reg.judge("all pages", got == names and pages == 2)
    r = reg.check("n=0", "GET", f"/v2/{ONE}/tags/list?n=0", 200)
    reg.judge("n=0 is empty, without a Link",
              json.loads(r.body)["tags"] == [] and r.headers["Link"] is None)
    reg.check("catalog", "GET", "/v2/_catalog", 200)
    data.delete()
