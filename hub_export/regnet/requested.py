"""What flags ask to be exported, before anything is read or fetched.

Nothing here imports TensorFlow, so that wrong usage is told at once.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

from hub_export import errors
from hub_export.regnet import catalog
from hub_export.regnet import variants
from hub_export.regnet import wishes as wishes_lib

DEMO = "demo"
_SOURCES = tuple(f"{name}:" for name in catalog.SOURCES)


@dataclasses.dataclass(frozen=True)
class Item:
  """One checkpoint to be exported."""
  variant: variants.Variant | None  # None for what the file turns out to be.
  checkpoint: str | None            # None for the catalog's default.

  @property
  def title(self) -> str:
    """What the user knows it by."""
    if self.checkpoint in (None, DEMO):
      return self.variant.name + (" demo" if self.checkpoint else "")
    return self.checkpoint


def items(variant: str | None, checkpoint: str | None) -> list[Item]:
  """Returns what is to be exported, in the order of registry and catalog.

  Args:
    variant: A name, alias, list or pattern of variants; None for all that
      `checkpoint` may be.
    checkpoint: A path, URL, name or pattern of the catalog, or "demo"; None
      for the catalog's default.

  Raises:
    UsageError: if there is no such variant or checkpoint, or it is another
      variant, or too little is said.
  """
  wanted = variants.matching(variant) if variant is not None else None
  if checkpoint is None or checkpoint == DEMO:
    if wanted is None:
      raise errors.UsageError(
          "nothing says what to export; expected --variant, such as "
          "--variant=600mf, or --checkpoint with a file or a name of the "
          "catalog")
    return [Item(v, checkpoint) for v in wanted]
  if not checkpoint:
    raise errors.UsageError(
        "--checkpoint is empty; expected a path, a URL, a name of the catalog "
        "or demo")
  # A pattern may be one over all sources; no file is called like that.
  if checkpoint.lower().startswith(_SOURCES) or (
      any(c in checkpoint for c in "*?") and catalog.matching(checkpoint)):
    if any(c in checkpoint for c in "*?["):
      entries = [e for e in catalog.matching(checkpoint)
                 if wanted is None or e.variant in {v.name for v in wanted}]
      if not entries:
        raise errors.UsageError(
            f"the catalog has no checkpoint like {checkpoint!r}"
            + ("" if wanted is None else " of these variants")
            + ". The program //hub_export:catalog lists all")
    else:
      entries = [catalog.by_name(checkpoint)]
      check_variant(entries[0], wanted)
    return [Item(variants.by_name(e.variant), e.name) for e in entries]
  if wanted is not None and len(wanted) > 1:
    raise errors.UsageError(
        f"{checkpoint} can be one variant only, not {len(wanted)}; expected "
        "--variant with one name, or without the flag what the file says")
  return [Item(wanted[0] if wanted else None, checkpoint)]


def check_variant(entry: catalog.Entry,
                  wanted: Sequence[variants.Variant] | None) -> None:
  """Raises UsageError if an entry is of none of the variants asked for."""
  if wanted is not None and entry.variant not in {v.name for v in wanted}:
    raise errors.UsageError(
        f"{entry.name} is a {entry.variant}; expected a "
        f"{', '.join(v.name for v in wanted)}. Use --variant={entry.variant}, "
        "or leave the flag out")


def check(item: Item, wishes: wishes_lib.Wishes) -> None:
  """Raises UsageError if a wish is not for this kind of checkpoint."""
  unknown = {name.strip().lower() for name in wishes.accepted_licences
             } - set(catalog.RESTRICTED)
  if unknown:
    raise errors.UsageError(
        f"--accept_license={sorted(unknown)[0]} is no restricted licence of "
        f"the catalog; expected {' or '.join(catalog.RESTRICTED)}")
  if item.checkpoint is None:
    wishes.check_published("the default checkpoint")
  elif item.checkpoint == DEMO:
    wishes.check_demo()
  elif item.checkpoint.startswith(_SOURCES):
    wishes.check_published(item.checkpoint)


def check_licence(entry: catalog.Entry, wishes: wishes_lib.Wishes) -> None:
  """Raises UsageError if a licence forbids uses and was not accepted."""
  if entry.needs_acceptance and entry.licence_name not in (
      name.strip().lower() for name in wishes.accepted_licences):
    raise errors.UsageError(
        f"{entry.name} is under {entry.licence_name.upper()}: "
        f"{catalog.RESTRICTED[entry.licence_name]}. What you export from it is "
        "so, too. Read the licence; if you accept it, add --accept_license="
        f"{entry.licence_name}")


def fetch(item: Item, cache: pathlib.Path, wishes: wishes_lib.Wishes) -> None:
  """Brings what was asked for by name or URL into the cache.

  Raises:
    UsageError: if its licence was not accepted, or it is no URL of a file.
    UnavailableError: if it cannot be had.
    WriteError: if the cache cannot be written.
  """
  if item.checkpoint is None or item.checkpoint == DEMO:
    return
  if item.checkpoint.startswith(_SOURCES):
    entry = catalog.by_name(item.checkpoint)
    check_licence(entry, wishes)
    catalog.fetch(entry, cache, wishes.offline)
  elif "://" in item.checkpoint:
    from hub_export import download  # pylint: disable=g-import-not-at-top
    download.fetch_url(item.checkpoint, cache, wishes.offline)
