r"""Lists the data sets to evaluate on: which are ready, how to prepare others.

  bazel run //checks:datasets
  bazel run //checks:datasets -- --dataset=imagenet_v2/topimages
  bazel run //checks:datasets -- --dataset=folder:/data/pets
  bazel run //checks:datasets -- --dataset=imagenet_a --prepare

The name in the first column is what //checks:check takes as --dataset. It
takes any other TFDS name of images with labels as well, and folder:PATH for
images in PATH/<split>/<class>/*.jpg, where classes are called by WordNet ids,
by the model's class names or by its numbers.

Exit status: 0 done, 1 the data set of --dataset is not ready, 2 wrong usage.
"""

import dataclasses
import logging as python_logging
import os
import pathlib
import shlex
import sys
import textwrap
from collections.abc import Sequence

from absl import flags

from checks import known_sets
from hub_export import errors
from hub_export import program

_DATASET = flags.DEFINE_string(
    "dataset", None,
    "Show only this one, in detail: a name of the table, another name of TFDS, "
    "or folder:PATH.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None,
    "TFDS' directory of prepared data sets; by default TFDS' own, and for the "
    "embedded digits one in the cache.")
_PREPARE = flags.DEFINE_bool(
    "prepare", False,
    "Prepare the data set of --dataset; downloads what its publisher lets "
    "programs download.")
_MANUAL_DIR = flags.DEFINE_string(
    "manual_dir", None,
    "Directory of the archives that you got yourself; by default "
    "downloads/manual in TFDS' directory.")

_READY, _ABSENT, _DAMAGED = "ready", "not prepared", "damaged"


@dataclasses.dataclass(frozen=True)
class Found:
  """What there is of one known set."""
  known: known_sets.KnownSet
  status: str
  num_bytes: int | None = None        # Of the split, if it is ready.
  path: pathlib.Path | None = None    # Where it is, if it is ready.
  reason: str = ""                    # Why it is not ready.


def main(_: Sequence[str]) -> int:
  if _DATASET.value is None and (_PREPARE.value or _MANUAL_DIR.value):
    raise errors.UsageError(
        "--prepare and --manual_dir are for one data set; expected its name as "
        "--dataset")
  # TensorFlow takes seconds to import; usage errors have come before.
  with program.quiet_start():
    from checks import evaluation_sets  # pylint: disable=g-import-not-at-top
    from checks import preparation  # pylint: disable=g-import-not-at-top

  # TFDS 4.9.10 uses what TensorFlow 2.21 calls deprecated.
  python_logging.getLogger("tensorflow").setLevel(python_logging.ERROR)
  data_dir = program.user_path(_DATA_DIR.value) if _DATA_DIR.value else None
  lister = _Lister(evaluation_sets, preparation, data_dir)
  if _DATASET.value is None:
    _print(lister.overview())
    return 0
  manual_dir = (program.user_path(_MANUAL_DIR.value) if _MANUAL_DIR.value
                else None)
  if _PREPARE.value:
    path = preparation.prepare(_DATASET.value, data_dir, manual_dir)
    print(f"prepared in {path}\n")
  text, is_ready = lister.details(_DATASET.value, manual_dir)
  _print(text)
  return 0 if is_ready else 1


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


