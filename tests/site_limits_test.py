"""Tests of hub_export/site/limits.py and of what interrupts a download."""

import asyncio
import contextlib
import json
import pathlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn

from hub_export import releases
from hub_export.destinations import directory
from hub_export.site import application
from hub_export.site import limits
from hub_export.site import models
from hub_export.site import responses
from tests import tiny_export

# Much more than sockets and the server hold back between them.
_BYTES = 24 << 20
_GET = (b"GET /local/tiny_classification/1.tar.gz HTTP/1.1\r\nHost: h\r\n"
        b"\r\n")


@pytest.fixture(name="root", scope="module")
def _root(tmp_path_factory) -> pathlib.Path:
  base = tmp_path_factory.mktemp("limits")
  directory.Directory(base / "root").put(
      releases.read(tiny_export.make(base / "exports")))
  with open(base / "root/local/tiny_classification/1.tar.gz", "wb") as f:
    f.truncate(_BYTES)
  return base / "root"


@contextlib.contextmanager
def _serving(root: pathlib.Path, max_downloads: int = 2, **times: float
             ) -> Iterator[tuple[int, list[str]]]:
  """Serves in a thread; yields the port and the access log's lines."""
  log: list[str] = []
  protocol = type("Protocol", (limits.Protocol,), times)
  server = uvicorn.Server(uvicorn.Config(
      application.app(models.Published(root), log.append,
                      max_downloads=max_downloads),
      http=protocol, ws="none", lifespan="off", log_config=None,
      timeout_graceful_shutdown=1))
  listening = socket.create_server(("127.0.0.1", 0))
  thread = threading.Thread(target=lambda: asyncio.run(
      server.serve([listening])))
  thread.start()
  try:
    yield listening.getsockname()[1], log
  finally:
    server.should_exit = True
    thread.join(60)


def _connect(port: int) -> socket.socket:
  client = socket.socket()
  # Small, so that a client which does not read holds the server up soon.
  client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
  client.settimeout(60)
  client.connect(("127.0.0.1", port))
  return client


def _read_all(client: socket.socket) -> bytes:
  """Returns what comes until the server ends or cuts the connection."""
  found = []
  with contextlib.suppress(ConnectionResetError):
    while block := client.recv(1 << 20):
      found.append(block)
  return b"".join(found)


def _status(client: socket.socket) -> bytes:
  return client.recv(12)[9:]


@pytest.mark.parametrize("sent", [
    b"", b"GET / HTTP/1.1\r\nHost: h\r\nX: ",
    b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\nGET / HT"])
def test_who_asks_for_nothing_is_cut_off(root, sent):
  with _serving(root, request_seconds=1.0) as (port, _):
    with _connect(port) as client:
      start = time.monotonic()
      client.sendall(sent)
      _read_all(client)
      assert 0.5 < time.monotonic() - start < 30


def test_who_dribbles_a_request_is_cut_off(root):
  with _serving(root, request_seconds=1.0) as (port, _):
    with _connect(port) as client:
      start = time.monotonic()
      with pytest.raises(OSError):
        while time.monotonic() - start < 30:
          client.sendall(b"G")
          time.sleep(0.1)
      assert time.monotonic() - start < 30


def test_who_takes_nothing_is_cut_off_and_logged(root):
  with _serving(root, write_seconds=1.0) as (port, log):
    with _connect(port) as client:
      client.sendall(_GET)
      deadline = time.monotonic() + 30
      while not log and time.monotonic() < deadline:
        time.sleep(0.05)
      assert log, "it still waits"
      line = json.loads(log[0])
      assert line["complete"] is False and line["bytes"] < _BYTES / 2
      assert len(_read_all(client)) < _BYTES


def test_a_slow_download_arrives_whole(root):
  # It takes longer than any single wait may.
  with _serving(root, write_seconds=2.0, request_seconds=2.0) as (port, log):
    with _connect(port) as client:
      client.sendall(_GET[:-2] + b"Connection: close\r\n\r\n")
      start, received = time.monotonic(), 0
      while block := client.recv(1 << 20):
        received += len(block)
        ahead = 4 * received / _BYTES - (time.monotonic() - start)
        time.sleep(max(0.0, ahead))
      assert time.monotonic() - start > 2.0
      assert _BYTES < received < _BYTES + 1000
    assert json.loads(log[0])["complete"] is True


def test_more_downloads_wait_for_a_turn(root, monkeypatch):
  monkeypatch.setattr(responses, "_BLOCK_BYTES", 1 << 14)
  with _serving(root, max_downloads=2) as (port, _):
    with contextlib.ExitStack() as stack:
      clients = [stack.enter_context(_connect(port)) for _ in range(3)]
      for client in clients[:2]:
        client.sendall(_GET)
        assert _status(client) == b"200"
      clients[2].sendall(_GET)
      clients[2].settimeout(1)
      with pytest.raises(TimeoutError):
        clients[2].recv(1)
      # Pages do not wait.
      with _connect(port) as other:
        other.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert _status(other) == b"200"
      clients[0].close()  # Its turn is given on.
      clients[2].settimeout(60)
      assert _status(clients[2]) == b"200"


def test_who_waited_long_enough_is_told_to_come_again():
  async def run():
    turns = limits.Downloads(1, wait_seconds=0.1)
    sent, release = [], asyncio.Event()

    async def download(scope, receive, send):
      await release.wait()

    async def send(message):
      sent.append(message)

    scope = {"type": "http", "method": "GET", "headers": []}
    app = turns.limited(download)
    first = asyncio.create_task(app(scope, None, send))
    await asyncio.sleep(0)
    await app(scope, None, send)
    assert sent[0]["status"] == 503
    assert (b"retry-after", b"60") in sent[0]["headers"]
    # Four may wait for each turn; the fifth is told at once.
    waiting = [asyncio.create_task(app(scope, None, send)) for _ in range(4)]
    await asyncio.sleep(0)
    sent.clear()
    await app(scope, None, send)
    assert sent[0]["status"] == 503 and not any(t.done() for t in waiting)
    release.set()
    await asyncio.gather(first, *waiting)

  asyncio.run(run())


def test_a_file_that_shrinks_while_it_is_sent_cuts_the_connection(
    root, tmp_path):
  path = tmp_path / "shrinking"
  with open(path, "wb") as f:
    f.truncate(_BYTES)

  async def run():
    sent = 0

    async def send(message):
      nonlocal sent
      sent += len(message.get("body", b""))
      if sent:
        with open(path, "r+b") as f:
          f.truncate(1 << 20)

    async def receive():
      await asyncio.Event().wait()

    scope = {"type": "http", "method": "GET", "headers": []}
    with pytest.raises(OSError, match="cut short"):
      await responses.File(path, "x/y")(scope, receive, send)
    return sent

  assert asyncio.run(run()) == 1 << 20
