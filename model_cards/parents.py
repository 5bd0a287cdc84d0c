"""Which module a Lite form's page names as its parent.

TensorFlow Hub shows the two on one page. The parent is the main form of the
same checkpoint, whose version its own exports give it, so that it is looked up
where the two lie beside each other.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from hub_export import errors
from hub_export import export_dirs

# What two forms of one checkpoint have in common.
_SAME = ("checkpoint", "weights", "preprocessing")


def version(export_dir: pathlib.Path, manifest: Mapping[str, Any]) -> int:
  """Returns the version of a Lite form's parent.

  That is the newest of the same checkpoint in the same directory of exports;
  where there is none yet, the version that its export would get.

  Args:
    export_dir: Of the Lite form, an absolute path.
    manifest: The Lite form's.
  """
  found = export_dirs.versions(_parent_dir(export_dir, manifest))
  for number in reversed(found):
    if is_parent(export_dir, manifest, number):
      return number
  return max(found, default=0) + 1


def is_parent(export_dir: pathlib.Path, manifest: Mapping[str, Any],
              number: int) -> bool | None:
  """Returns whether a version is of the same checkpoint; None if not there."""
  path = _parent_dir(export_dir, manifest) / str(number)
  if not path.is_dir():
    return None
  try:
    theirs = export_dirs.read_manifest(path)
  except errors.HubExportError:
    return False
  return all(theirs.get(key) == manifest[key] for key in _SAME)


def _parent_dir(export_dir: pathlib.Path, manifest: Mapping[str, Any]
                ) -> pathlib.Path:
  return export_dir.parents[1] / manifest["parent"]
