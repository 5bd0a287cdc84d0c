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
from hub_export.destinations import s3


@dataclasses.dataclass(frozen=True)
class Kind:
  """One kind of destination."""
  scheme: str   # Before "://" in --to, lower case; "" for a plain path.
  example: str  # What to type, and what it is.
  open: Callable[[str], base.Destination]  # Takes all of --to.


KINDS = (
    Kind("", "a directory, --to=published", directory.from_path),
    Kind("gs", "Google Cloud Storage, --to=gs://bucket/prefix", gcs.from_url),
    Kind("s3", "Amazon S3 and what speaks its protocol, "
         "--to=s3://bucket/prefix", s3.from_url),
    Kind("kaggle", "Kaggle Models, "
         "--to=kaggle://owner/model/tensorFlow2/variation", kaggle.from_url),
    Kind("hf", "the Hugging Face Hub, --to=hf://owner/repo",
         hugging_face.from_url),
)


def choose(to: str) -> base.Destination:
  """Returns the destination that `to` names.

  Raises:
    UsageError: if there is no such kind of destination.
  """
  url = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", to)
  scheme = url[1].lower() if url else ""
  for kind in KINDS:
    if kind.scheme == scheme and to:
      return kind.open(to)
  examples = "; ".join(kind.example for kind in KINDS)
  raise errors.UsageError(
      f"--to={to} is no place to publish to; expected one of: {examples}")
