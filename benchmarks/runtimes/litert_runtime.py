"""LiteRT's interpreter with XNNPACK."""

import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any

from ai_edge_litert import interpreter as interpreter_lib
import numpy as np


class Model:
  """An interpreter; its inputs are given the size of each batch."""

  def __init__(self, path: str, threads: int):
    self._interpreter = interpreter_lib.Interpreter(path, num_threads=threads)
    self._input = self._interpreter.get_input_details()[0]
    self.versions = {
        "ai-edge-litert": importlib.metadata.version("ai-edge-litert")}
    self._shape = None

  def call(self, images: np.ndarray) -> Callable[[], np.ndarray]:
    fed = quantized(images, self._input)

    def run():
      if self._shape != fed.shape:
        self._interpreter.resize_tensor_input(self._input["index"], fed.shape)
        self._interpreter.allocate_tensors()
        self._shape = fed.shape
      self._interpreter.set_tensor(self._input["index"], fed)
      self._interpreter.invoke()
      output = self._interpreter.get_output_details()[0]
      return real(self._interpreter.get_tensor(output["index"]), output)
    return run

  def array(self, outputs: np.ndarray) -> np.ndarray:
    return outputs


def open_model(task: Mapping[str, Any]) -> Model:
  """Returns the model of a task: "path" of a .tflite file; "threads"."""
  return Model(task["path"], task["threads"])


def quantized(images: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:
  """Returns images as a tensor with these details takes them."""
  dtype = details["dtype"]
  if np.issubdtype(dtype, np.floating):
    return images.astype(dtype)
  scale, zero = details["quantization"]
  limits = np.iinfo(dtype)
  return np.clip(np.round(images / scale) + zero, limits.min,
                 limits.max).astype(dtype)


def real(values: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:
  """Returns a tensor's values as float32."""
  if np.issubdtype(values.dtype, np.floating):
    return values.astype(np.float32)
  scale, zero = details["quantization"]
  return ((values.astype(np.float32) - zero) * scale).astype(np.float32)
