"""Classifier and feature extractor: reusable SavedModels of one network."""

import itertools
from collections.abc import Mapping, Sequence

import tensorflow as tf
from tensorflow.python.saved_model import save_context
from tensorflow.python.saved_model import save_options

from hub_export import hub_module
from hub_export import preprocessing
from hub_export.regnet import network
from hub_export.regnet import variants

_IMAGES = tf.TensorSpec([None, None, None, 3], tf.float32, name="images")
# What a call computes in, as its images come: Keras' mixed precision policies
# cast them. float32 has to be traced first: of several traces that would do,
# a loaded module takes the first for what is no tensor yet.
COMPUTE_DTYPES = (tf.float32, tf.bfloat16, tf.float16)
_ENCODED = tf.TensorSpec([None], tf.string, name="image_bytes")
_MOMENTUM = tf.TensorSpec([], tf.float32, name="batch_norm_momentum")
_TOP = 5

Signatures = Mapping[str, tf.types.experimental.ConcreteFunction]


class _Module(hub_module.ReusableModule):
  """What both have in common: the lists of variables."""

  def __init__(self, net: network.Network, uses_head: bool):
    super().__init__()
    # The network itself is kept out of the saved object graph (a bound method
    # is not tracked): users see the interface and nothing else.
    self._run_logits = net.logits
    # Traced once for each dtype and `training`, for both modules, and called
    # from there: each call and signature would hold its thousand nodes again.
    self._run_features = net.traced_features
    names = [v.name for v in net.variables]
    if len(set(names)) != len(names):
      raise ValueError("variables share names; saving to .h5 would fail")
    by_name = {v.name.removesuffix(":0"): v for v in net.variables}
    order = variants.tensor_shapes(net.architecture, 1)
    kept = [by_name[n] for n in order
            if uses_head or not n.startswith("head/")]
    self.variables = kept
    self.trainable_variables = [v for v in kept if v.trainable]
    # Weight decay is the fine-tuner's choice.
    self.regularization_losses = []

  def trace(self) -> Signatures:
    """Traces every permitted call and returns the signatures."""
    # The context is part of a trace's key: tf.saved_model.save would trace
    # every call again.
    with save_context.save_context(save_options.SaveOptions()):
      return self._trace()

  def _trace(self) -> Signatures:
    """Does what `trace` says."""
    raise NotImplementedError

  def _infer(self, images: tf.Tensor) -> tf.Tensor:
    """Returns the call at inference, by the trace that is exported anyway."""
    return self(images, training=False, batch_norm_momentum=tf.constant(
        variants.BATCH_NORM_MOMENTUM))

  def _trace_calls(self, **choices: Sequence[bool]) -> None:
    """Traces every permitted call.

    Args:
      **choices: The values of each argument that is a Python bool.
    """
    for dtype in COMPUTE_DTYPES:
      images = tf.TensorSpec(_IMAGES.shape, dtype, _IMAGES.name)
      for values in itertools.product(*choices.values()):
        self.__call__.get_concrete_function(
            images, batch_norm_momentum=_MOMENTUM,
            **dict(zip(choices, values)))


class Classifier(_Module):
  """Images to logits.

  Args of the call:
    images: [batch, height, width, 3], RGB in [0, 1]; any batch, sides from 32
      pixels up. Normalisation is inside. Their dtype is what convolutions are
      computed in: float32, bfloat16 or float16.
    training: Python bool; whether batch norm uses and updates statistics of
      the batch.
    batch_norm_momentum: float32 scalar in [0, 1], the weight of the old moving
      statistics in an update.

  Returns:
    float32 [batch, classes], logits.
  """

  def __init__(self, net: network.Network, labels: Sequence[str],
               prep: preprocessing.Preprocessing):
    super().__init__(net, uses_head=True)
    self._prep = prep
    self._labels = tuple(labels)

  @tf.function(autograph=False)
  def __call__(self, images, training=False,
               batch_norm_momentum=variants.BATCH_NORM_MOMENTUM):
    features, _ = self._run_features(images, training, batch_norm_momentum)
    return self._run_logits(features)

  def _trace(self) -> Signatures:
    self._trace_calls(training=(False, True))
    top = min(_TOP, len(self._labels))

    @_signature(_IMAGES)
    def serving_default(images):
      return {"logits": self._infer(images)}

    @_signature(_IMAGES)
    def feature_vector(images):
      return {"features": self._run_features(
          images, False, variants.BATCH_NORM_MOMENTUM)[0]}

    @_signature(_ENCODED)
    def image_bytes(image_bytes):
      logits = self._infer(self._prep.apply_batch(image_bytes))
      probabilities, classes = tf.math.top_k(tf.nn.softmax(logits), top)
      return {"classes": classes, "probabilities": probabilities,
              "labels": tf.gather(tf.constant(self._labels), classes)}

    return _concrete(serving_default, image_bytes, feature_vector)


class FeatureExtractor(_Module):
  """Images to pooled features.

  Args of the call: as of `Classifier`, and
    return_endpoints: Python bool; whether every stage's output comes as well.

  Returns:
    float32 [batch, feature_dim]; with `return_endpoints` a dict of it under
    "features" and [batch, height / stride, width / stride, channels] of the
    images' dtype under "stage1" to "stage4", whose strides are 4, 8, 16 and 32.
  """

  def __init__(self, net: network.Network, prep: preprocessing.Preprocessing):
    super().__init__(net, uses_head=False)
    self._prep = prep

  @tf.function(autograph=False)
  def __call__(self, images, training=False,
               batch_norm_momentum=variants.BATCH_NORM_MOMENTUM,
               return_endpoints=False):
    features, endpoints = self._run_features(
        images, training, batch_norm_momentum)
    return {**endpoints, "features": features} if return_endpoints else features

  def _trace(self) -> Signatures:
    self._trace_calls(training=(False, True), return_endpoints=(False, True))

    @_signature(_IMAGES)
    def serving_default(images):
      return {"features": self._infer(images)}

    @_signature(_ENCODED)
    def image_bytes(image_bytes):
      return {"features": self._infer(self._prep.apply_batch(image_bytes))}

    return _concrete(serving_default, image_bytes)


def _signature(spec: tf.TensorSpec):
  """Returns the decorator of a signature; there is no Python to convert."""
  return tf.function(input_signature=[spec], autograph=False)


def _concrete(*functions) -> Signatures:
  """Returns the functions' only traces by the functions' names."""
  return {f.__name__: f.get_concrete_function() for f in functions}
