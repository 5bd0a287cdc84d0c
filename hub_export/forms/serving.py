"""The serving form: a frozen, folded SavedModel for TensorFlow Serving.

Its graph holds the weights as constants, which oneDNN brings into its own order
once, where it would do so with variables at every call. All signatures call one
function, so that the constants are in the file once.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from hub_export import forms
from hub_export import hub_module
from hub_export import saved_model
from hub_export.forms import frozen
from hub_export.forms import warm_up

_IMAGES = tf.TensorSpec([None, None, None, 3], tf.float32, name="images")
_ENCODED = tf.TensorSpec([None], tf.string, name="image_bytes")
_TOP = 5
_DTYPES = {"float32": "float32", "bf16": "bfloat16"}  # Of --precision.
_UNTRAINABLE = (
    "this is a serving form: its weights are constants, with batch norm "
    "inside, and cannot be trained. Fine-tune the main form of the same "
    "checkpoint, or set trainable=False.")


class _Root(hub_module.ReusableModule):
  """What hub.load gives back.

  Args of the call:
    images: float32 [batch, height, width, 3], RGB in [0, 1]; any batch, sides
      from 32 pixels up. Normalisation is inside.
    training: Python bool. It is there for hub.KerasLayer, which asks for it if
      it is trainable: True says that nothing here can be trained.

  Returns:
    float32 [batch, classes], logits; or [batch, feature_dim], features.
  """

  def __init__(self, inference: hub_module.Inference,
               network: hub_module.Network):
    super().__init__()
    self.variables = []
    self.trainable_variables = []
    self.regularization_losses = []
    self._has_head = inference.kind == "classifier"
    # Traced once: all that is below calls these and has no constants itself.
    # TensorFlow 2.21 traces whatever else is a tf.function again on saving.
    self._features = _concrete(network.features, _IMAGES)
    if self._has_head:
      width = self._features.structured_outputs.shape[-1]
      spec = tf.TensorSpec([None, width], tf.float32, name="features")

      self._head = _concrete(network.logits, spec)

      @_signature(spec)
      def head(features):
        return self._head(features)

      self.head = head

  @tf.function(autograph=False)
  def __call__(self, images, training=False):
    if not training:
      return self.outputs(images)
    with tf.control_dependencies([tf.raw_ops.Assert(
        condition=tf.constant(False), data=[tf.constant(_UNTRAINABLE)])]):
      return tf.identity(self.outputs(images))

  def features(self, images: tf.Tensor) -> tf.Tensor:
    return self._features(images)

  def outputs(self, images: tf.Tensor) -> tf.Tensor:
    features = self._features(images)
    return self._head(features) if self._has_head else features


def make(inference: hub_module.Inference, choice: forms.Choice, name: str,
         manifest: dict[str, Any]) -> hub_module.Payload:
  """Returns a module in the serving form; see making.Maker.

  Raises:
    HubExportError: if its weights do not fit into a graph.
  """
  network = inference.network(hub_module.Build(
      dtype=_DTYPES[choice.name], ties_shapes=True))
  frozen.check_size(
      network, name, "Export it with --precision=bf16 or, if that is too large "
      "as well, serve the main form.")

  def write(directory: pathlib.Path) -> None:
    root = _Root(inference, network)
    saved_model.save(root, _trace(root, inference), directory)
    warm_up.write(directory, name, inference.preprocessing.crop_px)

  # Of bf16, outputs alone would not tell a weight that is slightly wrong.
  record = frozen.weights_record(
      network.constants(head=inference.kind == "classifier"))
  return frozen.payload(
      inference, name, {**manifest, "folded_weights": record},
      network.num_bytes, write)


def _trace(root: _Root, inference: hub_module.Inference
           ) -> hub_module.Signatures:
  """Traces every permitted call and returns the signatures."""
  for training in (False, True):
    root.__call__.get_concrete_function(_IMAGES, training=training)

  @_signature(_IMAGES)
  def serving_default(images):
    return {inference.output: root.outputs(images)}

  @_signature(_ENCODED)
  def image_bytes(image_bytes):
    outputs = root.outputs(inference.preprocessing.apply_batch(image_bytes))
    if inference.kind != "classifier":
      return {"features": outputs}
    probabilities, classes = tf.math.top_k(
        tf.nn.softmax(outputs), min(_TOP, len(inference.labels)))
    return {"classes": classes, "probabilities": probabilities,
            "labels": tf.gather(tf.constant(inference.labels), classes)}

  @_signature(_IMAGES)
  def feature_vector(images):
    return {"features": root.features(images)}

  traced = [serving_default, image_bytes]
  if inference.kind == "classifier":
    traced.append(feature_vector)
  return {f.__name__: f.get_concrete_function() for f in traced}


def _concrete(function: Callable[[tf.Tensor], tf.Tensor], spec: tf.TensorSpec
              ) -> tf.types.experimental.ConcreteFunction:
  """Returns a function that is traced already."""
  return tf.function(function, autograph=False).get_concrete_function(spec)


def _signature(spec: tf.TensorSpec):
  """Returns the decorator of a signature; there is no Python to convert."""
  return tf.function(input_signature=[spec], autograph=False)
