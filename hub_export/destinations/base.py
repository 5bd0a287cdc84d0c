"""What every place to publish to can do."""

import dataclasses
import enum
from typing import Protocol

from hub_export import export_dirs
from hub_export import forms
from hub_export import releases


class Outcome(enum.Enum):
  """What `Destination.put` did."""
  PUBLISHED = "published"
  RENEWED = "published already; archive, card, report or pictures were renewed"
  UNCHANGED = "published already; nothing to do"


@dataclasses.dataclass(frozen=True)
class Plan:
  """What `Destination.put` would do now."""
  outcome: Outcome
  writes: tuple[tuple[str, int], ...] = ()  # Where, and how many bytes.
  removes: tuple[str, ...] = ()             # Where.
  # What else it or `write_pages` would make or renew, where it differs.
  others: tuple[str, ...] = ()


class Destination(Protocol):
  """A place to publish to; one small file of this package each.

  A published version never changes: users' caches keep a model for ever. Its
  card, what the card links to and its report may be renewed, and its archive,
  which is always the same, made again.
  """

  is_remote: bool  # Whether strangers may load from it.

  def exists(self, handle: export_dirs.Handle) -> bool:
    """Returns whether users can load `handle` from here."""

  def plan(self, release: releases.Release) -> Plan:
    """Returns what `put` would do; changes nothing.

    Raises:
      HubExportError: as `put`, as far as that can be told beforehand.
    """

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

  def write_pages(self, release: releases.Release) -> list[tuple[str, str]]:
    """Renews the pages that tell of all that is published, where there are any.

    Returns:
      (what, where) of each, for people to read.

    Raises:
      HubExportError: if a page cannot be made or written.
    """

  def describe(self, handle: export_dirs.Handle) -> list[tuple[str, str]]:
    """Returns (what, where) of each published part, for people to read."""

  def next_steps(self, handle: export_dirs.Handle, form: forms.Form
                 ) -> list[str]:
    """Returns how `handle`, in some form, is loaded from here, by lines."""


def archive_taken(where: str, sha256: str, release: releases.Release) -> str:
  """Returns the message that an archive is published with other bytes.

  Args:
    where: The published archive.
    sha256: Of the archive made now.
    release: What was to be published.
  """
  return (
      f"the archive of {release.handle} is published already with other bytes "
      f"than sha256 {sha256}, what packing {release.export_dir} gives here: "
      f"{where}; expected the same, because its hash stands on the card. "
      "Publish with the Python that packed it, whose zlib may pack otherwise, "
      "or export a new version; if it is damaged, delete it and publish again.")


def taken(where: str, found_sha256: str, release: releases.Release) -> str:
  """Returns the message that a version is published with other bytes.

  Args:
    where: The published module.
    found_sha256: Its digest, as `export_dirs.digest` makes it.
    release: What was to be published.
  """
  return (
      f"{release.handle} is published already with other bytes: {where} has "
      f"sha256 {found_sha256}, {release.export_dir} has "
      f"{release.export_sha256}; expected the same, because users keep what "
      "they once loaded. Export a new version and publish that.")
