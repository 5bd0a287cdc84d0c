"""Writes a RegNet as an ONNX file, the way that suits those who run it best.

A program of its own, for a Python that has the package onnx. Arguments: an .npz
file of canonical tensors, the convention ("keras" or "torch") and the file to
write. NCHW, batch norm folded into the convolutions, squeeze-and-excitation as
1x1 convolutions, any batch: what PyTorch's exporter makes of timm's network
after the usual simplification. Epsilon and strides are RegNet's.
"""

import itertools
import sys
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper
from onnx import numpy_helper

_EPSILON = 1e-5
_OPSET, _IR_VERSION = 17, 8


class _Graph:
  """Nodes and constants, as they are added."""

  def __init__(self, tensors: Mapping[str, np.ndarray], convention: str):
    self.nodes, self.constants = [], []
    self._tensors = tensors
    self._padding = {"keras": {"auto_pad": "SAME_UPPER"},
                     "torch": {"pads": [1, 1, 1, 1]}}[convention]

  def add(self, op: str, *inputs: str, **attributes) -> str:
    name = f"{op}_{len(self.nodes)}"
    self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
    return name

  def constant(self, name: str, values: np.ndarray) -> str:
    self.constants.append(numpy_helper.from_array(
        np.ascontiguousarray(values, np.float32), name))
    return name

  def conv(self, name: str, x: str, channels: int, stride: int = 1) -> str:
    """A convolution with its batch norm; channels are those of `x`."""
    t = self._tensors
    kernel = t[f"{name}/conv"].astype(np.float64)
    scale = t[f"{name}/bn/gamma"] / np.sqrt(
        t[f"{name}/bn/moving_variance"].astype(np.float64) + _EPSILON)
    offset = t[f"{name}/bn/beta"] - t[f"{name}/bn/moving_mean"] * scale
    size = kernel.shape[0]
    return self.add(
        "Conv", x, self.constant(f"{name}/kernel", (kernel * scale).transpose(
            3, 2, 0, 1)), self.constant(f"{name}/offset", offset),
        kernel_shape=[size, size], strides=[stride, stride],
        group=channels // kernel.shape[2],
        **(self._padding if size > 1 else {"pads": [0, 0, 0, 0]}))

  def dense(self, name: str, x: str) -> str:
    """A 1x1 convolution with a bias."""
    return self.add(
        "Conv", x, self.constant(f"{name}/kernel", self._tensors[
            f"{name}/kernel"].transpose(3, 2, 0, 1)),
        self.constant(f"{name}/bias", self._tensors[f"{name}/bias"]),
        kernel_shape=[1, 1])


def model(tensors: Mapping[str, np.ndarray], convention: str
          ) -> onnx.ModelProto:
  """Returns a network: images float32 [batch, 3, height, width] to logits.

  Args:
    tensors: Canonical name -> float32 array, with a head.
    convention: How 3x3 convolutions pad: "keras" or "torch".
  """
  g = _Graph(tensors, convention)
  channels = tensors["stem/conv"].shape[-1]
  x = g.add("Relu", g.conv("stem", "images", 3, 2))
  for stage in itertools.count(1):
    if f"stage{stage}/block1/a/conv" not in tensors:
      break
    for block in itertools.count(1):
      name = f"stage{stage}/block{block}"
      if f"{name}/a/conv" not in tensors:
        break
      width = tensors[f"{name}/a/conv"].shape[-1]
      stride = 2 if block == 1 else 1
      y = g.add("Relu", g.conv(f"{name}/a", x, channels))
      y = g.add("Relu", g.conv(f"{name}/b", y, width, stride))
      if f"{name}/se/squeeze/kernel" in tensors:
        gate = g.add("GlobalAveragePool", y)
        gate = g.add("Relu", g.dense(f"{name}/se/squeeze", gate))
        y = g.add("Mul", y, g.add(
            "Sigmoid", g.dense(f"{name}/se/excite", gate)))
      y = g.conv(f"{name}/c", y, width)
      if f"{name}/shortcut/conv" in tensors:
        x = g.conv(f"{name}/shortcut", x, channels, stride)
      x, channels = g.add("Relu", g.add("Add", y, x)), width
  features = g.add("Flatten", g.add("GlobalAveragePool", x))
  logits = g.add("Gemm", features,
                 g.constant("head/kernel", tensors["head/kernel"]),
                 g.constant("head/bias", tensors["head/bias"]))
  classes = tensors["head/bias"].shape[0]
  graph = helper.make_graph(
      g.nodes, "regnet",
      [helper.make_tensor_value_info(
          "images", onnx.TensorProto.FLOAT, ["batch", 3, "height", "width"])],
      [helper.make_tensor_value_info(
          logits, onnx.TensorProto.FLOAT, ["batch", classes])], g.constants)
  made = helper.make_model(
      graph, opset_imports=[helper.make_opsetid("", _OPSET)])
  made.ir_version = _IR_VERSION  # That older runtimes know as well.
  return made


def main() -> None:
  source, convention, target = sys.argv[1:]
  with np.load(source) as stored:
    onnx.save(model({name: stored[name] for name in stored.files}, convention),
              target)


if __name__ == "__main__":
  main()
