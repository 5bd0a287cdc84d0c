"""Tests of benchmarks/serve.py, and by it of the hub's memory under load."""

import re
import socket
import subprocess
import sys
import threading
import zlib

import pytest

from benchmarks import serve
from hub_export import errors
from hub_export import program

_DOWNLOADS, _BYTES = 30, 10_000_000


def test_memory_stays_flat():
  idle, rounds = serve.measure(_DOWNLOADS, _BYTES, 2)
  assert 10e6 < idle < 120e6
  # All downloads are 300 MB. A block or two of 128 KiB for each would be 8 MB,
  # which allocators and threads come on top of.
  assert rounds[1].rss_bytes - idle < 60e6
  for result in rounds:
    assert result.socket_bytes > 0
    assert result.rate == pytest.approx(
        _DOWNLOADS * _BYTES / result.seconds)
    # Pages come while downloads run.
    assert result.page_seconds
    assert max(result.page_seconds) < 60


@pytest.mark.parametrize("header, expected", [
    (b"HTTP/1.1 200 OK\r\n\r\n", None), (b"HTTP/1.1 503 No\r\n\r\n", "503"),
    (b"", "0 bytes")])
def test_wrong_downloads_are_seen(header, expected):
  """A server that sends `header` and the right body, or nothing at all."""
  body = bytes(range(256)) * 1000
  listening = socket.create_server(("127.0.0.1", 0))

  def answer():
    client, _ = listening.accept()
    client.recv(1000)
    if header:
      client.sendall(header + body)
    client.close()

  threading.Thread(target=answer, daemon=True).start()
  port = listening.getsockname()[1]
  with listening:
    if expected is None:
      serve._download(port, 1, len(body), zlib.crc32(body))
    else:
      with pytest.raises(errors.HubExportError, match=expected):
        serve._download(port, 1, len(body), zlib.crc32(body))


def test_program():
  done = subprocess.run(
      [sys.executable, "-m", "benchmarks.serve", "--downloads=3",
       "--megabytes=1", "--rounds=1"], env=program.child_environment(),
      text=True, capture_output=True, timeout=300)
  assert (done.returncode, done.stderr) == (0, "")
  assert done.stdout.startswith("3 downloads of 1 MB at once, ")
  assert re.search(r"\n    1 +[0-9.]+ +\d+ +[0-9.]+ MB +[0-9.]+ MB +\d+ ms"
                   r" +\d+ ms\n$",
                   done.stdout)
