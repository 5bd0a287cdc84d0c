"""Random weights for tf_keras models, and images, that tell mistakes apart.

Weights and moving statistics are random, yet sane: batch norm's statistics are
the network's own on random images, then disturbed. Unrelated statistics would
let activations grow or die through fifty layers, and the float noise with them.
"""

import numpy as np
import tensorflow as tf
import tf_keras


def images(height: int, width: int, seed: int, count: int = 2) -> np.ndarray:
  """Returns float32 [count, height, width, 3] in [0, 1], unlike in all ways.

  Smooth blotches and some noise; red is bright, green medium, blue dark, so
  that exchanged channels, sides or images show.
  """
  random = np.random.default_rng(seed)
  blotches = tf.image.resize(random.uniform(0, 1, (count, 7, 9, 3)),
                             [height, width], "bicubic").numpy()
  noise = random.normal(0, 0.05, blotches.shape)
  values = (blotches + noise) * [1.0, 0.6, 0.3] + [0.0, 0.1, 0.05]
  return np.clip(values, 0, 1).astype(np.float32)


def randomise(model: tf_keras.Model, inputs: np.ndarray, seed: int) -> None:
  """Gives every layer of a model random weights and statistics.

  Args:
    model: With convolutions, batch norms and dense layers at any depth.
    inputs: What the model takes; its statistics are taken on these.
    seed: Of all randomness.
  """
  random = np.random.default_rng(seed)
  layers = [m for m in model.submodules if isinstance(m, tf_keras.layers.Layer)]
  norms = []
  for layer in layers:
    if isinstance(layer, tf_keras.layers.BatchNormalization):
      layer.gamma.assign(random.uniform(0.7, 1.3, layer.gamma.shape))
      layer.beta.assign(random.normal(0, 0.1, layer.beta.shape))
      norms.append(layer)
    elif isinstance(layer, (tf_keras.layers.Conv2D, tf_keras.layers.Dense)):
      shape = layer.kernel.shape
      layer.kernel.assign(
          random.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape))
      if layer.bias is not None:
        layer.bias.assign(random.normal(0, 0.1, layer.bias.shape))
  momenta = [layer.momentum for layer in norms]
  for layer in norms:
    layer.momentum = 0.0  # The old statistics count nothing.
  model(inputs, training=True)
  for layer, momentum in zip(norms, momenta, strict=True):
    layer.momentum = momentum
    mean, variance = layer.moving_mean, layer.moving_variance
    mean.assign_add(random.choice([-1, 1], mean.shape)
                    * random.uniform(0.1, 0.2, mean.shape)
                    * np.sqrt(variance.numpy()))
    variance.assign(variance * random.uniform(0.7, 1.4, variance.shape))


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
  """Returns the largest difference, by the standard deviation of `theirs`."""
  ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
  assert ours.shape == theirs.shape
  return float(np.max(np.abs(ours - theirs)) / np.std(theirs))
