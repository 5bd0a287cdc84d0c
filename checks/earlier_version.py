"""What a module's manifest says otherwise than that of the version before.

Nothing here imports TensorFlow.
"""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from checks import report as report_lib
from hub_export import errors
from hub_export import export_dirs

# These differ by themselves, or are derived from others that are listed.
_LEFT_OUT = ("handle",)


def changes(export_dir: pathlib.Path, manifest: Mapping[str, Any],
            metrics: Mapping[str, Any] | None,
            dataset: Mapping[str, Any] | None) -> dict[str, Any] | None:
  """Returns how a module differs from the newest version before it.

  Args:
    export_dir: The directory of this version.
    manifest: Its manifest.
    metrics: What was measured of it, as its report will say; or None.
    dataset: On what, or None.

  Returns:
    "handle" of the version before, and "changes", a list of "field", "before"
    and "after"; measured accuracies among them if both were measured on the
    same examples. None if no earlier version that can be read lies beside.
  """
  before_dir = _before(export_dir)
  if before_dir is None:
    return None
  try:
    before = export_dirs.read_manifest(before_dir)
  except errors.HubExportError:
    return None  # A damaged neighbour is no fault of this one.
  old, new = dict(_leaves(before)), dict(_leaves(manifest))
  found = [{"field": field, "before": old.get(field), "after": new.get(field)}
           for field in sorted({*old, *new})
           if field not in _LEFT_OUT and old.get(field) != new.get(field)]
  return {"handle": before["handle"],
          "changes": found + _measured(before_dir, metrics, dataset)}


def _before(export_dir: pathlib.Path) -> pathlib.Path | None:
  if not export_dir.name.isdecimal():
    return None
  older = [v for v in export_dirs.versions(export_dir.parent)
           if v < int(export_dir.name)]
  return export_dir.with_name(str(older[-1])) if older else None


def _measured(before_dir: pathlib.Path, metrics: Mapping[str, Any] | None,
              dataset: Mapping[str, Any] | None) -> list[dict[str, Any]]:
  """Returns both accuracies, if they are of the same examples."""
  try:
    before = report_lib.read(export_dirs.report_path(before_dir))
    is_of_it = before.export_sha256 == export_dirs.digest(before_dir)
  except errors.HubExportError:
    return []
  if not (is_of_it and metrics and dataset and before.metrics
          and before.dataset
          and before.dataset.get("digest") == dataset["digest"]):
    return []
  return [{"field": f"measured {title}",
           "before": round(before.metrics[name]["value"], 4),
           "after": round(metrics[name]["value"], 4)}
          for name, title in (("top1", "top-1"), ("top5", "top-5"))
          if before.metrics.get(name) and metrics.get(name)]


def _leaves(value: Any, field: str = "") -> Iterator[tuple[str, Any]]:
  """Yields the fields of a JSON document, those of records one by one."""
  if isinstance(value, Mapping) and value:
    for key, inner in value.items():
      yield from _leaves(inner, f"{field} {key}".strip())
  else:
    yield field, value
