"""The forms that a checkpoint is exported in, as plain data.

main and portable are SavedModels with variables, to be trained further, and
differ in their gradients alone. The others are for inference: their weights are
constants, with batch norm inside, and each has a name of its own, so that none
is mistaken for what can be fine-tuned. Importing this is cheap; what makes a
form is in a module of its own, see `making`.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from hub_export import errors


@dataclasses.dataclass(frozen=True)
class Loss:
  """What a form may lose against the float32 network, as is said on its card.

  Both are checked: nothing that loses more is published.
  """
  outputs: float      # Root of the mean square error, in standard deviations
                      # of the outputs.
  top1_points: float  # Of top-1 and top-5, in percentage points.


@dataclasses.dataclass(frozen=True)
class Choice:
  """One of the ways to keep a form's numbers."""
  name: str                  # What the flag takes, and the module's name has.
  loss: Loss | None = None   # None: as exact as float32 is.


# On 5 digits, outputs of images unlike them were off by 0.2 standard deviations,
# on one by 0.3, on 20 by 0.1, on 200 by 0.04; no accuracy need tell of it.
FEWEST_CALIBRATION_EXAMPLES = 20


@dataclasses.dataclass(frozen=True)
class Calibration:
  """What the ranges of 8-bit activations are to be measured on."""
  directory: pathlib.Path | None = None  # Of images; None for training data.
  examples: int = 200  # More were not seen to change the accuracy.


@dataclasses.dataclass(frozen=True)
class Form:
  """One form."""
  name: str                  # What --form takes, and the manifest has.
  title: str                 # For people, on the card.
  is_fine_tunable: bool      # Whether it is a SavedModel with variables.
  use: str                   # How to load it; {path} is put in.
  files: str                 # What its files are: at most 10 letters, no space.
  # The file that whoever loads it looks for first; where versions appear file
  # by file, it goes last.
  marker: str
  # The flag that takes one of the choices; the manifest has it under that name.
  option: str | None = None
  choices: tuple[Choice, ...] = ()  # The first is the flag's default.
  format: str = "saved_model_2"     # The tag of its card, if that has one.
  page: str = "Module"              # TensorFlow Hub's kind of page for it.
  takes_encoded: bool = True        # Whether it decodes images itself.
  # How to load it from a hub's address; {url} is put in.
  load: str = 'hub.load("{url}")'
  what: str = "TensorFlow Hub's reusable SavedModel"  # For people, in a phrase.
  runtime: str = "`hub.load`"       # What runs it where it is checked.
  tags: tuple[str, ...] = (         # On the Hugging Face Hub.
      "tensorflow", "tensorflow-hub", "saved-model")
  framework: str = "tensorFlow2"    # On Kaggle.

  @property
  def is_saved_model(self) -> bool:
    """Whether hub.load takes it; users load others by their files."""
    return self.marker == "saved_model.pb"


FORMS = (
    Form("main", "main (fast; training on a CPU needs oneDNN)", True,
         "hub.KerasLayer({path!r}, trainable=True)", "SavedModel",
         "saved_model.pb"),
    Form("portable", "portable (trains everywhere, slower)", True,
         "hub.KerasLayer({path!r}, trainable=True)", "SavedModel",
         "saved_model.pb"),
    Form("serving", "serving (for inference alone: no variables)", False,
         "hub.load({path!r})", "SavedModel", "saved_model.pb", "precision",
         (Choice("float32"), Choice("bf16", Loss(0.1, 0.5))),
         what="a SavedModel without variables"),
    Form("onnx", "ONNX (for inference alone: ONNX Runtime and others)", False,
         "onnxruntime.InferenceSession('{path}/model.onnx')", "Model",
         "model.onnx",
         format="onnx", takes_encoded=False,
         load="curl -fLO {url}/model.onnx", what="an ONNX model",
         runtime="ONNX Runtime", tags=("onnx",), framework="onnx"),
    Form("tfjs", "TensorFlow.js (for inference alone: browsers and Node.js)",
         False, "tf.loadGraphModel('{path}/model.json')", "Model", "model.json",
         format="tfjs", page="Tfjs", takes_encoded=False,
         load='tf.loadGraphModel("{url}/model.json")',
         what="a graph model of TensorFlow.js", runtime="TensorFlow.js",
         tags=("tensorflowjs",), framework="tfJs"),
    Form("lite", "lite (for phones and small devices: LiteRT)", False,
         "ai_edge_litert.interpreter.Interpreter("
         "{path!r} + '/model.tflite')", "LiteModel", "model.tflite",
         "quantization",
         # Seen at most: fp16 0.002, dynamic 0.05, int8 0.1, calibrated on 200
         # examples of what it is measured on; on one, 0.34.
         (Choice("float32"), Choice("fp16", Loss(0.02, 0.2)),
          Choice("dynamic", Loss(0.15, 0.5)), Choice("int8", Loss(0.3, 0.5))),
         format="tflite", page="Lite", takes_encoded=False,
         load="curl -fLO {url}/model.tflite",
         what="a LiteRT (TensorFlow Lite) model", runtime="LiteRT",
         tags=("tflite", "litert"), framework="tfLite"),
)


