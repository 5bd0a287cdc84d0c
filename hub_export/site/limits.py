"""Limits that keep the hub answering, whatever clients do.

- So many downloads at once; the next ones wait for a turn, then are told to
  come again.
- A client that does not say what it wants, or does not take what it is sent,
  is cut off.
"""

import asyncio

from starlette import types
from uvicorn.protocols.http import h11_impl

from hub_export.site import responses

REQUEST_SECONDS = 20  # From connecting to the end of a request's headers.
WRITE_SECONDS = 60    # For taking about 200 kB, what lies in buffers at most.
WAIT_SECONDS = 30     # For a turn to download.


class Downloads:
  """Turns to download: so many at once, so many waiting."""

  def __init__(self, at_once: int, wait_seconds: float = WAIT_SECONDS):
    self._turns = asyncio.Semaphore(at_once)
    self._most_waiting = 4 * at_once
    self._waiting = 0
    self._wait_seconds = wait_seconds

  def limited(self, response: types.ASGIApp) -> types.ASGIApp:
    """Returns `response`, to be sent when there is a turn."""
    async def app(scope: types.Scope, receive: types.Receive,
                  send: types.Send) -> None:
      if scope["method"] == "HEAD":  # Costs nothing.
        await response(scope, receive, send)
      elif await self._take():
        try:
          await response(scope, receive, send)
        finally:
          self._turns.release()
      else:
        await responses.Content(
            "too many downloads at once; expected fewer. Try again in a "
            "minute.\n", "text/plain; charset=utf-8", 503,
            {"retry-after": "60"})(scope, receive, send)
    return app

  async def _take(self) -> bool:
    """Returns whether there was a turn in time; it has to be released."""
    if self._turns.locked() and self._waiting >= self._most_waiting:
      return False
    self._waiting += 1
    try:
      await asyncio.wait_for(self._turns.acquire(), self._wait_seconds)
      return True
    except asyncio.TimeoutError:
      return False
    finally:
      self._waiting -= 1


class Protocol(h11_impl.H11Protocol):
  """uvicorn's HTTP/1.1, which cuts off clients that hold a connection idly."""
  request_seconds = REQUEST_SECONDS
  write_seconds = WRITE_SECONDS

  _timer: asyncio.TimerHandle | None = None

  def connection_made(self, transport) -> None:
    super().connection_made(transport)
    self._start_timer(self.request_seconds)

  def connection_lost(self, exc) -> None:
    self._stop_timer()
    super().connection_lost(exc)

  def handle_events(self) -> None:
    super().handle_events()
    if self.cycle is not None and not self.cycle.response_complete:
      self._stop_timer()  # The request is there: it is the hub's turn.

  def on_response_complete(self) -> None:
    # The next request may take as long, even if it comes byte by byte. While
    # the end of this answer is still being taken, the other time runs.
    if not self.flow.write_paused:
      self._start_timer(self.request_seconds)
    super().on_response_complete()

  def pause_writing(self) -> None:
    super().pause_writing()
    self._start_timer(self.write_seconds)

  def resume_writing(self) -> None:
    self._stop_timer()
    super().resume_writing()
    if self.cycle is None or self.cycle.response_complete:
      self._start_timer(self.request_seconds)

  def _start_timer(self, seconds: float) -> None:
    self._stop_timer()
    self._timer = self.loop.call_later(seconds, self.transport.abort)

  def _stop_timer(self) -> None:
    if self._timer is not None:
      self._timer.cancel()
      self._timer = None
