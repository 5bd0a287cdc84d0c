"""The class names of the data sets that models were trained on.

Those of published models lie beside this module, one file per data set; index i
of the outputs is line i of the file (header comments left out).
"""

import functools
import pathlib

from hub_export import errors

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven",
          "eight", "nine")

OWN = "own"  # Stands in manifests for a data set that has no public name.
_MAX_BYTES = 16 << 20

# Data sets with a file of synsets and names beside this module.
_IMAGENET_LIKE = ("imagenet2012", "imagenet12k")
# Data sets with ImageNet's classes, but images of only those in a file.
_WITH_GAPS = ("imagenet_a", "imagenet_r")


def known(dataset: str) -> bool:
  """Returns whether the class names of a data set are known here."""
  return dataset in _IMAGENET_LIKE or dataset == "optical_digits"


def names(dataset: str) -> tuple[str, ...]:
  """Returns the class names of a data set, in label order, all unlike.

  Raises:
    HubExportError: if the data set's names are not known here.
  """
  if dataset == "optical_digits":
    return DIGITS
  return tuple(name for _, name in _rows(dataset))


def from_file(path: pathlib.Path, count: int | None = None) -> tuple[str, ...]:
  """Returns the class names in a file of the user's, one a line.

  Args:
    path: A text file in UTF-8.
    count: How many there must be; None for any number.

  Raises:
    UsageError: if it cannot be read, or has a line that is empty or twice in
      it, or not as many lines as there are classes.
  """
  try:
    if path.stat().st_size > _MAX_BYTES:
      raise ValueError(f"it has more than {_MAX_BYTES >> 20} MiB")
    lines = path.read_text("utf-8-sig").split("\n")
  except (OSError, ValueError) as e:
    reason = e.strerror if isinstance(e, OSError) else e
    raise errors.UsageError(
        f"the class names in {path} cannot be read ({reason}); expected a text "
        "file in UTF-8 with a name on each line") from e
  if lines[-1] == "":
    lines.pop()
  found = tuple(line.strip() for line in lines)
  problems = [f"line {i} is empty" for i, n in enumerate(found, 1) if not n]
  first = {}
  for i, name in enumerate(found, 1):
    if name and first.setdefault(name, i) != i:
      problems.append(f"line {i} is {name!r}, as line {first[name]}")
    elif not name.isprintable():
      problems.append(f"line {i} has a control character: {name!r}")
  if count is not None and len(found) != count:
    problems.append(f"there are {len(found)} lines")
  if problems:
    raise errors.UsageError(
        f"{path} does not name the classes: {'; '.join(problems[:5])}. "
        f"Expected {count or 'some'} names that differ, one a line, in the "
        "order of the network's outputs")
  return found


def synsets(dataset: str) -> tuple[str, ...]:
  """Returns the WordNet ids of the classes, such as "n01440764".

  Raises:
    HubExportError: if the data set's classes are not known as synsets here.
  """
  return tuple(synset for synset, _ in _rows(dataset))


@functools.cache
def occurring_synsets(dataset: str) -> frozenset[str] | None:
  """Returns those classes of a data set that it has images of, if not all.

  ImageNet-A and ImageNet-R number their classes as ImageNet does, and have
  images of 200 each.

  Args:
    dataset: A TFDS name such as "imagenet_a".
  """
  if dataset not in _WITH_GAPS:
    return None
  text = pathlib.Path(__file__).with_name(f"{dataset}.txt").read_text("utf-8")
  return frozenset(line for line in text.splitlines()
                   if not line.startswith("#"))


@functools.cache
def _rows(dataset: str) -> tuple[tuple[str, str], ...]:
  """Returns (synset, name) of each class."""
  if dataset not in _IMAGENET_LIKE:
    raise errors.HubExportError(
        f"no class list for the data set {dataset!r}; expected one of "
        f"{', '.join((*_IMAGENET_LIKE, 'optical_digits'))}. Add a file to "
        "hub_export/labels.")
  text = pathlib.Path(__file__).with_name(f"{dataset}.txt").read_text("utf-8")
  rows = [tuple(line.split("\t")) for line in text.splitlines()
          if not line.startswith("#")]
  return tuple(rows)
