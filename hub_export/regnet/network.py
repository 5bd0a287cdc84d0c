"""RegNet as a plain tf.Module: stem, four stages of blocks, dense head.

Source: "Designing Network Design Spaces" (arXiv:2003.13678) and the sources'
own programs for padding and widths (`variants.Convention`). Convolutions call
tf.nn.conv2d with grouped kernels directly; a Keras layer with groups goes
through a compiled function that trains some 25 times slower on a CPU.
"""

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from hub_export.regnet import grouped
from hub_export.regnet import variants

Tensors = Mapping[str, np.ndarray]
# Elements from which on a kernel is scaled only when its turn has come. Else
# all are scaled at once before the first is used, 620 MB in a RegNetY-128GF;
# in small networks waiting costs more (3 to 5 % of a 600MF's time per image).
_LARGE_KERNEL = 1 << 20


class BatchNorm(tf.Module):
  """Batch normalisation with the momentum as an argument of the call."""

  def __init__(self, prefix: str, tensors: Tensors):
    super().__init__()
    self.gamma = _variable(f"{prefix}/gamma", tensors)
    self.beta = _variable(f"{prefix}/beta", tensors)
    self.moving_mean = _variable(f"{prefix}/moving_mean", tensors)
    self.moving_variance = _variable(f"{prefix}/moving_variance", tensors)

  def __call__(self, x: tf.Tensor, training: bool,
               momentum: tf.Tensor) -> tf.Tensor:
    """Returns `x` normalised; with `training` by, and into, its statistics."""
    if not training:
      return tf.compat.v1.nn.fused_batch_norm(
          x, self.gamma, self.beta, self.moving_mean, self.moving_variance,
          epsilon=variants.BATCH_NORM_EPSILON, is_training=False)[0]
    y, mean, variance = tf.compat.v1.nn.fused_batch_norm(
        x, self.gamma, self.beta, epsilon=variants.BATCH_NORM_EPSILON,
        is_training=True)
    # The variance that comes back has Bessel's correction, as it should: torch
    # and Keras' fused layer keep the same.
    for moving, batch in ((self.moving_mean, mean),
                          (self.moving_variance, variance)):
      moving.assign_sub((moving - batch) * (1.0 - momentum))
    return y

  def scale_and_offset(self) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns float32 [width] each: inference is x * scale + offset."""
    scale = self.gamma * tf.math.rsqrt(
        self.moving_variance + variants.BATCH_NORM_EPSILON)
    return scale, self.beta - self.moving_mean * scale


class ConvBN(tf.Module):
  """A convolution without bias, then batch norm."""

  def __init__(self, prefix: str, tensors: Tensors, stride: int = 1,
               padding: str = "SAME"):
    super().__init__()
    self.kernel = _variable(f"{prefix}/conv", tensors)
    self.bn = BatchNorm(f"{prefix}/bn", tensors)
    self._stride = stride
    self._padding = padding

  def __call__(self, x: tf.Tensor, training: bool,
               momentum: tf.Tensor) -> tf.Tensor:
    x = tf.nn.conv2d(
        *grouped.padded(x, self._stride, self._padding, self.kernel))
    return self.bn(x, training, momentum)


class GroupedConvBN(tf.Module):
  """A grouped 3x3 convolution without bias, then batch norm."""

  def __init__(self, prefix: str, tensors: Tensors, stride: int,
               padding: str, portable: bool):
    super().__init__()
    self.kernel = _variable(f"{prefix}/conv", tensors)
    self.bn = BatchNorm(f"{prefix}/bn", tensors)
    self._conv = functools.partial(
        grouped.conv2d_portable if portable else grouped.conv2d,
        stride=stride, padding=padding)
    self._is_large = self.kernel.shape.num_elements() >= _LARGE_KERNEL

  def __call__(self, x: tf.Tensor, training: bool,
               momentum: tf.Tensor) -> tf.Tensor:
    if training:
      return self.bn(self._conv(x, self.kernel), training, momentum)
    # Grappler would fuse a batch norm, a bias or an addition into the
    # convolution, and without oneDNN (TF_ENABLE_ONEDNN_OPTS=0, Arm, Apple) the
    # fused kernel refuses groups. It does not fuse a subtraction. Scaling the
    # small kernel, not the large output, saves a pass over memory.
    scale, offset = self.bn.scale_and_offset()
    with tf.control_dependencies([x] if self._is_large else []):
      kernel = self.kernel * scale
    return self._conv(x, kernel) - (-offset)


class SqueezeExcite(tf.Module):
  """Squeeze-and-excitation (arXiv:1709.01507): channels scaled by a gate."""

  def __init__(self, prefix: str, tensors: Tensors):
    super().__init__()
    self.squeeze_kernel = _variable(f"{prefix}/squeeze/kernel", tensors)
    self.squeeze_bias = _variable(f"{prefix}/squeeze/bias", tensors)
    self.excite_kernel = _variable(f"{prefix}/excite/kernel", tensors)
    self.excite_bias = _variable(f"{prefix}/excite/bias", tensors)

  def __call__(self, x: tf.Tensor) -> tf.Tensor:
    # 1x1 convolutions of a 1x1 image are matrix products, at less overhead.
    gate = tf.reduce_mean(x, axis=[1, 2])
    gate = tf.nn.relu(tf.nn.bias_add(
        tf.matmul(gate, self.squeeze_kernel[0, 0]), self.squeeze_bias))
    gate = tf.nn.sigmoid(tf.nn.bias_add(
        tf.matmul(gate, self.excite_kernel[0, 0]), self.excite_bias))
    return x * gate[:, tf.newaxis, tf.newaxis]


class Block(tf.Module):
  """1x1, grouped 3x3, squeeze-and-excitation, 1x1; around them a shortcut.

  RegNetX's have no squeeze-and-excitation.
  """

  def __init__(self, block: variants.Block, padding: str, tensors: Tensors,
               portable: bool):
    super().__init__()
    self.a = ConvBN(f"{block.name}/a", tensors)
    self.b = GroupedConvBN(f"{block.name}/b", tensors, block.stride, padding,
                           portable)
    self.se = None
    if block.se_width:
      self.se = SqueezeExcite(f"{block.name}/se", tensors)
    self.c = ConvBN(f"{block.name}/c", tensors)
    self.shortcut = None
    if block.stride != 1:
      self.shortcut = ConvBN(f"{block.name}/shortcut", tensors, block.stride)

  def __call__(self, x: tf.Tensor, training: bool,
               momentum: tf.Tensor) -> tf.Tensor:
    y = tf.nn.relu(self.a(x, training, momentum))
    y = tf.nn.relu(self.b(y, training, momentum))
    if self.se is not None:
      y = self.se(y)
    y = self.c(y, training, momentum)
    if self.shortcut is not None:
      x = self.shortcut(x, training, momentum)
    return tf.nn.relu(x + y)


class Network(tf.Module):
  """A RegNet whose every variable is made from one canonical tensor."""

  def __init__(self, arch: variants.Architecture, tensors: Tensors,
               mean: Sequence[float], std: Sequence[float],
               portable: bool = False):
    """Builds the network.

    Args:
      arch: What to build.
      tensors: Canonical name -> float32 array, exactly those of
        `variants.tensor_shapes`, with or without a head. Each is asked for
        once, so that a mapping may read it from a file then.
      mean: What images are normalised by, for R, G and B, on the scale of
        [0, 1].
      std: The same.
      portable: Whether the gradients have to work on CPUs without oneDNN.

    Raises:
      ValueError: if names or shapes of `tensors` are not the architecture's.
    """
    super().__init__()
    self._head = "head/kernel" in tensors
    # Of the head, any number of classes will do.
    expected = variants.tensor_shapes(arch, 1 if self._head else 0)
    if set(tensors) != set(expected):
      raise ValueError(
          "tensors do not fit the architecture; they differ in "
          f"{sorted(set(tensors) ^ set(expected))[:6]}")
    self.architecture = arch
    self._mean = tuple(mean)
    self._std = tuple(std)
    self.stem = ConvBN("stem", tensors, variants.STRIDE,
                       arch.convention.stem_padding)
    self.blocks = [(b, Block(b, arch.convention.padding, tensors, portable))
                   for b in variants.blocks(arch)]
    if self._head:
      self.head_kernel = _variable("head/kernel", tensors)
      self.head_bias = _variable("head/bias", tensors)
    actual = {v.name.removesuffix(":0"): tuple(v.shape) for v in self.variables}
    classes = actual["head/kernel"][-1] if self._head else 0
    expected = variants.tensor_shapes(arch, classes)
    if actual != expected:
      raise ValueError(
          "tensors do not fit the architecture; they differ in "
          f"{sorted(set(actual.items()) ^ set(expected.items()))[:6]}")

  def features(self, images: tf.Tensor, training: bool,
               momentum: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Returns the pooled features and every stage's output.

    Args:
      images: float32 [batch, height, width, 3], RGB in [0, 1], sides >= 32.
      training: Whether batch norm uses, and updates, statistics of the batch.
      momentum: float32 scalar in [0, 1], the weight of the old statistics.

    Returns:
      float32 [batch, feature_dim]; and {"stage1": float32 [batch, h, w, c]}.
    """
    if any(self._mean) or any(s != 1 for s in self._std):
      images = (images - tf.constant(self._mean)) / tf.constant(self._std)
    x = tf.nn.relu(self.stem(images, training, momentum))
    endpoints = {}
    for place, block in self.blocks:
      x = block(x, training, momentum)
      endpoints[f"stage{place.stage}"] = x
    return tf.reduce_mean(x, axis=[1, 2]), endpoints

  def logits(self, features: tf.Tensor) -> tf.Tensor:
    """Returns float32 [batch, classes] for float32 [batch, feature_dim]."""
    return tf.nn.bias_add(tf.matmul(features, self.head_kernel),
                          self.head_bias)


