"""``bench view``: what it serves, to whom, and how it ends."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from bench.core.errors import RequestError
from bench.report import serve
from bench.report.inputs import Extras
from bench.store.store import Store
from tests import factories


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "store")
    made.prepare()
    made.write(factories.record("lora"))
    (tmp_path / "secret.json").write_text('{"secret": 1}')
    return made


@pytest.fixture
def server(store):
    running = serve.listen(serve.Page(store.folder, lambda: (store.records()[0], Extras())), "127.0.0.1", 0)
    thread = threading.Thread(target=running.run, args=(False,), daemon=True)
    thread.start()
    yield running
    running.stop()
    thread.join(10)
    running.close()


def ask(server, path, *, method="GET", host=None, **headers):
    """Status, headers and body; the path goes out as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.putrequest(method, path, skip_host=True)
    for name, value in {"Host": host or f"127.0.0.1:{server.port}", **headers}.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


def test_the_page_is_the_report_and_looks_for_news(server):
    status, headers, body = ask(server, "/")
    assert status == 200 and "lora" in body and "fetch(" in body
    assert "connect-src 'self'" in body
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["X-Frame-Options"] == "DENY"
    (state,) = re.findall('data-state="([0-9a-f]{16})"', body)
    assert json.loads(ask(server, "/state")[2]) == {"state": state}


def test_a_page_that_did_not_change_is_not_sent_again(server, store):
    tag = ask(server, "/")[1]["ETag"]
    assert ask(server, "/", If_None_Match=tag)[0] == 304
    before = ask(server, "/state")[2]
    store.write(factories.record("lst"))
    assert ask(server, "/state")[2] != before
    status, _, body = ask(server, "/", If_None_Match=tag)
    assert status == 200 and ">lst<" in body


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.json", "/%2e%2e/secret.json", "/..%2fsecret.json", "/runs/", "/runs", "//etc/passwd", "/etc/passwd",
        "/state/../secret.json", "/./", "/report.html", "\\..\\secret.json", "/%00", "http://127.0.0.1/", "*",
        "/state%20", "/favicon.ico/../secret.json",
    ],
)  # fmt: skip
def test_no_other_path_is_served(server, path):
    status, _, body = ask(server, path)
    assert status == 404 and "secret" not in body.replace(path, "")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1",
        "127.0.0.1:1",
        "localhost.evil.example:{port}",
        "10.0.0.1:{port}",
    ],
)
def test_a_foreign_host_name_is_refused(server, host):
    status, _, body = ask(server, "/", host=host.format(port=server.port))
    assert status == 403 and "lora" not in body


@pytest.mark.parametrize("host", ["localhost:{port}", "LOCALHOST:{port}", "127.0.0.1:{port}", "[::1]:{port}"])
def test_this_machines_own_names_are_served(server, host):
    assert ask(server, "/state", host=host.format(port=server.port))[0] == 200


def test_a_request_without_one_host_is_refused(server):
    with socket.create_connection(("127.0.0.1", server.port), 10) as line:
        line.sendall(b"GET /state HTTP/1.0\r\n\r\n")
        assert b"403" in line.recv(200)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_written(server, method):
    assert ask(server, "/", method=method)[0] == 501
    assert ask(server, "/", method="HEAD")[2] == ""


def test_a_folder_that_vanishes_is_told(server, store):
    (store.folder / "runs").rename(store.folder / "elsewhere")
    status, _, body = ask(server, "/state")
    assert status == 503 and "cannot be read" in body
    (store.folder / "elsewhere").rename(store.folder / "runs")
    assert ask(server, "/state")[0] == 200


def test_only_loopback_unless_told(server):
    assert server.url.startswith("http://127.0.0.1:")
    with pytest.raises(ConnectionError), socket.create_connection(("127.0.0.2", server.port), 5):
        pass


def test_a_taken_port_is_told_and_the_next_one_found(store, monkeypatch):
    page = serve.Page(store.folder, lambda: (store.records()[0], Extras()))
    first = serve.listen(page, "127.0.0.1", 0)
    with pytest.raises(RequestError, match="already in use"):
        serve.listen(page, "127.0.0.1", first.port)
    monkeypatch.setattr(serve, "DEFAULT_PORT", first.port)
    second = serve.listen(page, "127.0.0.1", None)
    assert first.port < second.port < first.port + 20
    first.close()
    second.close()
    with pytest.raises(RequestError, match="not an address"):
        serve.listen(page, "no such host", 0)


def test_the_command_serves_and_ctrl_c_ends_it_cleanly(store):
    words = [sys.executable, "-m", "bench", "view", str(store.folder), "--port", "0", "--no-browser"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        signal_ok = process.stdout.readline()
        (port,) = re.findall(r"http://127\.0\.0\.1:(\d+)/", signal_ok)
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
        connection.request("GET", "/state")
        assert connection.getresponse().status == 200
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0 and "no longer served" in errors and "Traceback" not in errors


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("view", "nowhere"), "[no-records]"),
        (("view", "{store}", "--port", "http"), "[invalid-value]"),
        (("view", "{store}", "--port", "70000"), "[invalid-value]"),
        (("view", "{store}", "--prot", "1"), "[unknown-flag]"),
    ],
)
def test_wrong_requests_are_told(bench_here, store, words, code):
    done = bench_here(*(word.format(store=store.folder) for word in words))
    assert done.returncode == 2 and code in done.stderr