MARKERS = frozenset(form.marker for form in FORMS)


def names() -> list[str]:
  """Returns what --form takes."""
  return [form.name for form in FORMS]


def by_name(name: str) -> Form:
  """Returns the form called `name`; KeyError if there is none."""
  return {form.name: form for form in FORMS}[name]


def find(name: object) -> Form | None:
  """Returns the form called `name`; None if there is none."""
  return next((form for form in FORMS if form.name == name), None)


def is_fine_tunable(manifest: Mapping[str, Any]) -> bool:
  """Returns whether a module has variables; one of no known form has."""
  form = _of(manifest)
  return form is None or form.is_fine_tunable


def loss(manifest: Mapping[str, Any]) -> Loss | None:
  """Returns what a module may lose; None if it is as exact as float32."""
  form = _of(manifest)
  for choice in form.choices if form else ():
    if choice.name == manifest.get(form.option):
      return choice.loss
  return None


def chosen(name: str, given: Mapping[str, str | None]) -> Choice | None:
  """Returns what the flags choose of a form; None if it has no choices.

  Args:
    name: The form's.
    given: The value of every form's flag; None for those that were not given.

  Raises:
    UsageError: if a flag was given that is none of this form's, or its value
      is none of the choices.
  """
  form = by_name(name)
  for option, value in given.items():
    if value is not None and option != form.option:
      owners = [f.name for f in FORMS if f.option == option]
      raise errors.UsageError(
          f"--{option} goes with --form={' or '.join(owners)}; this is the "
          f"form {name}. Leave it out, or choose that form.")
  value = given.get(form.option) if form.option else None
  for choice in form.choices:
    if value in (None, choice.name):
      return choice
  if form.choices:
    raise errors.UsageError(
        f"--{form.option}={value} is none of the form {name}'s; expected "
        f"{', '.join(choice.name for choice in form.choices)}")
  return None


def module_name(main_name: str, form: str, choice: Choice | None) -> str:
  """Returns such as "regnety600mf_classification_serving_bf16".

  Args:
    main_name: What the module is called in the main form.
    form: A form that is not to be fine-tuned.
    choice: That of the form, if it has any.
  """
  return "_".join([main_name, form, *([choice.name] if choice else [])])


def label(manifest: Mapping[str, Any]) -> str:
  """Returns what a module's form is called, such as "serving bf16"."""
  form = _of(manifest)
  chosen_name = manifest.get(form.option) if form and form.option else None
  return " ".join(filter(None, [str(manifest.get("form")), chosen_name]))


def main_name(name: str) -> str:
  """Returns a module's name without what its form put at the end.

  "regnety600mf_classification" for "regnety600mf_classification_serving_bf16";
  a name without such an end as it is.
  """
  for form in FORMS:
    if not form.is_fine_tunable:
      for choice in form.choices or (None,):
        end = module_name("", form.name, choice)
        if name.endswith(end):
          return name.removesuffix(end)
  return name


def format_tag(manifest: Mapping[str, Any]) -> str:
  """Returns what a module's card has as its format."""
  form = _of(manifest)
  return form.format if form else "saved_model_2"


def page(manifest: Mapping[str, Any]) -> str:
  """Returns what kind of page of TensorFlow Hub's a module's card is."""
  form = _of(manifest)
  return form.page if form else "Module"


def _of(manifest: Mapping[str, Any]) -> Form | None:
  return find(manifest.get("form"))
