"""Makes the forms without variables from what a family hands over."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hub_export import forms
from hub_export import hub_module
from hub_export.forms import extras

# Makes the files of one form: the network, the choice of the form's flag, and
# name and manifest of the module that they belong to.
Maker = Callable[[hub_module.Inference, forms.Choice | None, str,
                  dict[str, Any]], hub_module.Payload]


def payloads(inferences: Iterable[hub_module.Inference], form: str,
             choice: forms.Choice | None,
             calibration: forms.Calibration = forms.Calibration()
             ) -> Iterator[hub_module.Payload]:
  """Yields each module in one form.

  Args:
    inferences: What the family hands over.
    form: Name of a form that is not to be fine-tuned.
    choice: See forms.chosen.
    calibration: Of the forms that are calibrated on images.

  Raises:
    HubExportError: if it cannot be made in this form, or what makes it is not
      installed.
  """
  extras.require(form)
  make = _maker(form, calibration)
  for inference in inferences:
    yield make(inference, choice,
               forms.module_name(inference.name, form, choice),
               manifest(inference, form, choice))


def manifest(inference: hub_module.Inference, form: str,
             choice: forms.Choice | None) -> dict[str, Any]:
  """Returns the manifest of a module in a form without variables."""
  record = copy.deepcopy(dict(inference.manifest))
  record["form"] = form
  if choice:
    record[forms.by_name(form).option] = choice.name
    if choice.loss:
      record["loss"] = dataclasses.asdict(choice.loss)
  if record["companion"]:
    record["companion"] = forms.module_name(record["companion"], form, choice)
  record["outputs"].pop("endpoints", None)  # For building on, in training.
  # What a module computes in is the form's own, not that of its images.
  record["inputs"].pop("compute_dtypes", None)
  return record


def _maker(form: str, calibration: forms.Calibration) -> Maker:
  """Returns what makes a form; imports nothing of the others."""
  # pylint: disable=g-import-not-at-top
  if form == "serving":
    from hub_export.forms import serving
    return serving.make
  if form == "onnx":
    from hub_export.forms import onnx
    return onnx.make
  if form == "tfjs":
    from hub_export.forms import tfjs
    return tfjs.make
  if form == "lite":
    from hub_export.forms import lite
    return functools.partial(lite.make, calibration=calibration)
  raise ValueError(f"nothing makes the form {form!r}")