class _Lister:
  """Says what is ready; has the modules that need TensorFlow."""

  def __init__(self, evaluation_sets, preparation,
               data_dir: pathlib.Path | None):
    self._sets = evaluation_sets
    self._preparation = preparation
    self._data_dir = data_dir

  def overview(self) -> str:
    """Returns the table, and what to do about those that are not ready."""
    rows = [self._find(known) for known in known_sets.KNOWN_SETS]
    parts = [table(rows)]
    damaged = [r for r in rows if r.status == _DAMAGED]
    for found in damaged:
      parts.append(f"{found.known.name} is damaged: {found.reason}")
    absent = [r.known for r in rows if r.status == _ABSENT]
    for known in absent:
      parts.append("\n".join([
          f"To prepare {known.name}, {known.title}:",
          *self._facts(known), *self._how(known, None)]))
    parts.append(
        f"{len(rows) - len(absent) - len(damaged)} of {len(rows)} are ready in "
        f"{self._root()}; --data_dir looks elsewhere. Any other TFDS name of "
        "images with labels will do as well, and folder:PATH.")
    return "\n\n".join(parts)

  def details(self, name: str, manual_dir: pathlib.Path | None
              ) -> tuple[str, bool]:
    """Returns all that is known of a data set, and whether it is ready."""
    known = known_sets.find(name)
    if known is None:
      return self._unknown_details(name), True
    found = self._find(known)
    lines = [f"{known.name}: {known.title}",
             f"  status   {found.status}"]
    if found.path:
      lines.append(f"  path     {found.path}, "
                   f"{known_sets.size_text(found.num_bytes)}")
    sizes = ", ".join(f"{split} {count:,}" for split, count in
                      sorted(known.num_examples.items()))
    lines += [f"  images   {sizes}; models are measured on {known.split}",
              *self._facts(known)]
    if found.status == _DAMAGED:
      lines += ["", found.reason]
    elif found.status == _ABSENT:
      lines += ["", "To prepare it:", *self._how(known, manual_dir)]
    return "\n".join(lines), found.status == _READY

  def _unknown_details(self, name: str) -> str:
    """Returns what TFDS, or a folder, says of a data set that is ready.

    Raises:
      HubExportError: if it is not.
    """
    lines = []
    for split in self._sets.splits_of(name, self._data_dir):
      opened = self._sets.open(name, split, self._data_dir)
      if not lines:
        lines = [f"{opened.name}: {opened.title}", f"  status   {_READY}",
                 f"  path     {opened.path}",
                 f"  classes  {len(opened.class_names):,}: "
                 f"{', '.join(opened.class_names[:3])}, ..."]
      lines.append(f"  split    {split}, {opened.num_examples:,} images, "
                   f"{known_sets.size_text(opened.num_bytes())}")
    if not lines:
      raise errors.HubExportError(
          f"{name} has no splits; expected images in PATH/<split>/<class>")
    return "\n".join(lines)

  def _find(self, known: known_sets.KnownSet) -> Found:
    try:
      opened = self._sets.open(known.name, known.split, self._data_dir)
      return Found(known, _READY, opened.num_bytes(), opened.path)
    except errors.UnavailableError as e:
      return Found(known, _ABSENT, reason=str(e))
    except errors.HubExportError as e:
      return Found(known, _DAMAGED, reason=str(e))

  def _facts(self, known: known_sets.KnownSet) -> list[str]:
    facts = [("classes", f"{known.num_classes:,}: {known.classes}"),
             ("licence", known.licence)]
    if known.notes:
      facts.append(("note", known.notes))
    lines = []
    for label, text in facts:
      lines += textwrap.wrap(
          text, 80, initial_indent=f"  {label:<8} ",
          subsequent_indent=" " * 11, break_long_words=False,
          break_on_hyphens=False)
    return lines

  def _how(self, known: known_sets.KnownSet, manual_dir: pathlib.Path | None
           ) -> list[str]:
    """Returns how to prepare a data set, and what is there of its archives."""
    command = self._sets.prepare_command(known.name, self._root())
    if manual_dir:
      command += f" --manual_dir={shlex.quote(str(manual_dir))}"
    manual_dir = manual_dir or self._preparation.manual_dir_of(
        known.name, self._data_dir)
    lines = known_sets.instructions(known, manual_dir, command)
    for archive in known.archives:
      state = self._preparation.archive_state(archive, manual_dir)
      if state != "not there":
        lines.append(f"{archive.file_name} is there" if state == "there"
                     else f"{archive.file_name} {state}")
    return [f"  {line}" for line in lines]

  def _root(self) -> pathlib.Path:
    """Returns TFDS' directory of data sets."""
    return self._preparation.manual_dir_of(
        known_sets.KNOWN_SETS[0].name, self._data_dir).parents[1]


def _print(text: str) -> None:
  try:
    print(text, flush=True)
  except BrokenPipeError:  # Such as of `| head`: it has seen enough.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
  program.run(main)
