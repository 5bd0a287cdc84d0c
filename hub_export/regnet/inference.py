"""RegNet for inference alone: no variables, batch norm inside the kernels.

Every form but main and portable is made from this network. Batch norm at
inference is a scale and an offset per channel, so the scale goes into the
kernel before it and the offset becomes a bias. That is computed in float64 and
rounded once, to what the form keeps its weights in.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from hub_export import hub_module
from hub_export.regnet import grouped
from hub_export.regnet import variants

Tensors = hub_module.Tensors


class Network:
  """A RegNet whose weights are constants of the graphs that it is traced in.

  Nothing here keeps a tensor of TensorFlow's: each call makes its constants
  where it is traced, so that a converter sees them as such.
  """

  def __init__(self, arch: variants.Architecture, tensors: Tensors,
               mean: Sequence[float], std: Sequence[float],
               build: hub_module.Build = hub_module.Build()):
    """Folds the weights.

    Args:
      arch: What to build.
      tensors: Canonical name -> float32 array, exactly those of
        `variants.tensor_shapes`, with or without a head. Each is asked for
        once.
      mean: What images are normalised by, for R, G and B, on the scale of
        [0, 1].
      std: The same.
      build: How the graph is put together, and in which precision.
    """
    self.architecture = arch
    self.has_head = "head/kernel" in tensors
    self._build = build
    self._dtype = tf.as_dtype(build.dtype)
    self._mean = np.asarray(mean, np.float32)
    # The std goes into the stem's kernel; the mean cannot, as a border of
    # zeros comes after it.
    per_channel = 1.0 / np.asarray(std, np.float64)
    self._weights: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    self._fold("stem", tensors, per_channel[:, None])
    for block in variants.blocks(arch):
      for part in ("a", "b", "c", *(["shortcut"] if block.stride != 1 else [])):
        self._fold(f"{block.name}/{part}", tensors)
      if block.se_width:
        for part in ("squeeze", "excite"):
          name = f"{block.name}/se/{part}"
          self._weights[name] = self._rounded(
              tensors[f"{name}/kernel"], tensors[f"{name}/bias"])
    if self.has_head:
      # Of 32 bits in every precision: it is small, and its errors are not
      # averaged out by anything after it.
      self._weights["head"] = (tensors["head/kernel"].astype(np.float32),
                               tensors["head/bias"].astype(np.float32))

  @property
  def num_bytes(self) -> int:
    """The size of all constants."""
    return sum(array.nbytes for pair in self._weights.values()
               for array in pair)

  def constants(self, head: bool) -> dict[str, np.ndarray]:
    """Returns what the graphs hold; see hub_module.Network."""
    found = {"mean": self._mean} if self._mean.any() else {}
    for name, (kernel, bias) in self._weights.items():
      if name == "head" and not head:
        continue
      is_dense = "/se/" in name and not self._build.keeps_images
      found[f"{name}/kernel"] = kernel[0, 0] if is_dense else kernel
      found[f"{name}/bias"] = bias
    return found

  def features(self, images: tf.Tensor) -> tf.Tensor:
    """Returns the pooled features.

    Args:
      images: float32 [batch, height, width, 3], RGB in [0, 1], sides >= 32.

    Returns:
      float32 [batch, feature_dim].
    """
    x = tf.cast(self._centred(images), self._dtype)
    conventions = self.architecture.convention
    x = tf.nn.relu(self._conv("stem", x, variants.STRIDE,
                              conventions.stem_padding))
    for block in variants.blocks(self.architecture):
      x = self._block(block, x, conventions.padding)
    return tf.cast(tf.reduce_mean(x, axis=[1, 2]), tf.float32)

  def logits(self, features: tf.Tensor) -> tf.Tensor:
    """Returns float32 [batch, classes] for float32 [batch, feature_dim]."""
    kernel, bias = self._weights["head"]
    return tf.nn.bias_add(
        tf.matmul(features, _constant(kernel, "head/kernel")),
        _constant(bias, "head/bias"))

  def _centred(self, images: tf.Tensor) -> tf.Tensor:
    """Returns the images less the mean."""
    if not self._mean.any():
      return images
    mean = _constant(self._mean, "mean")
    if not self._build.ties_shapes:
      return images - mean
    # Row by row: repeating three numbers along the last of four dimensions
    # takes TensorFlow's CPU kernel twice as long.
    shape = tf.shape(images)
    rows = tf.reshape(images, [-1, 3 * shape[2]])
    return tf.reshape(rows - tf.tile(mean, [shape[2]]), shape)

  def _block(self, block: variants.Block, x: tf.Tensor, padding: str
             ) -> tf.Tensor:
    name = block.name
    y = tf.nn.relu(self._conv(f"{name}/a", x, 1, "SAME"))
    y = tf.nn.relu(self._conv(f"{name}/b", y, block.stride, padding))
    if block.se_width:
      y = self._squeeze_excite(f"{name}/se", y)
    if block.stride != 1:
      x = self._conv(f"{name}/shortcut", x, block.stride, padding)
      if self._build.ties_shapes:
        x = tf.reshape(x, tf.shape(y))
    y = self._conv(f"{name}/c", y, 1, "SAME")
    return tf.nn.relu(y + x)

  def _conv(self, name: str, x: tf.Tensor, stride: int, padding: str
            ) -> tf.Tensor:
    """Returns a convolution and its bias; the kernel's shape tells groups."""
    kernel, bias = self._weights[name]
    if kernel.shape[0] == 1:
      padding = "SAME"  # Nothing is padded, and none of the rules applies.
    groups = x.shape[-1] // kernel.shape[2]
    if groups > 1 and self._build.groups == "split":
      return self._split_conv(name, x, stride, padding, groups)
    bias = _constant(bias, f"{name}/bias")
    x = tf.nn.conv2d(*grouped.padded(
        x, stride, padding, _constant(kernel, f"{name}/kernel")))
    if groups > 1:
      # Grappler fuses a BiasAdd into any convolution, and without oneDNN the
      # fused kernel refuses groups. It fuses a plain sum with oneDNN alone
      # (IsBiasSemanticAdd in TensorFlow 2.21's remapper.cc).
      return x + bias
    return tf.nn.bias_add(x, bias)

  def _split_conv(self, name: str, x: tf.Tensor, stride: int, padding: str,
                  groups: int) -> tf.Tensor:
    """Returns a grouped convolution as one plain convolution per group."""
    kernel, bias = self._weights[name]
    x, _, stride, padding = grouped.padded(x, stride, padding, None)
    parts = [tf.nn.conv2d(part, _constant(weights, f"{name}/kernel"), stride,
                          padding)
             for part, weights in zip(
                 tf.split(x, groups, axis=-1),
                 np.split(kernel, groups, axis=-1), strict=True)]
    return tf.nn.bias_add(tf.concat(parts, axis=-1),
                          _constant(bias, f"{name}/bias"))

  def _squeeze_excite(self, name: str, x: tf.Tensor) -> tf.Tensor:
    keeps_images = self._build.keeps_images
    gate = tf.reduce_mean(x, axis=[1, 2], keepdims=keeps_images)
    gate = tf.nn.relu(self._dense(f"{name}/squeeze", gate))
    gate = tf.nn.sigmoid(self._dense(f"{name}/excite", gate))
    if not keeps_images:
      # Slicing with tf.newaxis would lose that the batch is the same; see
      # hub_module.Build.
      gate = tf.expand_dims(tf.expand_dims(gate, 1), 1)
    return x * gate

  def _dense(self, name: str, x: tf.Tensor) -> tf.Tensor:
    """Returns a dense layer of [batch, channels], or of images of one pixel."""
    kernel, bias = self._weights[name]
    if self._build.keeps_images:
      x = tf.nn.conv2d(x, _constant(kernel, f"{name}/kernel"), 1, "VALID")
    else:
      x = tf.matmul(x, _constant(kernel[0, 0], f"{name}/kernel"))
    return tf.nn.bias_add(x, _constant(bias, f"{name}/bias"))

  def _fold(self, name: str, tensors: Tensors,
            per_input: np.ndarray | float = 1.0) -> None:
    """Keeps a convolution with its batch norm inside.

    Args:
      name: Canonical prefix of the convolution.
      tensors: All.
      per_input: What the kernel is scaled by as well, by input channel.
    """
    gamma, beta, mean, variance = (
        tensors[f"{name}/bn/{leaf}"].astype(np.float64)
        for leaf in ("gamma", "beta", "moving_mean", "moving_variance"))
    scale = gamma / np.sqrt(variance + variants.BATCH_NORM_EPSILON)
    kernel = tensors[f"{name}/conv"].astype(np.float64) * scale * per_input
    self._weights[name] = self._rounded(kernel, beta - mean * scale)

  def _rounded(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns arrays in the type that weights are kept in."""
    return tuple(a.astype(self._dtype.as_numpy_dtype) for a in arrays)


def _constant(value: np.ndarray, name: str) -> tf.Tensor:
  """Returns a constant that can be found again in the graph."""
  return tf.constant(value, name=hub_module.WEIGHTS_SCOPE + name)
