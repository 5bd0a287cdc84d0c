"""What every place to publish to can do."""

import enum
from typing import Protocol

from hub_export import export_dirs
from hub_export import releases


class Outcome(enum.Enum):
  """What `Destination.put` did."""
  PUBLISHED = "published"
  RENEWED = "published already; archive, card, report or pictures were renewed"
  UNCHANGED = "published already; nothing to do"


class Destination(Protocol):
  """A place to publish to; one small file of this package each.

  A published version never changes: users' caches keep a model for ever. Its
  card, what the card links to and its report may be renewed, and its archive,
  which is always the same, made again.
  """

  def exists(self, handle: export_dirs.Handle) -> bool:
    """Returns whether users can load `handle` from here."""

  def put(self, release: releases.Release) -> Outcome:
    """Publishes module, archive, card with what it links to, and report.

    Whole or not at all.

    Whatever ends it, users see either all of the release or nothing of it, and
    the next call completes it. Calls at the same time are safe.

    Raises:
      WriteError: if it cannot be written.
      HubExportError: if the version is published with other bytes.
    """

  def verify(self, release: releases.Release) -> None:
    """Reads everything back and compares it with `release`.

    Raises:
      HubExportError: if something is missing or differs.
    """

  def describe(self, handle: export_dirs.Handle) -> list[tuple[str, str]]:
    """Returns (what, where) of each published part, for people to read."""

  def next_steps(self, handle: export_dirs.Handle) -> list[str]:
    """Returns how `handle` is loaded from here, one line each."""
