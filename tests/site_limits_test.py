"""Tests of hub_export/site/limits.py and of what interrupts a download."""

import asyncio
import contextlib
import json
import pathlib
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn

from hub_export import releases
from hub_export import serve
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
  listening = serve.listen("127.0.0.1", 0)
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


def test_small_answers_wait_for_nobody(root):
  with _serving(root, max_downloads=1) as (port, _):
    with _connect(port) as slow:
      slow.sendall(_GET)
      assert _status(slow) == b"200"
      for request, status in (
          (_GET.replace(b".tar.gz", b".md"), b"200"),
          (_GET.replace(b"\r\n\r\n", b"\r\nRange: bytes=0-99\r\n\r\n"),
           b"206"),
          (_GET.replace(b"\r\n\r\n", b"\r\nIf-None-Match: *\r\n\r\n"),
           b"304"),
          (_GET.replace(b"GET", b"HEAD"), b"200")):
        with _connect(port) as client:
          client.settimeout(20)  # Less than a turn is waited for.
          client.sendall(request)
          assert _status(client) == status


def test_what_is_being_sent_takes_little_of_the_kernel(root):
  with _serving(root) as (port, log):
    with _connect(port) as client:
      client.sendall(_GET)
      assert _status(client) == b"200"
      time.sleep(1)
      client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                        struct.pack("ii", 1, 0))
    deadline = time.monotonic() + 30
    while not log and time.monotonic() < deadline:
      time.sleep(0.05)
    # What was given to the transport: its own buffer, a block, the kernel's.
    assert json.loads(log[0])["bytes"] < 1_500_000


def test_a_client_that_takes_little_is_not_cut_off(root):
  # As 10 kB/s are where 60 s are given.
  rate, seconds = 150_000, 4.0
  with _serving(root, write_seconds=seconds) as (port, log):
    with _connect(port) as client:
      client.sendall(_GET)
      start, received = time.monotonic(), 0
      while (elapsed := time.monotonic() - start) < 2.5 * seconds:
        # What the kernel holds would still arrive after that.
        assert not log, f"cut off after {elapsed:.1f} s"
        received += len(client.recv(1 << 13))
        time.sleep(max(0.0, received / rate - elapsed))


def test_a_client_has_so_many_turns_and_no_more():
  async def run():
    turns = limits.Downloads(16)
    release = asyncio.Event()
    got = []

    async def download(client):
      async with turns.turn(client) as is_turn:
        got.append((client, is_turn))
        await release.wait()

    greedy = [asyncio.create_task(download("a")) for _ in range(12)]
    await asyncio.sleep(0.01)
    # Two have one, eight wait, two are told to come again.
    assert sorted(got) == [("a", False)] * 2 + [("a", True)] * 2
    others = [asyncio.create_task(download(f"b{i}")) for i in range(14)]
    await asyncio.sleep(0.01)
    assert len(got) == 18 and all(is_turn for _, is_turn in got[4:])
    release.set()
    await asyncio.gather(*greedy, *others)
    assert got.count(("a", True)) == 10
    assert not turns._clients

  asyncio.run(run())


def test_who_waited_long_enough_is_told_to_come_again(root):
  async def run():
    turns = limits.Downloads(1, per_client=9, wait_seconds=0.1)
    file = responses.File(
        root / "local/tiny_classification/1.tar.gz", "x/y", turns)
    sent = []

    async def send(message):
      sent.append(message)

    async def receive():
      await asyncio.Event().wait()

    scope = {"type": "http", "method": "GET", "headers": [],
             "client": ("192.0.2.1", 1)}
    async with turns.turn("192.0.2.2") as is_turn:
      assert is_turn
      await file(scope, receive, send)
      assert sent[0]["status"] == 503
      assert (b"retry-after", b"60") in sent[0]["headers"]
      # Four may wait for each turn; the fifth is told at once.
      waiting = [asyncio.create_task(file(scope, receive, send))
                 for _ in range(4)]
      while turns._all.num_here < 5:
        await asyncio.sleep(0)
      sent.clear()
      await file(scope, receive, send)
      assert sent[0]["status"] == 503 and not all(t.done() for t in waiting)
      await asyncio.gather(*waiting)
    sent.clear()
    await file(scope, receive, send)
    assert sent[0]["status"] == 200

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
      await responses.File(path, "x/y", limits.Downloads(1))(
          scope, receive, send)
    return sent

  assert asyncio.run(run()) == 1 << 20
