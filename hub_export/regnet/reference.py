"""What a RegNet makes of images, computed apart from the network.

The golden outputs of an export come from here, so that the export is held
against its checkpoint and not against itself. What counts is that nothing is
shared with the network: this is NumPy, in float64; depths, widths, groups and
squeeze-and-excitation are read off the tensors' names and shapes; epsilon,
strides and padding are written down again, from the sources' own programs
(pycls' anynet.py, timm's and tf_keras' regnet.py, the regnety project). Slow,
and meant for a few small images.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

_EPSILON = 1e-5
# Rows or columns of zeros (before, after) a side that is convolved by 3x3 in
# steps of 2, for even and for odd sides; in steps of 1 it is always (1, 1).
_TENSORFLOW = {"even": (0, 1), "odd": (1, 1)}
_TORCH = {"even": (1, 1), "odd": (1, 1)}
_NONE = {"even": (0, 0), "odd": (0, 0)}
# Convention -> padding of the stem, and of the blocks.
_PADDINGS = {"keras": (_TENSORFLOW, _TENSORFLOW),
             "regnety": (_NONE, _TENSORFLOW),
             "torch": (_TORCH, _TORCH)}

Tensors = Mapping[str, np.ndarray]


def outputs(tensors: Tensors, convention: str, mean: Sequence[float],
            std: Sequence[float], images: np.ndarray,
            dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray | None]:
  """Returns pooled features, and logits where there is a head.

  Args:
    tensors: Canonical name -> float32 array. Each is asked for once and let go
      of before the next, so that a mapping may read it from a file then.
    convention: Name of a variants.Convention.
    mean: What images are normalised by, for R, G and B on the scale of [0, 1].
    std: The same.
    images: float32 [batch, height, width, 3], RGB in [0, 1].
    dtype: What to compute in. float32 shows what its rounding costs.

  Returns:
    [batch, feature_dim]; [batch, classes] or None; of that dtype.

  Raises:
    KeyError: if a tensor is missing or the convention is not known.
  """
  stem_padding, padding = _PADDINGS[convention]
  x = images.astype(dtype)
  x = (x - np.asarray(mean, dtype)) / np.asarray(std, dtype)
  x = _relu(_conv_bn(tensors, "stem", x, stem_padding, stride=2))
  for stage in itertools.count(1):
    if f"stage{stage}/block1/a/conv" not in tensors:
      break
    for block in itertools.count(1):
      if f"stage{stage}/block{block}/a/conv" not in tensors:
        break
      x = _block(tensors, f"stage{stage}/block{block}", x, padding,
                 stride=2 if block == 1 else 1)
  features = x.mean(axis=(1, 2))
  if "head/kernel" not in tensors:
    return features, None
  return features, (features @ tensors["head/kernel"].astype(dtype)
                    + tensors["head/bias"].astype(dtype))


def _block(tensors: Tensors, name: str, x: np.ndarray,
           padding: Mapping[str, tuple[int, int]], stride: int) -> np.ndarray:
  y = _relu(_conv_bn(tensors, f"{name}/a", x, padding, 1))
  y = _relu(_conv_bn(tensors, f"{name}/b", y, padding, stride))
  if f"{name}/se/squeeze/kernel" in tensors:
    gate = y.mean(axis=(1, 2), keepdims=True)
    gate = _relu(_dense(tensors, f"{name}/se/squeeze", gate))
    y = y / (1 + np.exp(-_dense(tensors, f"{name}/se/excite", gate)))
  y = _conv_bn(tensors, f"{name}/c", y, padding, 1)
  if f"{name}/shortcut/conv" in tensors:
    x = _conv_bn(tensors, f"{name}/shortcut", x, padding, stride)
  return _relu(x + y)


def _conv_bn(tensors: Tensors, name: str, x: np.ndarray,
             padding: Mapping[str, tuple[int, int]], stride: int
             ) -> np.ndarray:
  """Returns a convolution, grouped or not, and its batch norm."""
  x = _conv(x, tensors[f"{name}/conv"].astype(x.dtype), padding, stride)
  gamma, beta, mean, variance = (
      tensors[f"{name}/bn/{leaf}"].astype(x.dtype)
      for leaf in ("gamma", "beta", "moving_mean", "moving_variance"))
  return (x - mean) / np.sqrt(variance + _EPSILON) * gamma + beta


def _conv(x: np.ndarray, kernel: np.ndarray,
          padding: Mapping[str, tuple[int, int]], stride: int) -> np.ndarray:
  """Returns a convolution by 1x1 or 3x3 as a sum of matrix products.

  Args:
    x: [batch, height, width, channels].
    kernel: [size, size, channels per group, width], of the same dtype.
    padding: Of 3x3 in steps of 2.
    stride: 1 or 2.
  """
  size, _, group_in, width = kernel.shape
  if size > 1:
    x = np.pad(x, [(0, 0), *(
        (1, 1) if stride == 1 else padding["odd" if side % 2 else "even"]
        for side in x.shape[1:3]), (0, 0)])
  batch, *sides, channels = x.shape
  height, wide = ((side - size) // stride + 1 for side in sides)
  groups = channels // group_in
  total = np.zeros((groups, batch * height * wide, width // groups), x.dtype)
  for row, column in itertools.product(range(size), repeat=2):
    part = x[:, row:row + stride * (height - 1) + 1:stride,
             column:column + stride * (wide - 1) + 1:stride]
    part = part.reshape(-1, groups, group_in).swapaxes(0, 1)
    weights = kernel[row, column].reshape(group_in, groups, -1).swapaxes(0, 1)
    total += part @ weights
  return total.swapaxes(0, 1).reshape(batch, height, wide, width)


def _dense(tensors: Tensors, name: str, x: np.ndarray) -> np.ndarray:
  return (x @ tensors[f"{name}/kernel"][0, 0].astype(x.dtype)
          + tensors[f"{name}/bias"].astype(x.dtype))


def _relu(x: np.ndarray) -> np.ndarray:
  return np.maximum(x, 0)
