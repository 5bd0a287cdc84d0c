"""What there is of the known data sets on this machine, as text."""

import dataclasses
import pathlib
import shlex
import textwrap
from collections.abc import Sequence

from checks import evaluation_sets
from checks import known_sets
from checks import preparation
from hub_export import errors

READY, ABSENT, DAMAGED = "ready", "not prepared", "damaged"


@dataclasses.dataclass(frozen=True)
class Found:
  """What there is of one known set."""
  known: known_sets.KnownSet
  status: str
  num_bytes: int | None = None        # Of the split, if it is ready.
  path: pathlib.Path | None = None    # Where it is, if it is ready.
  reason: str = ""                    # Why it is not ready.


def table(rows: Sequence[Found]) -> str:
  """Returns a line for each data set."""
  cells = [("data set", "split", "images", "classes", "size", "status")]
  for found in rows:
    known = found.known
    size = (known_sets.size_text(found.num_bytes)
            if found.num_bytes is not None else
            f"{known_sets.size_text(known.archive_bytes)} to get")
    cells.append((known.name, known.split,
                  f"{known.num_examples[known.split]:,}",
                  f"{known.num_classes:,}", size, found.status))
  widths = [max(map(len, column)) for column in zip(*cells)]
  return "\n".join("  ".join(
      cell.rjust(width) if i in (2, 3) else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(line, widths))).rstrip()
                   for line in cells)


def overview(data_dir: pathlib.Path | None) -> str:
  """Returns a table, and what to do about the sets that are not ready.

  Args:
    data_dir: TFDS' directory of data sets; None for TFDS' own default, and for
      the embedded digits one in the cache.
  """
  rows = [_find(known, data_dir) for known in known_sets.KNOWN_SETS]
  parts = [table(rows)]
  damaged = [row for row in rows if row.status == DAMAGED]
  for found in damaged:
    parts.append(f"{found.known.name} is damaged: {found.reason}")
  absent = [row.known for row in rows if row.status == ABSENT]
  for known in absent:
    parts.append("\n".join([
        f"To prepare {known.name}, {known.title}:",
        *_facts(known), *_how(known, data_dir, None)]))
  parts.append(
      f"{len(rows) - len(absent) - len(damaged)} of {len(rows)} are ready in "
      f"{_root(data_dir)}; --data_dir looks elsewhere. Any other TFDS name of "
      f"images with labels will do as well, and {known_sets.FOLDER}PATH.")
  return "\n\n".join(parts)


def details(name: str, data_dir: pathlib.Path | None,
            manual_dir: pathlib.Path | None) -> tuple[str, bool]:
  """Returns all that is known of a data set, and whether it is ready.

  Args:
    name: A known set, another name of TFDS, or "folder:PATH".
    data_dir: As for `overview`.
    manual_dir: Where archives are that a person got; None for TFDS' default.

  Raises:
    UsageError: if there is no such data set.
    HubExportError: if it is not a known one, and not ready.
  """
  known = known_sets.find(name)
  if known is None:
    return _other_details(name, data_dir), True
  found = _find(known, data_dir)
  lines = [f"{known.name}: {known.title}",
           f"  status   {found.status}"]
  if found.path:
    lines.append(f"  path     {found.path}, "
                 f"{known_sets.size_text(found.num_bytes)}")
  sizes = ", ".join(f"{split} {count:,}" for split, count in
                    sorted(known.num_examples.items()))
  lines += [f"  images   {sizes}; models are measured on {known.split}",
            *_facts(known)]
  if found.status == DAMAGED:
    lines += ["", found.reason]
  elif found.status == ABSENT:
    lines += ["", "To prepare it:", *_how(known, data_dir, manual_dir)]
  return "\n".join(lines), found.status == READY


def _other_details(name: str, data_dir: pathlib.Path | None) -> str:
  """Returns what TFDS, or a folder, says of a data set that is ready."""
  lines = []
  for split in evaluation_sets.splits_of(name, data_dir):
    opened = evaluation_sets.open(name, split, data_dir)
    if not lines:
      lines = [f"{opened.name}: {opened.title}",
               f"  status   {READY}",
               f"  path     {opened.path}",
               f"  classes  {len(opened.class_names):,}: "
               f"{', '.join(opened.class_names[:3])}, ..."]
    lines.append(f"  split    {split}, {opened.num_examples:,} images, "
                 f"{known_sets.size_text(opened.num_bytes())}")
  if not lines:
    raise errors.HubExportError(
        f"{name} has no splits; expected images in PATH/<split>/<class>")
  return "\n".join(lines)


def _find(known: known_sets.KnownSet, data_dir: pathlib.Path | None) -> Found:
  try:
    opened = evaluation_sets.open(known.name, known.split, data_dir)
    return Found(known, READY, opened.num_bytes(), opened.path)
  except errors.UnavailableError as e:
    return Found(known, ABSENT, reason=str(e))
  except errors.HubExportError as e:
    return Found(known, DAMAGED, reason=str(e))


def _facts(known: known_sets.KnownSet) -> list[str]:
  facts = [("classes", known.classes), ("licence", known.licence)]
  if known.notes:
    facts.append(("note", known.notes))
  lines = []
  for label, text in facts:
    lines += textwrap.wrap(
        text, 80, initial_indent=f"  {label:<8} ", subsequent_indent=" " * 11,
        break_long_words=False, break_on_hyphens=False)
  return lines


def _how(known: known_sets.KnownSet, data_dir: pathlib.Path | None,
         manual_dir: pathlib.Path | None) -> list[str]:
  """Returns how to prepare a data set, and what is there of its archives."""
  root = _root(data_dir)
  command = evaluation_sets.prepare_command(known.name, root)
  if manual_dir:
    command += f" --manual_dir={shlex.quote(str(manual_dir))}"
  manual_dir = manual_dir or root / "downloads" / "manual"
  lines = known_sets.instructions(known, manual_dir, command)
  for archive in known.archives:
    state = preparation.archive_state(archive, manual_dir)
    if state != "not there":
      lines.append(f"{archive.file_name} is there" if state == "there"
                   else f"{archive.file_name} {state}")
  return [f"  {line}" for line in lines]


def _root(data_dir: pathlib.Path | None) -> pathlib.Path:
  """Returns TFDS' directory of data sets."""
  builder = evaluation_sets.tfds_builder(
      known_sets.KNOWN_SETS[0].name, data_dir)
  return pathlib.Path(builder.data_dir_root)
