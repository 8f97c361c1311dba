"""A small hub on loopback: the part of the hub's HTTP interface that downloads and commits use.

Written from the requests of the unmodified clients (huggingface_hub, timm, transformers, datasets).
Repositories are kept in memory, commit by commit. Files that the hub keeps in large-file storage
(weights, tables, archives) are answered by a redirect to another host name, as the hub does.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_loopback"
Kind = Literal["models", "datasets"]
Fault = Literal["error", "down", "gated", "hidden", "torn", "short", "garbage"]
LARGE = (".safetensors", ".bin", ".parquet", ".zip", ".tar.gz")
API = re.compile(
    r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(.*))?"
)
COMMIT = re.compile(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


def git_oid(content: bytes) -> str:
    """Return the name that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Repository:
    """Commits by their sha, and branches and tags that point to them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)


@dataclass
class Hub:
    """The repositories, what was asked for, and what shall go wrong.

    Attributes:
        url: address of the server, once it runs.
        repositories: by kind and id.
        requests: lines ``METHOD path`` in the order of their arrival.
        faults: by a part of a path; the first that is found in a request's path is done to it:
            ``error`` 500; ``down`` 503; ``gated`` 401 with the hub's word for gated; ``hidden`` 401
            as for a repository that does not exist; ``torn`` the connection ends after half of the
            body; ``short`` half of the body, announced as whole; ``garbage`` the right length of
            zeros.

    """

    url: str = ""
    repositories: dict[tuple[Kind, str], Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    faults: dict[str, Fault] = field(default_factory=dict)

    def push(self, kind: Kind, name: str, files: Mapping[str, bytes], tag: str = "") -> str:
        """Make a commit of exactly these files on ``main`` and return its sha."""
        repository = self.repositories.setdefault((kind, name), Repository())
        listing = "\n".join(f"{sha256(v)} {k}" for k, v in sorted(files.items()))
        commit = hashlib.sha1(f"{len(repository.commits)}\n{listing}".encode()).hexdigest()
        repository.commits[commit] = dict(files)
        repository.refs["main"] = commit
        if tag:
            repository.refs[tag] = commit
        return commit

    def fault(self, path: str) -> Fault | None:
        return next((kind for part, kind in self.faults.items() if part in path), None)

    @contextmanager
    def failing(self, part: str, fault: Fault) -> Iterator[None]:
        """Do ``fault`` to every request whose path holds ``part``."""
        self.faults[part] = fault
        try:
            yield
        finally:
            del self.faults[part]


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        fault = self.hub.fault(path)
        if fault in ("error", "down"):
            self.send(500 if fault == "error" else 503, b"{}")
        elif fault in ("gated", "hidden"):
            self.refuse(401, "GatedRepo" if fault == "gated" else "RepoNotFound")
        elif path.startswith("/stored/"):
            self.stored(path.removeprefix("/stored/"), fault)
        elif path in ("/api/repos/create", "/api/validate-yaml"):
            self.wish(path, json.loads(body))
        elif found := COMMIT.fullmatch(path):
            self.commit_files(found[1], found[2], body)
        elif found := API.fullmatch(path):
            form = parse_qs(body.decode())
            self.api(found[1], found[2], found[3], found[4], (found[5] or "").strip("/"), form)
        elif found := FILE.fullmatch(path):
            self.file("datasets" if found[1] else "models", found[2], found[3], found[4], fault)
        else:
            self.send(404, b"{}")

    def wish(self, path: str, asked: dict) -> None:
        """Make a repository, or find a card's front matter to be in order."""
        if path.endswith("validate-yaml"):
            self.send_json({"warnings": [], "errors": []})
            return
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if not self.allowed():
            return
        self.hub.repositories.setdefault(("models", name), Repository())
        self.send_json({"url": f"{self.hub.url}/{name}"})

    def allowed(self) -> bool:
        """Tell whether the request brings the token; refuse it if not."""
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self.refuse(401, "Unauthorized")
        return False

    def commit_files(self, name: str, verb: str, body: bytes) -> None:
        """Say that files come within the commit, or take a commit of whole files."""
        if not self.allowed():
            return
        if verb == "preupload":
            files = json.loads(body)["files"]
            how = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            self.send_json({"files": [{"path": file["path"], **how} for file in files]})
            return
        repository = self.hub.repositories["models", name]
        files = dict(repository.commits.get(repository.refs.get("main", ""), {}))
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        oid = self.hub.push("models", name, files)
        self.send_json({"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid})

    def commit(self, kind: str, name: str, revision: str | None) -> str | None:
        """Return the commit that a revision means, or refuse the request and return None."""
        repository = self.hub.repositories.get((kind, name))  # type: ignore[arg-type]
        if repository is None:
            self.refuse(401, "RepoNotFound")  # the hub does not tell strangers what exists
            return None
        revision = revision or "main"
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            self.refuse(404, "RevisionNotFound")
            return None
        return commit

    def api(self, kind: str, name: str, verb: str, revision: str, rest: str, form: dict) -> None:
        commit = self.commit(kind, name, revision)
        if commit is None:
            return
        files = self.hub.repositories[kind, name].commits[commit]  # type: ignore[index]
        if verb == "tree":
            recursive = "recursive=True" in self.path or "recursive=true" in self.path
            entries = tree(files, rest, recursive)
            if not entries and rest:
                self.refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
                return
            self.send_json(entries)
        elif verb == "paths-info":
            every = {entry["path"]: entry for entry in tree(files, "", True)}
            self.send_json([every[path] for path in form.get("paths", []) if path in every])
        else:
            about = {"_id": "0", "id": name, "sha": commit, "private": False, "gated": False}
            about |= {"disabled": False, "tags": [], "downloads": 0, "likes": 0}
            about["siblings"] = [{"rfilename": path} for path in sorted(files)]
            self.send_json(about)

    def file(self, kind: str, name: str, revision: str, path: str, fault: Fault | None) -> None:
        commit = self.commit(kind, name, revision)
        if commit is None:
            return
        headers = {"X-Repo-Commit": commit}
        content = self.hub.repositories[kind, name].commits[commit].get(path)  # type: ignore[index]
        if content is None:
            self.refuse(404, "EntryNotFound", headers)
        elif path.endswith(LARGE):
            port = self.server.server_address[1]
            headers |= {
                "X-Linked-Etag": f'"{sha256(content)}"',
                "X-Linked-Size": str(len(content)),
                "Location": f"http://localhost:{port}/stored/{kind}/{name}/{commit}/{path}",
            }
            self.send(302, b"", headers)
        else:
            self.content(content, fault, {**headers, "ETag": f'"{git_oid(content)}"'})

    def stored(self, path: str, fault: Fault | None) -> None:
        """Answer for large-file storage."""
        kind, owner, name, commit, rest = path.split("/", 4)
        content = self.hub.repositories[kind, f"{owner}/{name}"].commits[commit][rest]  # type: ignore[index]
        self.content(content, fault, {"ETag": f'"{sha256(content)}"'})

    def content(self, content: bytes, fault: Fault | None, headers: dict[str, str]) -> None:
        """Send a file or a range of it, or what a fault makes of it."""
        headers = {**headers, "Accept-Ranges": "bytes"}
        status, start, stop = 200, 0, len(content)
        if fault == "garbage":
            content = bytes(len(content))
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked:
            status, start = 206, int(asked[1])
            stop = min(stop, int(asked[2]) + 1) if asked[2] else stop
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        body = content[start:stop]
        if self.command == "GET" and fault == "torn":
            self.send(status, body, headers, sent=len(body) // 2)
        elif self.command == "GET" and fault == "short":
            self.send(status, body[: len(body) // 2], headers)
        else:
            self.send(status, body, headers)

    def send_json(self, value: object) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, code: str, headers: Mapping[str, str] | None = None) -> None:
        words = {"X-Error-Code": code, "X-Error-Message": f"{code}: access refused"}
        self.send(status, b"{}", {**(headers or {}), **words})

    def send(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        sent: int | None = None,
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:sent])
        if sent is not None:
            self.close_connection = True


def tree(files: Mapping[str, bytes], folder: str, recursive: bool) -> list[dict]:
    """List a folder of a commit as the hub does: files with their ids, folders by name."""
    start = f"{folder}/" if folder else ""
    entries, folders = [], set()
    for path, content in sorted(files.items()):
        if not path.startswith(start):
            continue
        parts = path.removeprefix(start).split("/")
        inner = [start + "/".join(parts[:n]) for n in range(1, len(parts))]
        folders |= set(inner if recursive else inner[:1])
        if recursive or len(parts) == 1:
            entry = {"type": "file", "path": path, "oid": git_oid(content), "size": len(content)}
            if path.endswith(LARGE):
                entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
            entries.append(entry)
    named = [{"type": "directory", "path": p, "oid": git_oid(p.encode())} for p in sorted(folders)]
    return [{**entry, "size": 0} for entry in named] + entries


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a hub on a free port of 127.0.0.1 until the block ends."""
    hub = Hub()
    handler = type("HubHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
