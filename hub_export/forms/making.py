"""Makes the forms without variables from what a family hands over."""

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hub_export import forms
from hub_export import hub_module

# Makes the files of one form: the network, the choice of the form's flag, and
# name and manifest of the module that they belong to.
Maker = Callable[[hub_module.Inference, forms.Choice | None, str,
                  dict[str, Any]], hub_module.Payload]


def payloads(inferences: Iterable[hub_module.Inference], form: str,
             choice: forms.Choice | None) -> Iterator[hub_module.Payload]:
  """Yields each module in one form.

  Args:
    inferences: What the family hands over.
    form: Name of a form that is not to be fine-tuned.
    choice: See forms.chosen.

  Raises:
    HubExportError: if it cannot be made in this form, or what makes it is not
      installed.
  """
  make = _maker(form)
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
      record["loss"] = {"outputs": choice.loss.outputs,
                        "top1_points": choice.loss.top1_points}
  if record["companion"]:
    record["companion"] = forms.module_name(record["companion"], form, choice)
  record["outputs"].pop("endpoints", None)  # For building on, in training.
  return record


def _maker(form: str) -> Maker:
  """Returns what makes a form; imports nothing of the others."""
  # pylint: disable=g-import-not-at-top
  if form == "serving":
    from hub_export.forms import serving
    return serving.make
  raise ValueError(f"nothing makes the form {form!r}")
