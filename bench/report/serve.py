"""The report over HTTP for one's own browser, which asks for the folder's state and takes a new page when it changes.

Two addresses exist, ``/`` (the page) and ``/state`` (what the folder holds, as a hash); every other is refused, so that
no path can name a file. Requests that call this machine by a foreign name are refused too: a web page whose name was
pointed at 127.0.0.1 (DNS rebinding) cannot read results.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import ipaddress
import json
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from bench.core.errors import RequestError
from bench.report.inputs import Extras
from bench.store.record import Record

DEFAULT_PORT = 8321
_PORTS = 20  # tried in turn without --port
_CLIENT_SECONDS = 30  # a connection that stays silent this long is dropped

_HEADERS = {
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Page:
    """The report of one folder, made anew when its records change.

    Args:
        folder: of the records.
        read: gives the records and what else the report shows.
    """

    def __init__(self, folder: Path, read: Callable[[], tuple[list[Record], Extras]]) -> None:
        self.folder, self._read = folder, read
        self._lock = threading.Lock()
        self._made: tuple[str, bytes] | None = None

    def state(self) -> str:
        """A hash over the names, sizes and times of the records' files; 16 hex digits."""
        seen = []
        with os.scandir(self.folder / "runs") as entries:
            for entry in entries:
                if entry.name.endswith(".json"):
                    with contextlib.suppress(FileNotFoundError):  # set aside as damaged, this very moment
                        facts = entry.stat()
                        seen.append((entry.name, facts.st_size, facts.st_mtime_ns))
        return hashlib.sha256(repr(sorted(seen)).encode()).hexdigest()[:16]

    def html(self) -> tuple[str, bytes]:
        """The state, and the page that shows it."""
        from bench.report.html.page import document

        with self._lock:  # several windows wait for one page rather than each making its own
            state = self.state()
            if self._made is None or self._made[0] != state:
                records, extras = self._read()
                self._made = state, document(records, replace(extras, live=state)).encode("utf-8")
            return self._made


class Server:
    """A running server and its address."""

    def __init__(self, inner: ThreadingHTTPServer, host: str) -> None:
        self._inner = inner
        self.port: int = inner.server_address[1]
        named = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        self.url = f"http://{f'[{named}]' if ':' in named else named}:{self.port}/"

    def run(self, open_browser: bool) -> None:
        """Serve until Ctrl-C, which leaves as KeyboardInterrupt."""
        if open_browser:  # some browsers keep the call waiting until they are closed
            threading.Thread(target=webbrowser.open, args=(self.url,), daemon=True).start()
        self._inner.serve_forever(poll_interval=0.2)

    def stop(self) -> None:
        """End ``run`` from another thread."""
        self._inner.shutdown()

    def close(self) -> None:
        """Free the port."""
        self._inner.server_close()


def listen(page: Page, host: str, port: int | None) -> Server:
    """Listen on an address; with no port given, on 8321 or the next free one.

    Raises:
        RequestError: when the address does not exist here or the port is taken.
    """
    family = _family(host)
    wanted = range(DEFAULT_PORT, DEFAULT_PORT + _PORTS) if port is None else [port]
    for number in wanted:
        try:
            inner = _bound(page, (host, number), family)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and port is None:
                continue
            reason = error.strerror or str(error)
            raise RequestError(
                f"Cannot listen on {host}, port {number}: {reason}. Choose another --port.", code="unavailable"
            ) from error
        if not _loopback(host):
            sys.stderr.write(f"bench: listening on {host}: anyone who can reach this machine can read this report.\n")
        return Server(inner, host)
    raise RequestError(
        f"Ports {wanted[0]} to {wanted[-1]} are all taken; name a free one: --port N.", code="unavailable"
    )


def _family(host: str) -> socket.AddressFamily:
    try:
        return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    except (OSError, UnicodeError) as error:
        raise RequestError(
            f"--host: '{host}' is not an address of this machine, such as 127.0.0.1.", code="invalid-value"
        ) from error


def _bound(page: Page, address: tuple[str, int], family: socket.AddressFamily) -> ThreadingHTTPServer:
    class Listener(ThreadingHTTPServer):
        address_family = family
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A reader who closes the connection half-way is no error; anything else is shown as usual."""
            if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
                super().handle_error(request, client_address)  # type: ignore[arg-type]

    class Handler(_Handler):
        shown = page
        host = address[0]

    made = Listener(address, Handler)
    Handler.port = made.server_address[1]
    return made


def _loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


class _Handler(BaseHTTPRequestHandler):
    shown: Page
    host: str
    port: int
    server_version, sys_version = "tunebench", ""
    timeout = _CLIENT_SECONDS

    def do_GET(self) -> None:
        """Answer the two addresses, and refuse everything else."""
        if not self.is_allowed_host():
            self._say(HTTPStatus.FORBIDDEN, "This report is only served under this machine's own name.")
            return
        path = self.path.split("?", 1)[0]
        try:
            if path == "/":
                state, page = self.shown.html()
                self._send(HTTPStatus.OK, "text/html; charset=utf-8", page, state)
            elif path == "/state":
                body = json.dumps({"state": self.shown.state()}).encode()
                self._send(HTTPStatus.OK, "application/json", body)
            elif path == "/favicon.ico":
                self._send(HTTPStatus.NO_CONTENT, "image/x-icon", b"")
            else:
                self._say(HTTPStatus.NOT_FOUND, "There is nothing here but the report, at /.")
        except (OSError, RequestError) as error:
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, f"The folder cannot be read: {error}")

    do_HEAD = do_GET

    def is_allowed_host(self) -> bool:
        """Whether the Host header names this machine: a loopback or IP address, or the name it was told to use."""
        given = self.headers.get_all("Host") or []
        if len(given) != 1:
            return False
        name, _, port = given[0].strip().rpartition(":") if not given[0].endswith("]") else (given[0].strip(), "", "")
        if not name:  # no port: the default of HTTP
            name, port = port, ""
        bare = name.removeprefix("[").removesuffix("]").lower()
        if (port or "80") != str(self.port):
            return False
        if bare in ("localhost", self.host.lower()):
            return True
        with contextlib.suppress(ValueError):
            address = ipaddress.ip_address(bare)
            return address.is_loopback or not _loopback(self.host)  # an address cannot be pointed elsewhere by DNS
        return not _loopback(self.host) and bare in (socket.gethostname().lower(), socket.getfqdn().lower())

    def _say(self, status: HTTPStatus, words: str) -> None:
        self._send(status, "text/plain; charset=utf-8", f"{words}\n".encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes, state: str | None = None) -> None:
        if state is not None and self.headers.get("If-None-Match") == f'"{state}"':
            status, body = HTTPStatus.NOT_MODIFIED, b""
        self.send_response(status)
        headers = _HEADERS | {"Content-Type": kind, "Content-Length": str(len(body))}
        for name, value in (headers | ({"ETag": f'"{state}"'} if state else {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not reported: the terminal is for what went wrong."""
