"""RegNet as a plain tf.Module: stem, four stages of blocks, dense head.

Source: "Designing Network Design Spaces" (arXiv:2003.13678) and the sources'
own programs for padding and widths (`variants.Convention`). Convolutions call
tf.nn.conv2d with grouped kernels directly; a Keras layer with groups goes
through a compiled function that trains some 25 times slower on a CPU.

The network computes in the dtype of its images (mixed precision): variables,
statistics, gates and what comes out pooled are float32 in any case.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence

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
  """The variables of one batch normalisation."""

  def __init__(self, prefix: str, tensors: Tensors):
    super().__init__()
    self.gamma = _variable(f"{prefix}/gamma", tensors)
    self.beta = _variable(f"{prefix}/beta", tensors)
    self.moving_mean = _variable(f"{prefix}/moving_mean", tensors)
    self.moving_variance = _variable(f"{prefix}/moving_variance", tensors)


class Pass:
  """One pass through the network, as it is traced: how it normalises.

  What batch norms compute of their own variables is computed for all of them at
  once. Fifty times five operations on a few numbers each made up a quarter of
  the graph, and of the time that it takes to trace, to load and to optimise it.
  """

  def __init__(self, training: bool, dtype: tf.DType,
               modules: Iterable[tf.Module]):
    """Starts a pass.

    Args:
      training: Whether to normalise by the batch, and note its statistics.
      dtype: Of the images.
      modules: Those that it goes through, at least.
    """
    self.training = training
    self._updates: list[tuple[tf.Variable, tf.Tensor]] = []
    self._folded: dict[BatchNorm, tuple[tf.Tensor, tf.Tensor]] = {}
    folded = [m.bn for m in modules
              if isinstance(m, (ConvBN, GroupedConvBN)) and m.is_folded(dtype)]
    if training or not folded:
      return
    gamma, beta, mean, variance = (
        tf.concat(list(vectors), 0) for vectors in zip(*(
            (n.gamma, n.beta, n.moving_mean, n.moving_variance)
            for n in folded), strict=True))
    scale = gamma * tf.math.rsqrt(variance + variants.BATCH_NORM_EPSILON)
    offset = tf.cast(beta - mean * scale, dtype)
    widths = [n.gamma.shape[0] for n in folded]
    self._folded = dict(zip(
        folded, zip(tf.split(scale, widths), tf.split(offset, widths),
                    strict=True), strict=True))

  def scale_and_offset(self, norm: BatchNorm) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns [width] each, of float32 and of the images' dtype.

    Inference is x * scale + offset.
    """
    return self._folded[norm]

  def normalised(self, norm: BatchNorm, x: tf.Tensor) -> tf.Tensor:
    """Returns `x` normalised; in training by its statistics, noting them."""
    if not self.training:
      return tf.compat.v1.nn.fused_batch_norm(
          x, norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance,
          epsilon=variants.BATCH_NORM_EPSILON, is_training=False)[0]
    y, mean, variance = tf.compat.v1.nn.fused_batch_norm(
        x, norm.gamma, norm.beta, epsilon=variants.BATCH_NORM_EPSILON,
        is_training=True)
    # The variance that comes back has Bessel's correction, as it should: torch
    # and Keras' fused layer keep the same.
    self._updates += [(norm.moving_mean, mean),
                      (norm.moving_variance, variance)]
    return y

  def update_statistics(self, rate: tf.Tensor) -> None:
    """Moves the statistics to those noted, by `rate` of the difference."""
    if not self._updates:
      return
    moving, batch = zip(*self._updates, strict=True)
    change = (tf.concat(list(moving), 0) - tf.concat(list(batch), 0)) * rate
    for variable, part in zip(
        moving, tf.split(change, [v.shape[0] for v in moving]), strict=True):
      variable.assign_sub(part)


class ConvBN(tf.Module):
  """A convolution without bias, then batch norm."""

  def __init__(self, prefix: str, tensors: Tensors, stride: int = 1,
               padding: str = "SAME"):
    super().__init__()
    self.kernel = _variable(f"{prefix}/conv", tensors)
    self.bn = BatchNorm(f"{prefix}/bn", tensors)
    self._stride = stride
    self._padding = padding

  def is_folded(self, dtype: tf.DType) -> bool:
    """Returns whether batch norm goes into the kernel, except in training."""
    # Grappler does not fuse batch norm itself in bfloat16.
    return (dtype != tf.float32
            or self.kernel.shape.num_elements() <= _FOLDED_KERNEL)

  def __call__(self, x: tf.Tensor, this: Pass,
               addend: tf.Tensor | None = None) -> tf.Tensor:
    """Returns the convolution of `x`, normalised, plus the addend if any."""
    if this.training or not self.is_folded(x.dtype):
      x = this.normalised(self.bn, self._conv(x, self.kernel))
      return x if addend is None else x + addend
    scale, offset = this.scale_and_offset(self.bn)
    x = tf.nn.bias_add(self._conv(x, self.kernel * scale), offset)
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

  def is_folded(self, dtype: tf.DType) -> bool:
    """As ConvBN's. It always is."""
    # Scaling the small kernel, not the large output, saves a pass over memory.
    del dtype
    return True

  def __call__(self, x: tf.Tensor, this: Pass) -> tf.Tensor:
    if this.training:
      return this.normalised(
          self.bn, self._conv(x, tf.cast(self.kernel, x.dtype)))
    scale, offset = this.scale_and_offset(self.bn)
    with tf.control_dependencies([x] if self._is_large else []):
      kernel = tf.cast(self.kernel * scale, x.dtype)
    # Grappler would fuse a batch norm or a BiasAdd into the convolution, and
    # without oneDNN (TF_ENABLE_ONEDNN_OPTS=0, Arm, Apple) the fused kernel
    # refuses groups. It fuses a plain sum with oneDNN alone.
    return self._conv(x, kernel) + offset


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
    gate = tf.reshape(gate, [-1, 1, 1, gate.shape[-1]])
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

  def __call__(self, x: tf.Tensor, this: Pass) -> tf.Tensor:
    y = tf.nn.relu(self.a(x, this))
    y = tf.nn.relu(self.b(y, this))
    if self.se is not None:
      y = self.se(y, this.training)
    if self.shortcut is not None:
      x = self.shortcut(x, this)
    return tf.nn.relu(self.c(y, this, x))


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
    this = Pass(training, images.dtype, self.submodules)
    x = tf.nn.relu(self.stem(images, this))
    endpoints = {}
    for place, block in self.blocks:
      x = block(x, this)
      endpoints[f"stage{place.stage}"] = x
    this.update_statistics(1.0 - momentum)
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
