"""Servers on 127.0.0.1 for tests of publishing, which can be made to fail.

A server is a WSGI application on a free port. Before each request its `fault`
is asked, which may answer in the application's place: with a status, late, with
other bytes, not at all, or by killing a process.
"""

import collections
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable

from werkzeug import serving
from werkzeug import wrappers

# Takes environ and start_response; the application itself, or a fault.
Application = Callable[..., Iterable[bytes]]
# Takes the application; returns what answers instead.
Fault = Callable[[Application], Application]


class Server:
  """A running server; a context manager that stops it."""

  def __init__(self, application: Application):
    self._application = application
    self._lock = threading.Lock()
    # Asked with method, path and how many requests came before.
    self.fault: Callable[[str, str, int], Fault | None] = lambda *_: None
    self.requests: list[tuple[str, str]] = []
    self.authorizations: set[str] = set()
    self._server = serving.make_server(
        "127.0.0.1", 0, self._answer, threaded=True,
        request_handler=_QuietHandler)
    self._thread = threading.Thread(target=self._server.serve_forever,
                                    kwargs={"poll_interval": 0.05})

  @property
  def url(self) -> str:
    return f"http://127.0.0.1:{self._server.port}"

  @property
  def port(self) -> int:
    return self._server.port

  def count(self) -> collections.Counter[str]:
    """Returns the number of requests by method."""
    return collections.Counter(method for method, _ in self.requests)

  def __enter__(self) -> "Server":
    self._thread.start()
    return self

  def __exit__(self, *_: object) -> None:
    self._server.shutdown()
    self._thread.join()
    self._server.server_close()

  def _answer(self, environ, start_response) -> Iterable[bytes]:
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    with self._lock:
      number = len(self.requests)
      self.requests.append((method, path))
      self.authorizations.add(environ.get("HTTP_AUTHORIZATION", ""))
    fault = self.fault(method, path, number)
    application = fault(self._application) if fault else self._application
    return application(environ, start_response)


def status(code: int, text: str = "Something is wrong.",
           content_type: str = "text/plain") -> Fault:
  """Answers with an error."""
  def fault(_: Application) -> Application:
    def answer(environ, start_response):
      environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
      return wrappers.Response(text, code, content_type=content_type)(
          environ, start_response)
    return answer
  return fault


def slow(seconds: float) -> Fault:
  """Answers late."""
  def fault(application: Application) -> Application:
    def answer(environ, start_response):
      time.sleep(seconds)
      return application(environ, start_response)
    return answer
  return fault


def cut(application: Application) -> Application:
  """Hangs up without an answer and does nothing."""
  del application
  def answer(environ, start_response):
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    start_response("200 OK", [])
    return []
  return answer


def cut_after(application: Application) -> Application:
  """Does what is asked, then hangs up without an answer."""
  def answer(environ, start_response):
    b"".join(application(environ, lambda *_: None))
    return cut(application)(environ, start_response)
  return answer


def wrong_bytes(application: Application) -> Application:
  """Answers with one bit of the body turned."""
  def answer(environ, start_response):
    response = wrappers.Response.from_app(application, environ)
    body = response.get_data()
    if body:
      response.set_data(bytes([body[0] ^ 1]) + body[1:])
    # A server that stores wrong bytes gives the hash of those, or none.
    for header in ("x-goog-hash", "x-amz-checksum-crc32"):
      response.headers.pop(header, None)
    return response(environ, start_response)
  return answer


def kill(pid: Callable[[], int], after: bool) -> Fault:
  """Kills the process that asked, before or after doing what it asks."""
  def fault(application: Application) -> Application:
    def answer(environ, start_response):
      if after:
        b"".join(application(environ, lambda *_: None))
      os.kill(pid(), signal.SIGKILL)
      return cut(application)(environ, start_response)
    return answer
  return fault


class _QuietHandler(serving.WSGIRequestHandler):
  """Tells nothing of requests, nor of those that were cut."""

  def log(self, *_: object) -> None:
    pass

  log_request = log
