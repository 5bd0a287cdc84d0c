"""An ONNX form, run by ONNX Runtime on the processor."""

import functools
import pathlib
from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import numpy_helper
import onnxruntime
import tensorflow as tf

from checks.forms import constants
from hub_export import errors
from hub_export.forms import onnx as form

_ERRORS_ALONE = 3  # Of ONNX Runtime's levels of logging.


class Model:
  """What loading.load gives back for an ONNX form."""

  def __init__(self, directory: pathlib.Path):
    """Loads the model.

    Raises:
      ChecksError: if ONNX Runtime cannot, or it is no model of images.
    """
    self._path = directory / form.MODEL
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ALONE
    try:
      self.session = onnxruntime.InferenceSession(
          str(self._path), options, providers=["CPUExecutionProvider"])
      image = self.session.get_inputs()[0]
      output, = self.session.get_outputs()
    # ONNX Runtime has no base class of its own for what it raises.
    except Exception as e:  # pylint: disable=broad-exception-caught
      raise errors.ChecksError(
          f"ONNX Runtime {onnxruntime.__version__} cannot load {self._path}: "
          f"{str(e)[:500]}. Expected images in and one output; export it again."
      ) from e
    self._input, self._output = image.name, output.name

  def __call__(self, images: tf.Tensor) -> tf.Tensor:
    found, = self.session.run([self._output],
                              {self._input: np.asarray(images)})
    return tf.constant(found)

  @property
  def signatures(self) -> Mapping[str, Callable[..., dict[str, tf.Tensor]]]:
    """The one function, under the name that SavedModels have for it."""
    return {"serving_default": lambda images: {self._output: self(images)}}

  @functools.cached_property
  def proto(self) -> onnx.ModelProto:
    """The file's content."""
    return onnx.load(str(self._path))

  @property
  def metadata(self) -> dict[str, str]:
    """What the file says of itself."""
    return {p.key: p.value for p in self.proto.metadata_props}

  @property
  def variables(self) -> list[constants.Constant]:
    """The last layer's kernel and bias: what the outputs are made from."""
    makers = {o: n for n in self.proto.graph.node for o in n.output}
    values = {i.name: i for i in self.proto.graph.initializer}
    found, name = [], self._output
    for kind in ("Add", "MatMul"):
      node = makers.get(name)
      if (node is None or node.op_type != kind
          or node.input[1] not in values):
        return []
      found.append(numpy_helper.to_array(values[node.input[1]]))
      name = node.input[0]
    bias, kernel = found
    return constants.head(kernel, bias)
