"""OpenVINO on the processor, in float32 or bfloat16."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import openvino


class Model:
  """A compiled model; images are float32 NCHW."""

  def __init__(self, path: str, threads: int, precision: str):
    self._core = openvino.Core()
    self._model = self._core.compile_model(path, "CPU", {
        "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": {"bf16": "bf16", "float32": "f32"}[
            precision]})
    self._request = self._model.create_infer_request()
    self.versions = {"openvino": openvino.__version__.split("-")[0]}

  def call(self, images: np.ndarray) -> Callable[[], Any]:
    fed = [openvino.Tensor(images.transpose(0, 3, 1, 2).copy())]
    return lambda: self._request.infer(fed, share_outputs=True)

  def array(self, outputs: Any) -> np.ndarray:
    return np.array(outputs[0], np.float32)


def open_model(task: Mapping[str, Any]) -> Model:
  """Returns the model of a task: "path" of an .onnx file; "precision";
  "threads"."""
  return Model(task["path"], task["threads"], task["precision"])
