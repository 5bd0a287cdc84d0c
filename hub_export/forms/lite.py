"""The Lite form: one .tflite file for LiteRT, with metadata and labels inside.

Grouped convolutions stay what they are: CONV_2D takes groups, and XNNPACK,
LiteRT's kernels for CPUs, runs the whole graph. Four ways to keep the numbers:

  float32  as trained
  fp16     weights of 16 bits, which CPUs widen to float32 on loading
  dynamic  weights of 8 bits; activations are quantised as they come
  int8     weights and activations of 8 bits, with ranges measured on images

The graph is made for images of any batch and size; the shapes in the file are
those of one image of the usual size, which is what runs until the input tensor
is resized.
"""

import contextlib
import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from hub_export import errors
from hub_export import forms
from hub_export import hub_module
from hub_export import preprocessing
from hub_export import program
from hub_export.forms import calibration as calibration_lib
from hub_export.forms import frozen
from hub_export.forms import lite_metadata
from hub_export.forms import tflite_file

FILE = "model.tflite"
QUANTIZATIONS = ("float32", "fp16", "dynamic", "int8")
_IMAGES = {
    "float32": "RGB images [batch, size, size, 3], values in [0, 1]: pixels "
               "divided by 255. Any batch, after resizing this tensor.",
    "uint8": "RGB images [batch, size, size, 3], pixels in 0 to 255 as they "
             "are. Any batch, after resizing this tensor.",
}
_INPUTS = {"float32": {"dtype": "float32", "range": [0.0, 1.0]},
           "uint8": {"dtype": "uint8", "range": [0, 255]}}
_MEANINGS = {
    "logits": "Logits, float32 [batch, classes]: not probabilities; softmax "
              "makes them so.",
    "features": "Features after global pooling, float32 "
                "[batch, feature_dim].",
}


@dataclasses.dataclass(frozen=True)
class Source:
  """What is converted."""
  run: Callable[[tf.Tensor], tf.Tensor]  # Images to outputs, no variables.
  size_px: int                           # Side of the images.
  output: str                            # "logits" or "features".


def make(inference: hub_module.Inference, choice: forms.Choice, name: str,
         manifest: dict[str, Any],
         calibration: forms.Calibration = forms.Calibration()
         ) -> hub_module.Payload:
  """Returns a module in the Lite form; see making.Maker.

  Args:
    inference: What the family hands over.
    choice: One of QUANTIZATIONS.
    name: The module's.
    manifest: The module's.
    calibration: What the user wants int8 to be calibrated on.

  Raises:
    UnavailableError: if there are no images to calibrate on.
    HubExportError: if the network is too large, or cannot be converted.
  """
  network = inference.network(hub_module.Build(keeps_images=True))
  frozen.check_size(network, name)

  images = None
  if choice.name == "int8":
    images = _calibration(calibration, manifest["dataset"]["name"],
                          inference.preprocessing)
  source = Source(functools.partial(frozen.outputs, inference, network),
                  inference.preprocessing.crop_px, inference.output)
  # With the golden ones, or those would tell how ranges cut off what is unlike
  # the data, not whether the model computes what the checkpoint says.
  shown = ()
  if images:
    shown = itertools.chain(images.images(),
                            inference.golden_images[:, np.newaxis])
  content = finished(convert(source, choice.name, shown), source, choice.name,
                     name, manifest, inference.labels)
  record = {"file": FILE,
            "calibration": images.record() if images else None}

  def write(directory: pathlib.Path) -> None:
    (directory / FILE).write_bytes(content)

  return frozen.payload(
      inference, name,
      {**manifest, "parent": inference.name, "lite": record,
       "inputs": {**manifest["inputs"], **_INPUTS[input_dtype(choice.name)]}},
      len(content), write, ("ai-edge-litert",))


def input_dtype(quantization: str) -> str:
  """Returns "uint8" or "float32", what a model takes."""
  return "uint8" if quantization == "int8" else "float32"


def convert(source: Source, quantization: str,
            calibration: Iterable[np.ndarray] = ()) -> bytes:
  """Returns a .tflite model without signature and metadata.

  Args:
    source: What to convert.
    quantization: One of QUANTIZATIONS.
    calibration: For int8 alone: float32 [1, height, width, 3] in [0, 1], each.

  Raises:
    HubExportError: if it cannot be converted.
  """
  if quantization not in QUANTIZATIONS:
    raise ValueError(f"quantization is {quantization!r}; expected one of "
                     f"{QUANTIZATIONS}")
  spec = tf.TensorSpec([None, None, None, 3], tf.float32, name="images")
  function = tf.function(source.run, input_signature=[spec], autograph=False)
  with program.quiet_start(), _conversion_errors():
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()])
    # No operator of TensorFlow's own: those need another, larger runtime.
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if quantization in ("fp16", "dynamic"):
      converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "fp16":
      converter.target_spec.supported_types = [tf.float16]
    content = converter.convert()
  if quantization == "int8":
    content = _quantised(content, calibration)
  return tflite_file.with_shapes(content, source.size_px)


