"""Measures the HTTP hub under many downloads at once, on this machine.

    ./bazelw run //benchmarks:serve -- --downloads=100 --megabytes=25

Starts //hub_export:serve over a made-up model, downloads its archive that many
times at once over loopback, checks what arrives, and asks for pages meanwhile.
It prints the server's memory before and at its highest, what the kernel held
for all sockets of this machine, how fast the bytes came, and how long pages
took. Client and server share the machine's cores.
"""

import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import re
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator, Sequence

from absl import flags

from hub_export import errors
from hub_export import program

_DOWNLOADS = flags.DEFINE_integer(
    "downloads", 100, "Downloads at once.", lower_bound=1, upper_bound=400)
_MEGABYTES = flags.DEFINE_integer(
    "megabytes", 25, "Size of the archive, in millions of bytes.",
    lower_bound=1, upper_bound=1000)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 2, "How often to do it; memory must not grow from one to the "
    "next.", lower_bound=1, upper_bound=20)

_HANDLE = "local/made_up/1"
_TIMEOUT_SECONDS = 300
_BLOCK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Round:
  """What one round came to."""
  seconds: float             # Until the last download was there.
  rate: float                # Of all downloads, in bytes a second.
  rss_bytes: int             # Of the server, the highest so far.
  socket_bytes: int          # Of this machine's sockets, the highest seen.
  page_seconds: list[float]  # Of each page that was asked for meanwhile.


def measure(downloads: int, num_bytes: int, rounds: int
            ) -> tuple[int, list[Round]]:
  """Returns the server's memory when idle, in bytes, and each round.

  Args:
    downloads: At once.
    num_bytes: Size of the archive.
    rounds: One after the other.

  Raises:
    HubExportError: if a download is not what is published, or takes minutes.
  """
  with tempfile.TemporaryDirectory() as directory:
    root = pathlib.Path(directory)
    crc32 = _publish(root, num_bytes)
    with _serving(root, downloads) as (port, pid):
      for _ in range(3):  # Templates and threads are there from then on.
        _page_seconds(port)
      idle = _rss_bytes(pid)
      return idle, [_round(port, pid, downloads, num_bytes, crc32)
                    for _ in range(rounds)]


def _publish(root: pathlib.Path, num_bytes: int) -> int:
  """Writes a model that can be served; returns its archive's CRC-32.

  Only serving is measured, so the archive is none: random bytes.
  """
  module_dir = root / _HANDLE
  (module_dir / "assets.extra").mkdir(parents=True)
  (module_dir / "assets.extra/manifest.json").write_text(
      json.dumps({"handle": _HANDLE, "kind": "classifier"}))
  module_dir.with_name("1.md").write_text(f"# Module {_HANDLE}\nMade up.\n")
  module_dir.with_name("1.checks.json").write_text("{}")
  crc32, left = 0, num_bytes
  with open(module_dir.with_name("1.tar.gz"), "wb") as f:
    while left:
      block = os.urandom(min(left, _BLOCK_BYTES))
      f.write(block)
      crc32, left = zlib.crc32(block, crc32), left - len(block)
  return crc32


@contextlib.contextmanager
def _serving(root: pathlib.Path, downloads: int) -> Iterator[tuple[int, int]]:
  """Runs the hub; yields port and process id."""
  environment = {**program.child_environment(), "PYTHONUNBUFFERED": "1"}
  with subprocess.Popen(
      [sys.executable, "-m", "hub_export.serve", f"--root={root}", "--port=0",
       f"--max_downloads={downloads}", f"--downloads_per_client={downloads}",
       "--access_log=" + os.devnull],
      env=environment, text=True, stdout=subprocess.PIPE) as process:
    try:
      port = re.search(r":(\d+) \(", process.stdout.readline())
      if port is None:
        raise errors.HubExportError(
            "the hub did not start; expected a line with its address. See "
            "what it says above.")
      yield int(port[1]), process.pid
    finally:
      process.terminate()
      process.communicate()  # What it says in the end has to go somewhere.


def _round(port: int, pid: int, downloads: int, num_bytes: int, crc32: int
           ) -> Round:
  """Downloads everything once, asking for pages meanwhile."""
  pages: list[float] = []
  socket_bytes: list[int] = []
  done = threading.Event()

  def ask() -> None:
    while not done.is_set():
      socket_bytes.append(_socket_bytes())
      pages.append(_page_seconds(port))
      done.wait(0.2)

  asking = threading.Thread(target=ask)
  start = time.monotonic()
  asking.start()
  try:
    _download(port, downloads, num_bytes, crc32)
    seconds = time.monotonic() - start
  finally:
    done.set()
    asking.join()
  return Round(seconds, downloads * num_bytes / seconds,
               _rss_bytes(pid, "VmHWM"), max(socket_bytes), pages)


