"""The class names of the data sets that published models were trained on.

They lie beside this module, one file per data set; index i of the outputs is
line i of the file (header comments left out).
"""

import functools
import pathlib

from hub_export import errors

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven",
          "eight", "nine")

# Data sets with a file of synsets and names beside this module.
_IMAGENET_LIKE = ("imagenet2012", "imagenet12k")


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


def synsets(dataset: str) -> tuple[str, ...]:
  """Returns the WordNet ids of the classes, such as "n01440764".

  Raises:
    HubExportError: if the data set's classes are not known as synsets here.
  """
  return tuple(synset for synset, _ in _rows(dataset))


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
