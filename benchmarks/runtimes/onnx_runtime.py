"""ONNX Runtime on the processor, with all optimisations of graphs."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnxruntime


class Model:
  """A session; images are float32 NCHW or, where the file says so, NHWC."""

  def __init__(self, path: str, threads: int):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    self._session = onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"])
    self._input = self._session.get_inputs()[0]
    self.versions = {"onnxruntime": onnxruntime.__version__}

  def call(self, images: np.ndarray) -> Callable[[], list[np.ndarray]]:
    fed = {self._input.name: in_layout(images, self._input.shape)}
    return lambda: self._session.run(None, fed)

  def array(self, outputs: list[np.ndarray]) -> np.ndarray:
    return outputs[0].astype(np.float32)


def open_model(task: Mapping[str, Any]) -> Model:
  """Returns the model of a task: "path" of an .onnx file; "threads"."""
  return Model(task["path"], task["threads"])


def in_layout(images: np.ndarray, shape: Any) -> np.ndarray:
  """Returns images as an input of that shape takes them: channels where it
  has its three, which are last where both would do."""
  is_last = shape[-1] == 3
  return images if is_last else images.transpose(0, 3, 1, 2).copy()
