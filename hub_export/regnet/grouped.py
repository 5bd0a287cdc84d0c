"""Grouped 3x3 convolutions that a CPU can train, with oneDNN and without.

TensorFlow's own gradients of a grouped convolution need oneDNN on a CPU:
Conv2DBackpropInput and Conv2DBackpropFilter of the plain kernels refuse groups
(seen in 2.21 with TF_ENABLE_ONEDNN_OPTS=0; Arm and Apple builds lack oneDNN).
The forward kernels take groups everywhere, so `conv2d_portable` writes both
gradients as forward convolutions:

* by the images: the upstream gradient, spread by the stride, convolved with the
  kernel turned by 180 degrees and its in- and outputs exchanged in each group;
* by the kernel: batch and channels change places. One group's input channels
  become the batch, the images become the input channels, and the upstream
  gradient becomes the kernel; each group stays a group.
"""

import tensorflow as tf

_SIZE = 3  # The kernel's height and width.


def conv2d(images: tf.Tensor, kernel: tf.Tensor, stride: int,
           padding: str = "SAME") -> tf.Tensor:
  """Returns the grouped convolution, TensorFlow's own way: the fastest.

  Args:
    images: float32 [batch, height, width, groups * group_width].
    kernel: float32 [3, 3, group_width, width], HWIO with I per group.
    stride: In both directions, 1 or 2.
    padding: "SAME" as TensorFlow has it, or "SYMMETRIC": one pixel of zeros on
      every side, as torch has it. They differ for even sizes at stride 2.

  Returns:
    float32 [batch, ceil(height / stride), ceil(width / stride), width].
  """
  return tf.nn.conv2d(*padded(images, stride, padding, kernel))


def padded(images: tf.Tensor, stride: int, padding: str,
           kernel: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, int, str]:
  """Returns the arguments for tf.nn.conv2d by a 3x3 kernel.

  Explicit paddings would be shorter, but a grouped convolution with them has no
  gradient on a CPU (TensorFlow 2.21, with oneDNN as well), and costs more.

  Args:
    images: float32 [batch, height, width, channels].
    stride: In both directions.
    padding: "SAME", "VALID" or "SYMMETRIC".
    kernel: float32 [3, 3, channels per group, width].
  """
  if padding == "SYMMETRIC":
    if stride == 1:
      return images, kernel, stride, "SAME"  # The same then.
    images = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]])
    return images, kernel, stride, "VALID"
  return images, kernel, stride, padding


def conv2d_portable(images: tf.Tensor, kernel: tf.Tensor, stride: int,
                    padding: str = "SAME") -> tf.Tensor:
  """Returns the same as `conv2d`; its gradients work without oneDNN, too."""

  images, _, _, padding = padded(images, stride, padding, kernel)

  @tf.custom_gradient
  def conv(x, w):
    def grad(dy):
      return (_images_gradient(dy, w, tf.shape(x), stride, padding),
              _kernel_gradient(dy, x, w.shape, stride, padding))
    return tf.nn.conv2d(x, w, stride, padding), grad

  return conv(images, kernel)


def _padding(size: tf.Tensor, reduced: tf.Tensor, stride: int,
             padding: str) -> tuple[tf.Tensor | int, tf.Tensor | int]:
  """Returns what is padded before and after one side (TensorFlow's rule)."""
  if padding == "VALID":
    return 0, 0
  total = tf.maximum((reduced - 1) * stride + _SIZE - size, 0)
  return total // 2, total - total // 2


def _images_gradient(dy: tf.Tensor, kernel: tf.Tensor, shape: tf.Tensor,
                     stride: int, padding: str) -> tf.Tensor:
  """Returns the gradient by the images, of the given shape."""
  size, _, group_in, width = kernel.shape
  groups = shape[3] // group_in
  turned = tf.reshape(kernel[::-1, ::-1], [size, size, group_in, groups, -1])
  turned = tf.reshape(tf.transpose(turned, [0, 1, 4, 3, 2]),
                      [size, size, width // (shape[3] // group_in), shape[3]])
  if stride == 1:
    return tf.nn.conv2d(dy, turned, 1, "SAME")
  spread = _spread(dy, stride)
  pads = [[0, 0]]
  for axis in (1, 2):
    before = (_SIZE - 1) - _padding(
        shape[axis], tf.shape(dy)[axis], stride, padding)[0]
    after = shape[axis] + _SIZE - 1 - before - tf.shape(spread)[axis]
    pads.append([before, after])
  pads.append([0, 0])
  return tf.nn.conv2d(tf.pad(spread, pads), turned, 1, "VALID")


def _spread(images: tf.Tensor, stride: int) -> tf.Tensor:
  """Returns the images with `stride - 1` rows and columns of zeros between."""
  batch, height, width, channels = tf.unstack(tf.shape(images))
  images = tf.reshape(images, [batch, height, 1, width, 1, channels])
  gap = [0, stride - 1]
  images = tf.pad(images, [[0, 0], [0, 0], gap, [0, 0], gap, [0, 0]])
  images = tf.reshape(
      images, [batch, height * stride, width * stride, channels])
  # What follows the last row and column is padding, counted by the caller.
  return images[:, :-(stride - 1), :-(stride - 1)]


def _kernel_gradient(dy: tf.Tensor, images: tf.Tensor, kernel_shape,
                     stride: int, padding: str) -> tf.Tensor:
  """Returns the gradient by the kernel, of the given static shape."""
  batch, height, width, channels = tf.unstack(tf.shape(images))
  group_in = kernel_shape[2]
  groups = channels // group_in
  x = tf.reshape(images, [batch, height, width, groups, group_in])
  x = tf.reshape(tf.transpose(x, [4, 1, 2, 3, 0]),
                 [group_in, height, width, groups * batch])
  pads = [_padding(tf.shape(images)[axis], tf.shape(dy)[axis], stride, padding)
          for axis in (1, 2)]
  x = tf.pad(x, [[0, 0], *pads, [0, 0]])
  kernel = tf.transpose(dy, [1, 2, 0, 3])
  out = tf.nn.conv2d(x, kernel, 1, "VALID", dilations=stride)
  # With stride 2 a size that "SAME" did not use up leaves a fourth row.
  out = tf.transpose(out[:, :_SIZE, :_SIZE], [1, 2, 0, 3])
  return tf.ensure_shape(out, kernel_shape)
