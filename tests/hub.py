"""A small server that speaks as much of the Hub's protocol as fetching needs: repositories, files, refusals."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """Files at one commit; ``tags`` are other names of it, ``branches`` other commits, by name."""

    files: dict[str, bytes]
    commit: str = "a" * 40
    tags: tuple[str, ...] = ("main",)
    gated: bool = False
    branches: dict[str, Repository] = field(default_factory=dict)

    def at(self, revision: str) -> Repository | None:
        """The commit that a revision names."""
        for name, branch in {"": self, **self.branches}.items():
            if revision in (name, branch.commit, *branch.tags):
                return branch
        return None


@dataclass
class Hub:
    """The server's content (``models/owner/name`` and ``datasets/owner/name``), its address and what was asked."""

    repositories: dict[str, Repository]
    address: str = ""
    asked: list[str] = field(default_factory=list)


@contextlib.contextmanager
def serve(repositories: dict[str, Repository]) -> Iterator[Hub]:
    """Run the server on a free port of this machine for the length of the block."""
    hub = Hub(repositories)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _answer(self, body: bool) -> None:
            parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
            hub.asked.append(f"{self.command} {'/'.join(parts)}")
            status, headers, content = _reply(hub, parts)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


Reply = tuple[int, dict[str, str], bytes]


def _reply(hub: Hub, parts: list[str]) -> Reply:
    api = parts[0] == "api"
    parts = parts[1:] if api else parts
    kind = parts.pop(0) if parts[0] in ("models", "datasets") else "models"
    key, rest = "/".join([kind, *parts[:2]]), parts[2:]
    found = hub.repositories.get(key)
    if found is None:
        return _refuse(404, "RepoNotFound", "Repository not found")
    revision = rest[1] if len(rest) > 1 else "main"
    repository = found.at(revision)
    if repository is None:
        return _refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    if api:
        return 200, {"Content-Type": "application/json"}, json.dumps(_facts(key, repository)).encode()
    if repository.gated:
        return _refuse(403, "GatedRepo", "Access to this repository is restricted")
    content = repository.files.get("/".join(rest[2:]))
    if content is None:
        return _refuse(404, "EntryNotFound", "Entry not found")
    return 200, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": repository.commit}, content


def _facts(key: str, repository: Repository) -> dict[str, object]:
    siblings = [{"rfilename": name, "size": len(content)} for name, content in repository.files.items()]
    name = key.partition("/")[2]
    return {"id": name, "modelId": name, "sha": repository.commit, "siblings": siblings, "gated": repository.gated,
            "private": False, "tags": [], "downloads": 0, "likes": 0}  # fmt: skip


def _refuse(status: int, code: str, message: str) -> Reply:
    return status, {"X-Error-Code": code, "X-Error-Message": message}, b"{}"
