"""Limits that keep the hub answering, whatever clients do.

- So many downloads at once, and so many of them for one client; the next ones
  wait for a turn, then are told to come again.
- A client that does not say what it wants, or does not take what it is sent,
  is cut off.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from uvicorn.protocols.http import h11_impl

REQUEST_SECONDS = 20  # From connecting to the end of a request's headers.
WRITE_SECONDS = 60    # For taking about 200 kB, what lies in buffers at most.
WAIT_SECONDS = 30     # For a turn to download.


class Downloads:
  """Turns to download: so many at once in all, and for each client."""

  def __init__(self, at_once: int, per_client: int | None = None,
               wait_seconds: float = WAIT_SECONDS):
    """Initializes.

    Args:
      at_once: Downloads of all clients.
      per_client: Of one client; an eighth of all, but two, if not given.
      wait_seconds: How long to wait for a turn.
    """
    self._all = _Turns(at_once, wait_seconds)
    self._per_client = per_client or max(2, at_once // 8)
    self._wait_seconds = wait_seconds
    self._clients: dict[str, _Turns] = {}  # Those that are here just now.

  @contextlib.asynccontextmanager
  async def turn(self, client: str) -> AsyncIterator[bool]:
    """Yields whether there was a turn in time, and holds it meanwhile."""
    turns = self._clients.setdefault(
        client, _Turns(self._per_client, self._wait_seconds))
    try:
      # First the client's own: it may only wait with so many for the others.
      async with turns.one() as may_ask:
        if not may_ask:
          yield False
          return
        async with self._all.one() as may_download:
          yield may_download
    finally:
      if not turns.num_here:
        self._clients.pop(client, None)


class _Turns:
  """So many at once, four times as many waiting."""

  def __init__(self, at_once: int, wait_seconds: float):
    self.num_here = 0
    self._most_here = 5 * at_once
    self._turns = asyncio.Semaphore(at_once)
    self._wait_seconds = wait_seconds

  @contextlib.asynccontextmanager
  async def one(self) -> AsyncIterator[bool]:
    """Yields whether there was a turn in time, and holds it meanwhile."""
    if self.num_here >= self._most_here:
      yield False
      return
    self.num_here += 1
    try:
      try:
        await asyncio.wait_for(self._turns.acquire(), self._wait_seconds)
      except asyncio.TimeoutError:
        yield False
        return
      try:
        yield True
      finally:
        self._turns.release()
    finally:
      self.num_here -= 1


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
