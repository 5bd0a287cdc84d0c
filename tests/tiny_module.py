"""Hub modules small enough to be built and written many times in a test."""

import numpy as np
import tensorflow as tf

from hub_export import hub_module
from hub_export.regnet import grouped

NAME = "tiny_classification"
LABELS = ("cat", "dog", "eel", "fox")
IMAGES = tf.TensorSpec([None, None, None, 3], tf.float32, name="images")


class _Root(hub_module.ReusableModule):
  """A grouped convolution, pooling and a last layer."""

  def __init__(self, seed: int, is_portable: bool):
    super().__init__()
    random = np.random.default_rng(seed)
    self._conv = (grouped.conv2d_portable if is_portable else grouped.conv2d)
    self._lift = tf.Variable(
        random.normal(size=[3, 8]).astype(np.float32), name="lift")
    self._kernel = tf.Variable(
        random.normal(size=[3, 3, 4, 8]).astype(np.float32), name="kernel")
    self._head = tf.Variable(
        random.normal(size=[8, len(LABELS)]).astype(np.float32), name="head")
    self.variables = [self._lift, self._kernel, self._head]
    self.trainable_variables = list(self.variables)
    self.regularization_losses = []

  @tf.function
  def __call__(self, images, training=False):
    x = tf.tensordot(images, self._lift, 1)
    x = tf.reduce_mean(tf.nn.relu(self._conv(x, self._kernel, 2)), [1, 2])
    if training:
      x = tf.nn.l2_normalize(x, -1)
    return tf.matmul(x, self._head)


def make(seed: int = 0, is_portable: bool = False,
         title: str = "Tiny") -> hub_module.HubModule:
  """Returns a module whose weights follow from `seed`.

  Args:
    seed: For all weights.
    is_portable: Whether its convolution has a gradient of its own.
    title: A text in the manifest.
  """
  root = _Root(seed, is_portable)
  for training in (False, True):
    root.__call__.get_concrete_function(IMAGES, training=training)

  @tf.function(input_signature=[IMAGES])
  def serving(images):
    return {"logits": root(images)}

  # A loop, as the signature for encoded images has one.
  @tf.function(input_signature=[
      tf.TensorSpec([None], tf.string, name="image_bytes")])
  def image_bytes(image_bytes):
    images = tf.map_fn(
        lambda encoded: tf.ensure_shape(tf.cast(
            tf.io.decode_png(encoded, 3), tf.float32), [9, 7, 3]) / 255,
        image_bytes,
        fn_output_signature=tf.TensorSpec([9, 7, 3], tf.float32))
    values, classes = tf.math.top_k(tf.nn.softmax(root(images)), 2)
    return {"probabilities": values, "classes": classes}

  images = np.random.default_rng(1).random((2, 9, 7, 3)).astype(np.float32)
  return hub_module.HubModule(
      name=NAME, root=root,
      signatures={"serving_default": serving.get_concrete_function(),
                  "image_bytes": image_bytes.get_concrete_function()},
      labels=LABELS,
      manifest={"kind": "classifier", "companion": "tiny_feature_extractor",
                "card": {"title": title}},
      golden_images=images, golden_outputs=root(images).numpy())
