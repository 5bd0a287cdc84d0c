"""Answers that cost little: not changed, compressed, a part, block by block.

Files are opened once and read from that descriptor: what is renewed while it
is sent arrives as it was, whole.
"""

import asyncio
import concurrent.futures
import contextlib
import email.utils
import gzip
import hashlib
import os
import pathlib
from collections.abc import Mapping

from starlette import types

from hub_export.site import limits
from hub_export.site import ranges

# Of a file, read and sent at once: what one download takes of memory.
_BLOCK_BYTES = 128 << 10
_LEAST_COMPRESSED_BYTES = 1000
# What is larger waits for a turn. Cards and pictures never do, nor what only
# asks whether something has changed.
_LEAST_DOWNLOAD_BYTES = 1 << 20
_COMMON_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
# Disks may be slow, and nobody else should wait for them.
_READERS = concurrent.futures.ThreadPoolExecutor(
    max_workers=8, thread_name_prefix="read")


class Content:
  """An answer that is made in memory: a page, JSON, a message."""

  def __init__(self, body: bytes | str, media_type: str, status: int = 200,
               headers: Mapping[str, str] | None = None):
    self._body = body.encode() if isinstance(body, str) else body
    self._media_type = media_type
    self._status = status
    self._headers = dict(headers or {})

  async def __call__(self, scope: types.Scope, receive: types.Receive,
                     send: types.Send) -> None:
    asked = ranges.headers(scope["headers"])
    body, status = self._body, self._status
    headers = {**_COMMON_HEADERS, "content-type": self._media_type,
               "cache-control": "no-cache", **self._headers}
    tag = hashlib.sha256(body).hexdigest()[:24]
    if len(body) >= _LEAST_COMPRESSED_BYTES:
      headers["vary"] = "accept-encoding"
      if ranges.takes_gzip(asked):
        # In another thread: pages of many models take milliseconds.
        body = await asyncio.to_thread(gzip.compress, body, 6, mtime=0)
        headers["content-encoding"] = "gzip"
        tag += "-gzip"
    if status == 200:
      headers["etag"] = f'"{tag}"'
      if not ranges.is_wanted(asked, headers["etag"]):
        status, body = 412, b""
        headers["cache-control"] = "no-store"
        headers.pop("content-encoding", None)
      elif ranges.is_unchanged(asked, headers["etag"]):
        status, body = 304, b""
        del headers["content-type"]
        headers.pop("content-encoding", None)
    if status != 304:
      headers["content-length"] = str(len(body))
    await _start(send, status, headers)
    await send({"type": "http.response.body",
                "body": b"" if scope["method"] == "HEAD" else body})


class File:
  """An answer that is a file on disk, or a part of one."""

  def __init__(self, path: pathlib.Path, media_type: str,
               downloads: limits.Downloads,
               headers: Mapping[str, str] | None = None):
    self._path = path
    self._downloads = downloads
    self._media_type = media_type
    self._headers = dict(headers or {})

  async def __call__(self, scope: types.Scope, receive: types.Receive,
                     send: types.Send) -> None:
    try:
      fd = await _in_reader(os.open, self._path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # Taken away between looking and opening.
      await _later(f"{self._path.name} cannot be read just now; expected a "
                   "published file. Try again.\n", 5)(scope, receive, send)
      return
    try:
      await self._answer(fd, scope, receive, send)
    finally:
      os.close(fd)

  async def _answer(self, fd: int, scope: types.Scope, receive: types.Receive,
                    send: types.Send) -> None:
    is_head = scope["method"] == "HEAD"
    stat = os.fstat(fd)
    etag = f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'
    headers = {
        **_COMMON_HEADERS, "content-type": self._media_type,
        "cache-control": "no-cache", "accept-ranges": "bytes", "etag": etag,
        "last-modified": email.utils.formatdate(stat.st_mtime, usegmt=True),
        **self._headers}
    asked = ranges.headers(scope["headers"])
    if is_head:  # A range means nothing there (section 14.2).
      asked.pop("range", None)
    status, start, end = _status(asked, stat, etag)
    if status == 206:
      headers["content-range"] = f"bytes {start}-{end - 1}/{stat.st_size}"
    if status == 416:
      headers["content-range"] = f"bytes */{stat.st_size}"
    if status in (412, 416):
      headers["cache-control"] = "no-store"
    if status == 304:
      del headers["content-type"]
    else:
      headers["content-length"] = str(end - start)
    if is_head:
      end = start
    async with self._turn(scope, end - start) as may_send:
      if not may_send:
        await _later("too many downloads at once; expected fewer. Try again "
                     "in a minute.\n", 60)(scope, receive, send)
        return
      await _start(send, status, headers)
      await _send_part(fd, start, end, receive, send)

  def _turn(self, scope: types.Scope, num_bytes: int
            ) -> contextlib.AbstractAsyncContextManager[bool]:
    if num_bytes < _LEAST_DOWNLOAD_BYTES:
      return contextlib.nullcontext(True)
    return self._downloads.turn((scope.get("client") or ("",))[0])


def _later(text: str, seconds: int) -> Content:
  return Content(text, "text/plain; charset=utf-8", 503,
                 {"retry-after": str(seconds)})


def _status(asked: Mapping[str, str], stat: os.stat_result, etag: str
            ) -> tuple[int, int, int]:
  """Returns the status, and start and end of what is sent."""
  if not ranges.is_wanted(asked, etag, stat.st_mtime):
    return 412, 0, 0
  if ranges.is_unchanged(asked, etag, stat.st_mtime):
    return 304, 0, 0
  try:
    part = ranges.wanted_part(asked, stat.st_size, etag, stat.st_mtime)
  except ranges.Unsatisfiable:
    return 416, 0, 0
  if part is None:
    return 200, 0, stat.st_size
  return 206, *part


async def _send_part(fd: int, start: int, end: int, receive: types.Receive,
                     send: types.Send) -> None:
  """Sends bytes `start` to `end` of a file, for as long as somebody listens.

  Raises:
    OSError: if the file ends before `end`; the server then cuts the
      connection, which tells the client.
  """
  gone = asyncio.create_task(_wait_for_disconnect(receive))
  try:
    while start < end and not gone.done():
      block = await _in_reader(
          os.pread, fd, min(_BLOCK_BYTES, end - start), start)
      if not block:
        raise OSError(f"a file was cut short while it was sent, at {start}")
      start += len(block)
      await send({"type": "http.response.body", "body": block,
                  "more_body": True})
    if not gone.done():
      await send({"type": "http.response.body", "body": b""})
  finally:
    gone.cancel()
    with contextlib.suppress(asyncio.CancelledError):
      await gone


async def _wait_for_disconnect(receive: types.Receive) -> None:
  while (await receive())["type"] != "http.disconnect":
    pass


async def _start(send: types.Send, status: int, headers: Mapping[str, str]
                 ) -> None:
  await send({"type": "http.response.start", "status": status,
              "headers": [(name.encode(), value.encode("latin-1"))
                          for name, value in headers.items()]})


async def _in_reader(function, *arguments):
  """Awaits a call that may have to wait for a disk."""
  return await asyncio.get_running_loop().run_in_executor(
      _READERS, function, *arguments)