def _variable(name: str, tensors: Tensors) -> tf.Variable:
  """Returns the variable of one canonical tensor."""
  if variants.is_statistic(name):
    # Replicas of MirroredStrategy update their own copies, averaged when read;
    # with the defaults only the first replica's would ever be seen.
    return tf.Variable(tensors[name], trainable=False, name=name,
                       synchronization=tf.VariableSynchronization.ON_READ,
                       aggregation=tf.VariableAggregation.MEAN)
  return tf.Variable(tensors[name], name=name)


def initial_tensors(arch: variants.Architecture, num_classes: int,
                    seed: int) -> dict[str, np.ndarray]:
  """Returns fresh float32 tensors to train from.

  Convolutions as in the paper's code: normal, variance 2 / (k * k * c_out per
  group); the head 0.01; batch norm gamma 1.
  """
  random = np.random.default_rng(seed)
  tensors = {}
  for name, shape in variants.tensor_shapes(arch, num_classes).items():
    if name.endswith(("/gamma", "/moving_variance")):
      tensor = np.ones(shape)
    elif len(shape) == 1:
      tensor = np.zeros(shape)
    elif name == "head/kernel":
      tensor = random.normal(0, 0.01, shape)
    else:
      tensor = random.normal(0, np.sqrt(2 / (shape[0] * shape[1] * shape[3])),
                             shape)
    tensors[name] = tensor.astype(np.float32)
  return tensors
