"""Whether documents that cannot be renewed are sound in themselves.

Where a published version never changes, its card and report may be older than
those here. They are held against each other instead.
"""

import hashlib
import json
import pathlib

from hub_export import errors
from hub_export import sums
from hub_export.destinations import layout


def problems(directory: pathlib.Path, version: int, export_sha256: str
             ) -> list[str]:
  """Returns what is wrong with the documents of a version, a line each.

  Args:
    directory: Where they lie, named as `layout` says.
    version: Of the module.
    export_sha256: Of the module's bytes, `export_dirs.digest`.
  """
  found = {path.relative_to(directory).as_posix(): path.read_bytes()
           for path in directory.rglob("*") if path.is_file()}
  told = [f"{name} does not belong there" for name in sorted(found)
          if not layout.is_side_file(name, version)]
  report = f"{version}.checks.json"
  if report in found and _digest_in(found[report]) != export_sha256:
    told.append(f"{report} is no report of these bytes")
  listing = f"{version}{sums.SUFFIX}"
  if listing not in found:
    return told
  try:
    listed = sums.parse(found[listing], str(version))
  except errors.ChecksError as e:
    return [*told, str(e)]
  for name, content in sorted(found.items()):
    # What is made of the sums cannot be in them.
    if name == listing or name.endswith(layout.SIGNATURE_SUFFIX):
      continue
    if listed.get(name) != hashlib.sha256(content).hexdigest():
      told.append(f"{name} is not what {listing} says")
  return told


def _digest_in(report: bytes) -> str | None:
  try:
    return json.loads(report)["export_sha256"]
  except (ValueError, KeyError, TypeError):
    return None
