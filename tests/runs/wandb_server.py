"""A small W&B on loopback: the part of its HTTP interface that runs are sent by.

Written from the requests of the unmodified client. Lines of a run's history are kept by their
offset, as W&B keeps them, and a run that is continued is told how many there are.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HISTORY = "wandb-history.jsonl"


@dataclass
class Stored:
    """One W&B run: what was upserted, its history line by line, its summary, how it ended."""

    upserted: dict = field(default_factory=dict)
    history: list[str] = field(default_factory=list)
    summary: dict = field(default_factory=dict)
    exits: list[int] = field(default_factory=list)

    @property
    def rows(self) -> list[dict]:
        return [json.loads(line) for line in self.history]


@dataclass
class Server:
    """Address and runs by id."""

    url: str = ""
    runs: dict[str, Stored] = field(default_factory=dict)


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"
    server_state: Server

    def handle_one_request(self) -> None:
        with suppress(ConnectionResetError):  # a client was killed
            super().handle_one_request()

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer({})

    def do_PUT(self) -> None:
        self.body()
        self.answer({})

    def do_POST(self) -> None:
        body = self.body()
        if self.path == "/graphql":
            asked = json.loads(body)
            name = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
            made = getattr(self, f"on_{name[1]}", None) if name else None
            self.answer({"data": made(asked["variables"] or {}) if made else {}})
        elif found := re.fullmatch(r"/files/[^/]*/?[^/]+/([^/]+)/file_stream", self.path):
            self.stream(self.server_state.runs[found[1]], json.loads(body))
            self.answer({})
        else:
            self.answer({})

    def on_Viewer(self, given: dict) -> dict:
        teams = {"edges": [{"node": {"name": "me"}}]}
        about = {"id": "1", "entity": "me", "username": "me", "email": "", "flags": "{}"}
        return {"viewer": {**about, "teams": teams}}

    def on_RunResumeStatus(self, given: dict) -> dict:
        model = {"id": "p", "name": given["project"], "entity": {"id": "e", "name": "me"}}
        run = self.server_state.runs.get(given["name"])
        if run is None:
            return {"model": {**model, "bucket": None}}
        bucket = {
            "id": f"bucket-{given['name']}",
            "name": given["name"],
            "summaryMetrics": json.dumps(run.summary),
            "displayName": run.upserted.get("displayName"),
            "logLineCount": 0,
            "historyLineCount": len(run.history),
            "eventsLineCount": 0,
            "historyTail": json.dumps(run.history[-1:]),
            "eventsTail": "[]",
            "config": run.upserted.get("config") or "{}",
            "tags": run.upserted.get("tags") or [],
            "notes": None,
            "wandbConfig": '{"t": {}}',
        }
        return {"model": {**model, "bucket": bucket}}

    def on_UpsertBucket(self, given: dict) -> dict:
        new = given["name"] not in self.server_state.runs
        run = self.server_state.runs.setdefault(given["name"], Stored())
        run.upserted |= {key: value for key, value in given.items() if value is not None}
        project = {"id": "p", "name": given["project"], "entity": {"id": "e", "name": "me"}}
        bucket = {
            "id": f"bucket-{given['name']}",
            "name": given["name"],
            "displayName": given.get("displayName"),
            "description": None,
            "config": given.get("config"),
            "sweepName": None,
            "project": project,
            "historyLineCount": len(run.history),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": new}}

    def on_CreateRunFiles(self, given: dict) -> dict:
        url = f"{self.server_state.url}/upload"
        files = [{"name": name, "uploadUrl": f"{url}/{name}"} for name in given["files"]]
        made = {"runID": given["run"], "uploadHeaders": [], "files": files}
        return {"createRunFiles": made}

    def stream(self, run: Stored, sent: dict) -> None:
        """Put lines where they belong, whether they were there before or not."""
        for name, part in (sent.get("files") or {}).items():
            if name == HISTORY:
                start = part["offset"]
                assert start <= len(run.history), "a gap in the history"
                run.history[start : start + len(part["content"])] = part["content"]
            elif name == "wandb-summary.json":
                run.summary = json.loads(part["content"][-1])
        if sent.get("complete"):
            run.exits.append(sent.get("exitcode"))

    def body(self) -> bytes:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        zipped = self.headers.get("Content-Encoding") == "gzip"
        return gzip.decompress(content) if zipped else content

    def answer(self, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serve() -> Iterator[Server]:
    """Run a W&B on a free port of 127.0.0.1 until the block ends."""
    state = Server()
    handler = type("WandbHandler", (Handler,), {"server_state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
