"""One line of JSON for each request, when it has been answered."""

import datetime
import json
import logging
import pathlib
import sys
import time
from collections.abc import Callable
from logging import handlers

from starlette import datastructures
from starlette import types

from hub_export import errors

_ACCESS = "hub_export.access"
_MOST_CHARACTERS = 300  # Of what clients say of themselves, and of paths.


class AccessLog:
  """ASGI middleware that tells `write` of each request.

  The fields: time (UTC, of the answer's end), client, method, path, query,
  status, bytes (of the body, sent), seconds, complete (false: the client left
  or was cut off), and if given range, user_agent.
  """

  def __init__(self, app: types.ASGIApp, write: Callable[[str], None]):
    self._app = app
    self._write = write

  async def __call__(self, scope: types.Scope, receive: types.Receive,
                     send: types.Send) -> None:
    if scope["type"] != "http":
      await self._app(scope, receive, send)
      return
    started = time.monotonic()
    seen = {"status": 500, "bytes": 0, "complete": False}

    async def watched(message: types.Message) -> None:
      await send(message)
      if message["type"] == "http.response.start":
        seen["status"] = message["status"]
      else:
        seen["bytes"] += len(message.get("body", b""))
        seen["complete"] = not message.get("more_body", False)

    try:
      await self._app(scope, receive, watched)
    finally:
      self._write(_line(scope, seen, time.monotonic() - started))


class _Formatter(logging.Formatter):
  """Leaves the access log's lines alone; others become JSON as well."""

  def format(self, record: logging.LogRecord) -> str:
    if record.name == _ACCESS:
      return record.getMessage()
    fields = {"time": _now(), "level": record.levelname.lower(),
              "message": record.getMessage().strip()}
    if record.exc_info:
      fields["traceback"] = self.formatException(record.exc_info)
    return json.dumps(fields)


def open_log(path: pathlib.Path | None) -> Callable[[str], None]:
  """Returns what writes lines to a file, or to standard error if None.

  The file is opened again when it was moved or removed, as logrotate does. The
  server's own complaints go there as well.

  Raises:
    HubExportError: if the file cannot be written.
  """
  if path is None:
    handler = logging.StreamHandler(sys.stderr)
  else:
    try:
      handler = handlers.WatchedFileHandler(path, encoding="utf-8")
    except OSError as e:
      raise errors.HubExportError(
          f"{path} cannot be written ({e.strerror}); expected a file for the "
          "access log. Make it writable or choose another --access_log."
      ) from e
  handler.setFormatter(_Formatter())
  handler.handleError = lambda record: None  # A full disk stops no hub.
  for name, level in ((_ACCESS, logging.INFO),
                      ("uvicorn.error", logging.WARNING),
                      ("hub_export.site", logging.WARNING)):
    logger = logging.getLogger(name)
    logger.propagate = False
    logger.setLevel(level)
    logger.addHandler(handler)
  return lambda line: logging.getLogger(_ACCESS).info("%s", line)


def _line(scope: types.Scope, seen: dict, seconds: float) -> str:
  headers = datastructures.Headers(scope=scope)
  client = scope.get("client")
  fields = {
      # A proxy may have said who it is, in any words.
      "time": _now(), "client": client[0][:_MOST_CHARACTERS] if client else
              None,
      "method": scope["method"], "path": scope["path"][:_MOST_CHARACTERS],
      "query": scope["query_string"].decode("latin-1")[:_MOST_CHARACTERS],
      **seen, "seconds": round(seconds, 4)}
  for name in ("range", "user-agent"):
    if name in headers:
      fields[name.replace("-", "_")] = headers[name][:_MOST_CHARACTERS]
  return json.dumps(fields)


def _now() -> str:
  return datetime.datetime.now(datetime.timezone.utc).isoformat(
      timespec="milliseconds").replace("+00:00", "Z")
