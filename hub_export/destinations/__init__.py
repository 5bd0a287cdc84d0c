"""Places to publish to, chosen by what --to says.

A new one is a file beside `directory.py` with a class that does what
`base.Destination` says, and a line in KINDS.
"""

import dataclasses
import re
from collections.abc import Callable

from hub_export import errors
from hub_export.destinations import base
from hub_export.destinations import directory
from hub_export.destinations import gcs
from hub_export.destinations import hugging_face
from hub_export.destinations import kaggle
from hub_export.destinations import remote
from hub_export.destinations import s3


@dataclasses.dataclass(frozen=True)
class Kind:
  """One kind of destination."""
  scheme: str   # Before "://" in --to, lower case; "" for a plain path.
  example: str  # What to type, and what it is.
  open: Callable[[str], base.Destination]  # Takes all of --to.
  # Where one place takes the versions of one module only: what may stand
  # between the words of its name there; "" where it takes all modules.
  separator: str = ""


KINDS = (
    Kind("", "a directory, --to=published", directory.from_path),
    Kind("gs", "Google Cloud Storage, --to=gs://bucket/prefix", gcs.from_url),
    Kind("s3", "Amazon S3 and what speaks its protocol, "
         "--to=s3://bucket/prefix", s3.from_url),
    Kind("kaggle", "Kaggle Models, "
         "--to=kaggle://owner/model/tensorFlow2/variation", kaggle.from_url,
         separator="-"),
    Kind("hf", "the Hugging Face Hub, --to=hf://owner/repo",
         hugging_face.from_url, separator="_"),
)
_NAME = "{name}"
# Addresses that would else be directories of that name.
_MISTYPED = re.compile(r"(gs|s3|kaggle|hf|https?|file):(?!//)", re.IGNORECASE)


def choose(to: str) -> base.Destination:
  """Returns the destination that `to` names.

  Raises:
    UsageError: if there is no such kind of destination.
  """
  return _kind(to).open(to)


def for_module(to: str, name: str) -> str:
  """Returns `to` with "{name}" filled in as the place spells names.

  Args:
    to: As the user gives it for several modules.
    name: A module's name, such as "regnety600mf_classification".

  Raises:
    UsageError: if the place takes one module only, and `to` does not have
      "{name}", or if there is no such kind of destination.
  """
  kind = _kind(to)
  if kind.separator and _NAME not in to:
    raise errors.UsageError(
        f"--to={remote.redact(to)} takes the versions of one module only, and "
        f"there are several; expected {_NAME} in it, such as {kind.example} "
        f"with {_NAME} as its last part")
  if kind.separator == "-":
    name = re.sub(r"[^A-Za-z0-9]+", "-", name)
  return to.replace(_NAME, name)


def _kind(to: str) -> Kind:
  url = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", to)
  scheme = url[1].lower() if url else ""
  for kind in KINDS:
    if kind.scheme == scheme and to and not _MISTYPED.match(to):
      return kind
  examples = "; ".join(kind.example for kind in KINDS)
  raise errors.UsageError(
      f"--to={remote.redact(to)} is no place to publish to; expected one of: "
      f"{examples}")