def _download(port: int, downloads: int, num_bytes: int, crc32: int) -> None:
  """Downloads at once, each on a connection; checks all bytes."""
  request = (f"GET /{_HANDLE}?tf-hub-format=compressed HTTP/1.1\r\n"
             "Host: 127.0.0.1\r\nConnection: close\r\n\r\n").encode()
  deadline = time.monotonic() + _TIMEOUT_SECONDS
  received: dict[socket.socket, list] = {}
  buffer = memoryview(bytearray(_BLOCK_BYTES))
  with contextlib.ExitStack() as stack:
    selector = stack.enter_context(selectors.DefaultSelector())
    for _ in range(downloads):
      client = stack.enter_context(
          socket.create_connection(("127.0.0.1", port), timeout=60))
      client.sendall(request)
      client.setblocking(False)
      selector.register(client, selectors.EVENT_READ)
      received[client] = [b"", 0, 0]  # Headers, bytes and CRC-32 of the body.
    while selector.get_map():
      if time.monotonic() > deadline:
        raise errors.HubExportError(
            f"{len(selector.get_map())} of {downloads} downloads are not done "
            f"after {_TIMEOUT_SECONDS} s; expected all. Try fewer.")
      for key, _ in selector.select(1):
        count = key.fileobj.recv_into(buffer)
        if not count:
          selector.unregister(key.fileobj)
        _take(received[key.fileobj], buffer[:count])
  wrong = [found for found in received.values()
           if found[1:] != [num_bytes, crc32]
           or not found[0].startswith(b"HTTP/1.1 200 ")]
  if wrong:
    raise errors.HubExportError(
        f"{len(wrong)} of {downloads} downloads are not what is published, "
        f"such as {wrong[0][0][:100]!r} with {wrong[0][1]:,} bytes; expected "
        f"{num_bytes:,}. Look at the hub.")


def _take(found: list, block: memoryview) -> None:
  """Adds what came to [headers, bytes of the body, its CRC-32]."""
  if not found[0].endswith(b"\r\n\r\n"):
    head, mark, rest = (found[0] + bytes(block)).partition(b"\r\n\r\n")
    found[0] = head + mark
    block = memoryview(rest)
  found[1] += len(block)
  found[2] = zlib.crc32(block, found[2])


def _page_seconds(port: int) -> float:
  """Returns how long the catalogue took."""
  start = time.monotonic()
  connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
  with contextlib.closing(connection):
    connection.request("GET", "/")
    answer = connection.getresponse()
    if answer.status != 200 or b"made_" not in answer.read():
      raise errors.HubExportError(
          f"the catalogue came with status {answer.status}; expected 200 and "
          "the model. Look at the hub.")
  return time.monotonic() - start


def _rss_bytes(pid: int, field: str = "VmRSS") -> int:
  """Returns a process's memory by proc(5): VmRSS now, VmHWM at its highest."""
  status = pathlib.Path(f"/proc/{pid}/status").read_text()
  return 1024 * int(re.search(rf"{field}:\s+(\d+) kB", status)[1])


def _socket_bytes() -> int:
  """Returns what the kernel holds for TCP: both ends, and of other programs."""
  text = pathlib.Path("/proc/net/sockstat").read_text()
  pages = re.search(r"^TCP:.* mem (\d+)", text, re.MULTILINE)[1]
  return int(pages) * os.sysconf("SC_PAGE_SIZE")


def main(_: Sequence[str]) -> int:
  num_bytes = _MEGABYTES.value * 1_000_000
  idle, rounds = measure(_DOWNLOADS.value, num_bytes, _ROUNDS.value)
  print(f"{_DOWNLOADS.value} downloads of {_MEGABYTES.value} MB at once, "
        f"{os.cpu_count()} cores for client and server")
  print(f"memory when idle: {idle / 1e6:.1f} MB")
  print("round  seconds   MB/s  highest memory   sockets  median page  "
        "slowest page")
  for number, result in enumerate(rounds, 1):
    print(f"{number:>5}  {result.seconds:7.2f}  {result.rate / 1e6:5.0f}  "
          f"{result.rss_bytes / 1e6:11.1f} MB  "
          f"{result.socket_bytes / 1e6:5.1f} MB  "
          f"{1000 * statistics.median(result.page_seconds):8.0f} ms  "
          f"{1000 * max(result.page_seconds):9.0f} ms")
  return 0


if __name__ == "__main__":
  program.run(main)
