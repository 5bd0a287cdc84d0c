"""RegNet as a plain tf.Module: stem, four stages of blocks, dense head.

Source: "Designing Network Design Spaces" (arXiv:2003.13678) and the sources'
own programs for padding and widths (`variants.Convention`). Convolutions call
tf.nn.conv2d with grouped kernels directly; a Keras layer with groups goes
through a compiled function that trains some 25 times slower on a CPU.

The network computes in the dtype of its images (mixed precision): variables,
statistics, gates and what comes out pooled are float32 in any case.
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
# Elements up to which batch norm is folded into a 1x1 kernel at each call in
# float32. Then grappler fuses what follows, the residual addition and the ReLU
# included, into one pass over the output. Larger kernels have small outputs,
# and folding costs a pass over the kernel.
_FOLDED_KERNEL = 1 << 17


class BatchNorm(tf.Module):
  """Batch normalisation; `rate` of a call is 1 less the momentum."""

  def __init__(self, prefix: str, tensors: Tensors):
    super().__init__()
    self.gamma = _variable(f"{prefix}/gamma", tensors)
    self.beta = _variable(f"{prefix}/beta", tensors)
    self.moving_mean = _variable(f"{prefix}/moving_mean", tensors)
    self.moving_variance = _variable(f"{prefix}/moving_variance", tensors)

  def __call__(self, x: tf.Tensor, training: bool,
               rate: tf.Tensor) -> tf.Tensor:
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
      moving.assign_sub((moving - batch) * rate)
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

  def __call__(self, x: tf.Tensor, training: bool, rate: tf.Tensor,
               addend: tf.Tensor | None = None) -> tf.Tensor:
    """Returns the convolution of `x`, normalised, plus the addend if any."""
    # Grappler does not fuse batch norm itself in bfloat16.
    is_folded = not training and (
        x.dtype != tf.float32
        or self.kernel.shape.num_elements() <= _FOLDED_KERNEL)
    if not is_folded:
      x = self.bn(self._conv(x, self.kernel), training, rate)
      return x if addend is None else x + addend
    scale, offset = self.bn.scale_and_offset()
    x = tf.nn.bias_add(self._conv(x, self.kernel * scale),
                       tf.cast(offset, x.dtype))
    # Of + it would have to know that the shapes are equal to fuse it.
    return x if addend is None else tf.add_n([x, addend])

  def _conv(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    return tf.nn.conv2d(*grouped.padded(
        x, self._stride, self._padding, tf.cast(kernel, x.dtype)))


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
               rate: tf.Tensor) -> tf.Tensor:
    if training:
      kernel = tf.cast(self.kernel, x.dtype)
      return self.bn(self._conv(x, kernel), training, rate)
    # Grappler would fuse a batch norm or a bias into the convolution, and
    # without oneDNN (TF_ENABLE_ONEDNN_OPTS=0, Arm, Apple) the fused kernel
    # refuses groups. It takes a subtraction for a bias with oneDNN alone.
    # Scaling the small kernel, not the large output, saves a pass over memory.
    scale, offset = self.bn.scale_and_offset()
    with tf.control_dependencies([x] if self._is_large else []):
      kernel = tf.cast(self.kernel * scale, x.dtype)
    return self._conv(x, kernel) - tf.cast(-offset, x.dtype)


class SqueezeExcite(tf.Module):
  """Squeeze-and-excitation (arXiv:1709.01507): channels scaled by a gate."""

  def __init__(self, prefix: str, tensors: Tensors):
    super().__init__()
    self.squeeze_kernel = _variable(f"{prefix}/squeeze/kernel", tensors)
    self.squeeze_bias = _variable(f"{prefix}/squeeze/bias", tensors)
    self.excite_kernel = _variable(f"{prefix}/excite/kernel", tensors)
    self.excite_bias = _variable(f"{prefix}/excite/bias", tensors)

  def __call__(self, x: tf.Tensor, training: bool) -> tf.Tensor:
    # 1x1 convolutions of a 1x1 image are matrix products, at less overhead.
    gate = _pooled(x)
    gate = tf.nn.relu(tf.nn.bias_add(
        tf.matmul(gate, _matrix(self.squeeze_kernel)), self.squeeze_bias))
    gate = tf.nn.sigmoid(tf.nn.bias_add(
        tf.matmul(gate, _matrix(self.excite_kernel)), self.excite_bias))
    gate = gate[:, tf.newaxis, tf.newaxis]
    if training and x.dtype == tf.float16:
      # The gate's gradient is a sum over all pixels, as in `_pooled`.
      return tf.cast(tf.cast(x, tf.float32) * gate, x.dtype)
    return x * tf.cast(gate, x.dtype)


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
               rate: tf.Tensor) -> tf.Tensor:
    y = tf.nn.relu(self.a(x, training, rate))
    y = tf.nn.relu(self.b(y, training, rate))
    if self.se is not None:
      y = self.se(y, training)
    if self.shortcut is not None:
      x = self.shortcut(x, training, rate)
    return tf.nn.relu(self.c(y, training, rate, x))


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
    self._traces = functools.cache(self._trace)
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
      images: [batch, height, width, 3], RGB in [0, 1], sides >= 32, of the
        dtype to compute in: float32, bfloat16 or float16.
      training: Whether batch norm uses, and updates, statistics of the batch.
      momentum: float32 scalar in [0, 1], the weight of the old statistics.

    Returns:
      float32 [batch, feature_dim]; and {"stage1": [batch, h, w, c]} of the
      images' dtype.
    """
    if any(self._mean) or any(s != 1 for s in self._std):
      normalised = (tf.cast(images, tf.float32)
                    - tf.constant(self._mean)) / tf.constant(self._std)
      images = tf.cast(normalised, images.dtype)
    rate = 1.0 - momentum
    x = tf.nn.relu(self.stem(images, training, rate))
    endpoints = {}
    for place, block in self.blocks:
      x = block(x, training, rate)
      endpoints[f"stage{place.stage}"] = x
    return _pooled(tf.cast(x, tf.float32)), endpoints

  def traced_features(
      self, images: tf.Tensor, training: bool,
      momentum: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Returns the same as `features`, by one trace for all that call it."""
    return self._traces(tf.as_dtype(images.dtype), training)(
        images=images, momentum=tf.convert_to_tensor(momentum, tf.float32))

  def _trace(self, dtype: tf.DType,
             training: bool) -> tf.types.experimental.ConcreteFunction:
    return tf.function(self.features, autograph=False).get_concrete_function(
        tf.TensorSpec([None, None, None, 3], dtype), training,
        tf.TensorSpec([], tf.float32))

  def logits(self, features: tf.Tensor) -> tf.Tensor:
    """Returns float32 [batch, classes] for float32 [batch, feature_dim]."""
    return tf.nn.bias_add(tf.matmul(features, self.head_kernel),
                          self.head_bias)


def _pooled(x: tf.Tensor) -> tf.Tensor:
  """Returns float32 [batch, channels], the mean over height and width."""
  # TensorFlow's kernels sum bfloat16 up in float32, but float16 as it is, which
  # ends at 65504: that is 5 in each pixel of 112 x 112.
  if x.dtype == tf.float16:
    x = tf.cast(x, tf.float32)
  return tf.cast(tf.reduce_mean(x, axis=[1, 2]), tf.float32)


def _matrix(kernel: tf.Variable) -> tf.Tensor:
  """Returns a 1x1 kernel as [in, out], uncopied, as kernel[0, 0] is not."""
  return tf.squeeze(kernel, [0, 1])


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
