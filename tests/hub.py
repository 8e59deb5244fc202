"""A hub for tests: an HTTP server that speaks the few endpoints which huggingface_hub asks, and fails on demand.

GET /api/{models|datasets}/REPO/revision/REVISION   the commit, the card, whether it is gated
GET /api/{models|datasets}/REPO/tree/COMMIT         the files with size and hash, in pages of two
GET /api/{models|datasets}/REPO/auth-check
GET [/datasets]/REPO/resolve/COMMIT/PATH            the content, from any byte; large files by a redirect, as from a CDN
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "a1" * 20
LARGE = 1000  # bytes from which a file is an LFS file


@dataclass
class Hub:
    """refusals: start of a path → (status, headers), for as long as it stands there
    cuts: a file's path → after how many bytes the next answers break off, one a time; then it comes whole
    stalls: a file's path → after how many bytes the next answer waits for `go_on`
    lies: a file's path → what comes in its place
    seen: (path, Range) of every request
    """

    files: dict[str, bytes]
    gated: str | bool = False
    commit: str = COMMIT
    refusals: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    stalls: dict[str, int] = field(default_factory=dict)
    lies: dict[str, bytes] = field(default_factory=dict)
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def row(self, path: str) -> dict:
        content = self.files[path]
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        lfs = {"size": len(content), "oid": hashlib.sha256(content).hexdigest(), "pointerSize": 134}
        return {"type": "file", "path": path, "size": len(content), "oid": oid} | (
            {"lfs": lfs} if len(content) >= LARGE else {}
        )

    def ranges(self, path: str) -> list[str | None]:
        """What was asked of a file's content, in order."""
        return [
            asked
            for seen, asked in self.seen
            if seen.startswith("/cdn/" if self.is_large(path) else "/some") and seen.endswith(path)
        ]

    def is_large(self, path: str) -> bool:
        return len(self.files.get(path, b"")) >= LARGE


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.seen.append((path, self.headers.get("Range")))
            refused = next((answer for start, answer in hub.refusals.items() if path.startswith(start)), None)
            if refused:
                return self.answer(refused[0], b"", refused[1])
            if "/revision/" in path:
                return self.json(
                    {"id": "some/thing", "sha": hub.commit, "gated": hub.gated, "cardData": {"license": "mit"}}
                )
            if "/tree/" in path:
                return self.tree()
            if path.endswith("/auth-check"):
                return self.json({})
            name = path.partition(f"/{hub.commit}/")[2]
            if name not in hub.files:
                return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
            if path.startswith("/cdn/") or not hub.is_large(name):
                return self.content(name)
            self.answer(302, b"", {"Location": f"/cdn/{hub.commit}/{name}"})

        def tree(self) -> None:
            rows = [{"type": "directory", "path": "folder", "oid": "0" * 40}, *map(hub.row, hub.files)]
            start = int(urlsplit(self.path).query.partition("cursor=")[2] or 0)
            more = {"Link": f'<{hub.url}{urlsplit(self.path).path}?cursor={start + 2}>; rel="next"'}
            self.json(rows[start : start + 2], more if start + 2 < len(rows) else {})

        def content(self, name: str) -> None:
            content = hub.lies.get(name, hub.files[name])
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
            status = 206 if self.headers.get("Range") else 200
            cut = hub.cuts[name].pop(0) if hub.cuts.get(name) else hub.stalls.pop(name, None)
            extra = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
            if cut is None:
                return self.answer(status, content[start:], extra)
            self.answer(status, content[start : start + cut], extra, len(content) - start)
            self.wfile.flush()
            if name not in hub.cuts:
                hub.stalled.set()
                hub.go_on.wait(60)
            self.close_connection = True

        def json(self, value: object, extra: dict[str, str] | None = None) -> None:
            self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"} | (extra or {}))

        def answer(self, status: int, body: bytes, extra: dict[str, str], length: int | None = None) -> None:
            self.send_response(status)
            for key, value in extra.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()
