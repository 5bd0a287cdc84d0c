"""An HTTP server on the loopback address that misbehaves as a test wants."""

import contextlib
import dataclasses
import http.server
import re
import threading
from collections.abc import Iterator


@dataclasses.dataclass
class File:
  """What one path answers with."""
  body: bytes
  etag: str | None = '"v1"'
  last_modified: str | None = None
  status: int = 200          # If not 200, body and headers only.
  headers: dict[str, str] = dataclasses.field(default_factory=dict)
  cut_at: int | None = None  # The connection dies before this byte of `body`.
  length: int | None = None  # Announced instead of the true length.
  ranges: bool = True        # Whether Range is understood.
  failures: int = 0          # So many requests get 503 first.
  chunked: bool = False


class Server(http.server.ThreadingHTTPServer):
  """`files` by path; `requests` collects (path, headers)."""
  daemon_threads = True

  def __init__(self):
    super().__init__(("127.0.0.1", 0), _Handler)
    self.files: dict[str, File] = {}
    self.requests: list[tuple[str, dict[str, str]]] = []

  def url(self, path: str) -> str:
    return f"http://127.0.0.1:{self.server_port}{path}"

  @property
  def ranges(self) -> list[str | None]:
    """The Range header of every request so far."""
    return [headers.get("Range") for _, headers in self.requests]


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"

  def do_GET(self):
    self.close_connection = True
    self.server.requests.append((self.path, dict(self.headers)))
    file = self.server.files.get(self.path.partition("?")[0])
    if file is None:
      file = File(b"nothing here", status=404)
    if file.failures:
      file.failures -= 1
      self._send(503, {"Content-Length": "0", **file.headers}, b"")
      return
    headers = dict(file.headers)
    if file.etag:
      headers["ETag"] = file.etag
    if file.last_modified:
      headers["Last-Modified"] = file.last_modified
    status, start = file.status, 0
    asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
    condition = self.headers.get("If-Range")
    if (status == 200 and asked and file.ranges
        and condition in (None, file.etag, file.last_modified)):
      start = int(asked[1])
      if start >= len(file.body):
        self._send(416, {"Content-Length": "0",
                         "Content-Range": f"bytes */{len(file.body)}"}, b"")
        return
      status = 206
      headers["Content-Range"] = (
          f"bytes {start}-{len(file.body) - 1}/{len(file.body)}")
    body = file.body[start:file.cut_at]
    if file.chunked:
      headers["Transfer-Encoding"] = "chunked"
      body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    else:
      headers.setdefault(
          "Content-Length", str(file.length or len(file.body) - start))
    self._send(status, headers, body)

  def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
    self.send_response(status)
    for name, value in headers.items():
      if value:  # An empty one leaves a header out.
        self.send_header(name, value)
    self.send_header("Connection", "close")
    self.end_headers()
    with contextlib.suppress(ConnectionError):
      self.wfile.write(body)

  def log_message(self, *_):
    pass


@contextlib.contextmanager
def running() -> Iterator[Server]:
  """Runs a server for the length of the block."""
  with Server() as server:
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01},
        daemon=True)
    thread.start()
    try:
      yield server
    finally:
      server.shutdown()
      thread.join()
