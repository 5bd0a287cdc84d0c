"""A .tflite model that can be called as the other forms are, for the checks."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from hub_export import errors
from hub_export.forms import lite
from hub_export.forms import tflite_file


class Model:
  """The model behind its signature; see checks.forms.loading.

  Args of the call:
    images: float32 [batch, height, width, 3], RGB in [0, 1]; a model of uint8
      gets the nearest pixels.

  Returns:
    float32 [batch, classes], logits; or [batch, feature_dim], features.
  """

  def __init__(self, content: bytes, output: str):
    self.content = content
    self.runner = lite.Runner(content)
    self._output = output
    self.signatures = {tflite_file.SIGNATURE: self._serve}

  def __call__(self, images: tf.Tensor) -> tf.Tensor:
    return tf.constant(self.runner(np.asarray(images)))

  def _serve(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
    return {self._output: self(images)}


class Classifier(Model):
  """One whose last layer can be had, for features from elsewhere."""

  def __init__(self, content: bytes, output: str):
    super().__init__(content, output)
    kernel, bias = last_layer(content)

    @tf.function(input_signature=[
        tf.TensorSpec([None, kernel.shape[0]], tf.float32)], autograph=False)
    def head(features):
      return tf.matmul(features, kernel) + bias

    self.head = head


def load(export_dir: pathlib.Path, manifest: Mapping[str, Any]) -> Model:
  """Returns the model of an export.

  Raises:
    HubExportError: if there is none, or it cannot be loaded.
  """
  path = export_dir / lite.FILE
  try:
    content = path.read_bytes()
  except OSError as e:
    raise errors.HubExportError(
        f"{path} cannot be read ({e.strerror}); expected the model of a Lite "
        "export. Export the checkpoint again.") from e
  if manifest["kind"] == "classifier":
    return Classifier(content, "logits")
  return Model(content, "features")


def last_layer(content: bytes) -> tuple[np.ndarray, np.ndarray]:
  """Returns a classifier's last layer, as float32 whatever it is kept in.

  Returns:
    float32 kernel [feature_dim, classes] and bias [classes].

  Raises:
    HubExportError: if the model does not end in a dense layer.
  """
  graph = tflite_file.load(content).subgraphs[0]
  module = tflite_file.interpreter()
  # XNNPACK would keep the weights for itself.
  reader = module.Interpreter(
      model_content=content, experimental_op_resolver_type=(
          module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES))
  names = {o["index"]: o["op_name"] for o in reader._get_ops_details()}  # pylint: disable=protected-access
  by_output = {int(o): (names[i], operator)
               for i, operator in enumerate(graph.operators)
               for o in operator.outputs}

  def constant(index: int) -> np.ndarray:
    name, operator = by_output.get(index, (None, None))
    if name == "DEQUANTIZE":  # From float16.
      index = int(operator.inputs[0])
    value = reader.get_tensor(index)
    kept = reader.get_tensor_details()[index]["quantization_parameters"]
    if not len(kept["scales"]):
      return value.astype(np.float32)
    shape = [1] * value.ndim
    shape[kept["quantized_dimension"]] = -1
    scales = kept["scales"].reshape(shape if len(kept["scales"]) > 1 else [])
    zeros = kept["zero_points"].reshape(
        shape if len(kept["zero_points"]) > 1 else [])
    return ((value.astype(np.float64) - zeros) * scales).astype(np.float32)

  name, operator = by_output[int(graph.outputs[0])]
  if name == "DEQUANTIZE":
    name, operator = by_output[int(operator.inputs[0])]
  if name != "FULLY_CONNECTED":
    raise errors.HubExportError(
        f"the .tflite model ends in {name}; expected a dense layer from "
        "features to logits. Export the checkpoint again.")
  kernel, bias = (constant(int(i)) for i in operator.inputs[1:3])
  return kernel.T, bias
