"""What the checks of forms that are no SavedModels have in common."""

import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from checks import report
from checks import subject as subject_lib
from checks.forms import loading
from hub_export import errors
from hub_export import export_dirs
from hub_export import forms

_SAVED_MODEL = "saved_model.pb"


def metadata(subject: subject_lib.Subject, found: Mapping[str, str]
             ) -> report.CheckResult:
  """Checks what a file says of itself against manifest and labels.

  Args:
    subject: The export.
    found: As frozen.metadata makes it.
  """
  manifest = subject.manifest
  expected: dict[str, str | None] = {
      "name": export_dirs.parse_handle(manifest["handle"]).name,
      "variant": manifest["variant"], "kind": manifest["kind"],
      "preprocessing": json.dumps(manifest["preprocessing"], sort_keys=True),
      "weights_sha256": manifest["weights"]["sha256"],
      "licence": manifest["licence"]["id"] or "",
      "labels": "\n".join(subject.labels) if subject.is_classifier else None,
  }
  problems = [_unlike(key, found.get(key), value)
              for key, value in expected.items() if found.get(key) != value]
  return report.from_problems(problems, "as the manifest and the labels say")


def saved_model(subject: subject_lib.Subject,
                images: np.ndarray | None = None) -> report.CheckResult:
  """Checks batches of 1, 3 and more against a SavedModel of the same weights.

  Any that is as exact and lies in the same output directory will do; without
  one, the golden outputs, which come from the checkpoint, are what is left.

  Args:
    subject: The export.
    images: float32 [batch, crop, crop, 3] in [0, 1]; None for eight that are
      made up.
  """
  path = next(_saved_models(subject), None)
  if path is None:
    return report.passed(
        "no SavedModel of these weights lies in the same output directory; "
        "golden has the checkpoint's own outputs")
  try:
    other = loading.load(path, export_dirs.read_manifest(path))
  except Exception as e:  # Whatever TensorFlow stumbles over.
    raise errors.ChecksError(
        f"{path}, of the same weights, cannot be loaded to compare with "
        f"({' '.join(str(e).split())[:300]}); expected a sound export. Export "
        "it again, or remove it.") from e
  if images is None:
    size = subject.preprocessing.crop_px
    images = subject_lib.probe_images(8, size, size)
  return agreement(subject, other,
                   f"this form and {'/'.join(path.parts[-3:])}", images)


def has_saved_model(subject: subject_lib.Subject) -> bool:
  """Returns whether there is one for `saved_model` to compare with."""
  return next(_saved_models(subject), None) is not None


def agreement(subject: subject_lib.Subject,
              other: Callable[[tf.Tensor], tf.Tensor], what: str,
              images: np.ndarray) -> report.CheckResult:
  """Checks that the export and another model have the same outputs.

  Args:
    subject: The export.
    other: The model.
    what: Both, for people.
    images: float32 [batch, height, width, 3], of which batches of 1 and 3 are
      taken as well.
  """
  expected = np.asarray(other(tf.constant(images)))
  worst = max(
      subject.difference(subject.model(tf.constant(images[:n])), expected[:n],
                         scale=expected)
      for n in sorted({1, min(3, len(images)), len(images)}))
  message = f"{what} differ by {worst:.1e} standard deviations of the outputs"
  if worst <= subject.tolerance:
    return report.passed(message, largest_difference=worst)
  return report.failed(
      f"{message}; expected at most {subject.tolerance:.0e}",
      largest_difference=worst if np.isfinite(worst) else -1.0)


def _saved_models(subject: subject_lib.Subject) -> Iterator[pathlib.Path]:
  """Yields the exports that have to compute the same, newest first."""
  def belongs(theirs: Mapping[str, Any]) -> bool:
    return (forms.loss(theirs) is None and all(
        subject.manifest[key] == theirs.get(key)
        for key in ("kind", "weights", "checkpoint", "preprocessing")))

  for model_dir in sorted(subject.export_dir.parents[1].iterdir()):
    for version in reversed(export_dirs.versions(model_dir)):
      path = model_dir / str(version)
      try:
        if ((path / _SAVED_MODEL).is_file()
            and belongs(export_dirs.read_manifest(path))):
          yield path
      except errors.HubExportError:
        continue  # What is damaged is another check's.


def _unlike(key: str, found: str | None, expected: str | None) -> str:
  """Returns a message that shows where two texts, which may be long, differ."""
  found, expected = str(found), str(expected)
  start = max(0, len(os.path.commonprefix([found, expected])) - 20)
  cut = slice(start, start + 80)
  return (f"{key} is {found[cut]!r}, expected {expected[cut]!r}"
          + (f" at character {start}" if start else ""))
