"""The network of the regnety project (GSoC 2021) in tf_keras, rebuilt.

Written from facts about the project's models, none of its code: what its
checkpoints call their tensors, the depths and widths of its models, the
padding, the squeeze width taken from a block's output width, the preprocessing
inside the model. Attributes are named such that the keys of a checkpoint come
out as the project's: layer_with_weights-1/stage/0/conv1x1_1/kernel and so on.
"""

import tensorflow as tf
import tf_keras
from tf_keras import layers

# Depths, widths and group width of each model. 400MF has another depth than the
# paper's in its third stage.
MODELS = {
    "regnety_200mf": ((1, 1, 4, 7), (24, 56, 152, 368), 8),
    "regnety_400mf": ((1, 3, 3, 6), (48, 104, 208, 440), 8),
    "regnety_600mf": ((1, 3, 7, 4), (48, 112, 256, 608), 16),
    "regnety_800mf": ((1, 3, 8, 2), (64, 128, 320, 768), 16),
}


def _conv(filters, size, stride=1, groups=1, padding="same"):
  return layers.Conv2D(filters, size, stride, padding, groups=groups,
                       use_bias=False)


def _norm():
  return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)


class PreStem(layers.Layer):
  """Pixels in [0, 255] of any size to normalised ones, 224 by 224."""

  def __init__(self):
    super().__init__()
    self.resizing = layers.Resizing(224, 224)
    self.rescaling = layers.Rescaling(1 / 255)
    # ImageNet's mean and variance; as arguments they are no weights.
    self.normalization = layers.Normalization(
        mean=(0.485, 0.456, 0.406), variance=(0.052441, 0.050176, 0.050625))

  def call(self, x, resize=True):
    if resize:
      x = self.resizing(x)
    return self.normalization(self.rescaling(x))


class Stem(layers.Layer):
  """A 3x3 convolution of stride 2 without padding."""

  def __init__(self):
    super().__init__()
    self.conv3x3 = _conv(32, 3, stride=2, padding="valid")
    self.bn = _norm()

  def call(self, x, training=False):
    return tf.nn.relu(self.bn(self.conv3x3(x), training=training))


class SqueezeExcite(layers.Layer):
  """Channels scaled by a gate; both of its convolutions have a bias."""

  def __init__(self, width):
    super().__init__()
    self.squeeze_conv = layers.Conv2D(int(0.25 * width), 1, activation="relu")
    self.excite_conv = layers.Conv2D(width, 1, activation="sigmoid")

  def call(self, x):
    gate = tf.reduce_mean(x, axis=[1, 2], keepdims=True)
    return x * self.excite_conv(self.squeeze_conv(gate))


class YBlock(layers.Layer):
  """1x1, grouped 3x3, squeeze and excite, 1x1, and the shortcut."""

  def __init__(self, width, group_width, stride):
    super().__init__()
    self.conv1x1_1, self.bn1x1_1 = _conv(width, 1), _norm()
    self.conv3x3 = _conv(width, 3, stride, width // group_width)
    self.bn3x3 = _norm()
    self.se = SqueezeExcite(width)
    self.conv1x1_2, self.bn1x1_2 = _conv(width, 1), _norm()
    self.skip_conv = self.bn_skip = None
    if stride == 2:
      self.skip_conv, self.bn_skip = _conv(width, 1, 2), _norm()

  def call(self, x, training=False):
    y = tf.nn.relu(self.bn1x1_1(self.conv1x1_1(x), training=training))
    y = tf.nn.relu(self.bn3x3(self.conv3x3(y), training=training))
    y = self.bn1x1_2(self.conv1x1_2(self.se(y)), training=training)
    if self.skip_conv is not None:
      x = self.bn_skip(self.skip_conv(x), training=training)
    return tf.nn.relu(x + y)


class Stage(layers.Layer):
  """Blocks of one width, the first of stride 2."""

  def __init__(self, depth, width, group_width):
    super().__init__()
    self.stage = [YBlock(width, group_width, 2 if b == 0 else 1)
                  for b in range(depth)]

  def call(self, x, training=False):
    for block in self.stage:
      x = block(x, training=training)
    return x


class Head(layers.Layer):
  """Global mean and a dense layer; gives logits."""

  def __init__(self):
    super().__init__()
    self.fc = layers.Dense(1000)

  def call(self, x):
    return self.fc(tf.reduce_mean(x, axis=[1, 2]))


def build(name: str) -> tf_keras.Sequential:
  """Returns a model that takes float32 [batch, 224, 224, 3] in [0, 255]."""
  depths, widths, group_width = MODELS[name]
  stages = [Stage(depth, width, group_width)
            for depth, width in zip(depths, widths, strict=True)]
  return tf_keras.Sequential([
      layers.InputLayer((224, 224, 3)), PreStem(), Stem(), *stages, Head()])


def at_size(model: tf_keras.Sequential, images: tf.Tensor) -> tf.Tensor:
  """Returns the logits for images that are not resized first.

  Args:
    model: From `build`.
    images: float32 [batch, height, width, 3] in [0, 255].
  """
  x = model.layers[0](images, resize=False)
  for layer in model.layers[1:]:
    x = layer(x)
  return x