def _quantised(content: bytes, calibration: Iterable[np.ndarray]) -> bytes:
  """Returns a float model in int8, by channel where that is of weights."""
  ranged = tflite_file.with_ranges(
      content, calibration_lib.ranges(content, calibration))
  # What TFLiteConverter calls after its own calibration; there is no public
  # name for it in TensorFlow 2.21.
  from tensorflow.lite.python import convert as tf_convert  # pylint: disable=g-import-not-at-top
  with program.quiet_start(), _conversion_errors():
    return tf_convert.mlir_quantize(
        ranged, input_data_type=tf.uint8, output_data_type=tf.float32)


class Runner:
  """A .tflite model in LiteRT's interpreter, fed with images in [0, 1]."""

  def __init__(self, content: bytes, threads: int | None = None):
    """Loads a model with one input and one output.

    Raises:
      HubExportError: if LiteRT is not installed, or refuses the model.
    """
    module = tflite_file.interpreter()
    try:
      with program.quiet_start():
        self.interpreter = module.Interpreter(
            model_content=content, num_threads=threads)
        self.interpreter.allocate_tensors()
      self.input, = self.interpreter.get_input_details()
      self.output, = self.interpreter.get_output_details()
    except (ValueError, RuntimeError) as e:
      raise errors.HubExportError(
          f"LiteRT cannot load the .tflite file ({str(e)[:300]}); expected a "
          "model with one input and one output. Export the checkpoint "
          "again.") from e

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """Returns float32 [batch, outputs].

    Args:
      images: float32 [batch, height, width, 3], RGB in [0, 1]. A model of
        uint8 gets the nearest pixels, as its users have them.
    """
    images = np.asarray(images)
    if self.input["dtype"] == np.uint8:
      images = np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)
    index = self.input["index"]
    if tuple(self.interpreter.get_input_details()[0]["shape"]) != images.shape:
      self.interpreter.resize_tensor_input(index, images.shape)
      self.interpreter.allocate_tensors()
    self.interpreter.set_tensor(index, images)
    self.interpreter.invoke()
    return self.interpreter.get_tensor(self.output["index"])

  def left_out(self) -> list[str]:
    """Returns the operators that XNNPACK does not run.

    XNNPACK's part of the graph is one operator called DELEGATE, beside those
    that it stands for. What of the model's input and output is none of its own
    is computed outside of it; so is what lies between two such parts.
    """
    operators = self.interpreter._get_ops_details()  # pylint: disable=protected-access
    parts = [o for o in operators if o["op_name"] == "DELEGATE"]
    plain = [o for o in operators if o["op_name"] != "DELEGATE"]
    if len(parts) != 1:
      return [o["op_name"] for o in plain]
    inside, = parts
    ends, reached = set(inside["outputs"]), set()
    starts = set(inside["inputs"])
    # Backwards from what it gives; what is not reached lies outside.
    while ends:
      tensor = ends.pop()
      for number, o in enumerate(plain):
        if tensor in o["outputs"] and number not in reached:
          reached.add(number)
          ends |= {t for t in o["inputs"] if t not in starts}
    return [o["op_name"] for n, o in enumerate(plain) if n not in reached]


def finished(content: bytes, source: Source, quantization: str,
             name: str, manifest: Mapping[str, Any],
             labels: tuple[str, ...]) -> bytes:
  """Returns a model with signature, metadata and labels.

  Args:
    content: From `convert`.
    source: What it was converted from.
    quantization: One of QUANTIZATIONS.
    name: The module's.
    manifest: The module's; its card's text and licence are put in.
    labels: Class names in the order of the logits; or ().
  """
  dtype = input_dtype(quantization)
  metadata = lite_metadata.image_model(
      name=name, description=manifest["card"]["description"],
      licence=manifest["licence"]["id"], size_px=source.size_px,
      images=_IMAGES[dtype],
      stats=(0.0, 255.0 if dtype == "uint8" else 1.0), output=source.output,
      meaning=_MEANINGS[source.output], has_labels=bool(labels))
  files = {lite_metadata.LABELS: "".join(
      f"{label}\n" for label in labels).encode()} if labels else {}
  return tflite_file.finish(content, source.output, metadata, files)


@contextlib.contextmanager
def _conversion_errors() -> Iterator[None]:
  """Turns what the converter raises into a HubExportError."""
  try:
    yield
  except errors.HubExportError:
    raise
  except Exception as e:  # ConverterError has no public name.
    raise errors.HubExportError(
        "TensorFlow cannot convert the network to a .tflite file "
        f"({' '.join(str(e).split())[:300]}). Please report this with the "
        "variant and TensorFlow's version.") from e


@functools.lru_cache(maxsize=1)  # Classifier and feature extractor share it.
def _calibration(wish: forms.Calibration, dataset: str,
                 prep: preprocessing.Preprocessing
                 ) -> calibration_lib.Calibration:
  """Returns the images that the user named, or training data."""
  if wish.directory:
    return calibration_lib.from_directory(wish.directory, wish.examples, prep)
  return calibration_lib.from_dataset(dataset, wish.examples, prep)
