"""TensorFlow: SavedModels of either kind, and tf_keras.applications."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# pylint: disable=g-import-not-at-top
import tensorflow as tf

LEARNING_RATE = 1e-3


class Model:
  """A function of images, and perhaps its variables."""

  def __init__(self, infer: Callable[[tf.Tensor], Any], scale: float = 1.0,
               train: Callable[[tf.Tensor], tf.Tensor] | None = None,
               variables: Callable[[], Any] = tuple, keep: Any = None):
    self._infer = infer
    self._scale = scale   # tf_keras' RegNets divide by 255 themselves.
    self._train = train
    self._variables = variables
    self._keep = keep     # What holds the variables.
    self.versions = {"tensorflow": tf.__version__}

  def call(self, images: np.ndarray) -> Callable[[], np.ndarray]:
    fed = tf.constant(images * np.float32(self._scale))

    def run():
      out = self._infer(fed)
      out = next(iter(out.values())) if isinstance(out, Mapping) else out
      return out.numpy()  # Waits.
    return run

  def array(self, outputs: np.ndarray) -> np.ndarray:
    return np.asarray(outputs, np.float32)

  def step(self, images: np.ndarray, labels: np.ndarray
           ) -> Callable[[], float]:
    fed, wanted = tf.constant(images * np.float32(self._scale)), tf.constant(
        labels, tf.int64)

    @tf.function(autograph=False)
    def update():
      with tf.GradientTape() as tape:
        logits = tf.cast(self._train(fed), tf.float32)
        loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(wanted, logits))
      variables = self._variables()
      for variable, gradient in zip(variables, tape.gradient(loss, variables),
                                    strict=True):
        variable.assign_sub(LEARNING_RATE * gradient)
      return loss
    return lambda: float(update().numpy())


class LayerModel(Model):
  """hub.KerasLayer(trainable=True) under Keras' own training step."""

  def __init__(self, path: str, policy: str):
    # pylint: disable=g-import-not-at-top
    import tensorflow_hub as hub
    import tf_keras
    tf_keras.mixed_precision.set_global_policy(policy)
    layer = hub.KerasLayer(path, trainable=True)
    logits = tf_keras.layers.Activation("linear", dtype="float32")
    self._model = tf_keras.Sequential([layer, logits])
    super().__init__(lambda x: self._model(x, training=False))
    self.versions |= {"tensorflow-hub": hub.__version__,
                      "tf-keras": tf_keras.__version__}
    self._compiled = tf_keras.losses.SparseCategoricalCrossentropy(
        from_logits=True)
    self._optimizer = tf_keras.optimizers.SGD(LEARNING_RATE)

  def step(self, images: np.ndarray, labels: np.ndarray
           ) -> Callable[[], float]:
    fed, wanted = tf.constant(images), tf.constant(labels, tf.int64)
    self._model.compile(self._optimizer, self._compiled)
    return lambda: float(self._model.train_on_batch(fed, wanted))


def open_model(task: Mapping[str, Any]) -> Model:
  """Returns the model of a task.

  Args:
    task: "what" is "saved_model", "keras_layer", "keras" or
      "keras_saved_model"; "path"; "precision", "float32" or "bf16"; "threads";
      for "keras" also "keras_name", "num_classes", "size_px", and perhaps
      "save_to", where to save the model.
  """
  tf.config.threading.set_intra_op_parallelism_threads(task["threads"])
  tf.config.threading.set_inter_op_parallelism_threads(task["threads"])
  is_bf16 = task["precision"] == "bf16"
  if task["what"] == "keras_layer":
    return LayerModel(
        task["path"], "mixed_bfloat16" if is_bf16 else "float32")
  if is_bf16 and task["mode"] == "train":
    # Has oneDNN compute in bfloat16; the variables stay float32.
    tf.config.optimizer.set_experimental_options(
        {"auto_mixed_precision_onednn_bfloat16": True})
  return {"saved_model": _saved_model, "keras_saved_model": _signature,
          "keras": _keras}[task["what"]](task)


def _saved_model(task: Mapping[str, Any]) -> Model:
  loaded = tf.saved_model.load(task["path"])
  if not callable(loaded):  # The serving form has signatures alone.
    return _signature(task)
  return Model(loaded, 1.0, lambda x: loaded(x, training=True),
               lambda: loaded.trainable_variables, loaded)


def _signature(task: Mapping[str, Any]) -> Model:
  loaded = tf.saved_model.load(task["path"])
  scale = 255.0 if task["what"] == "keras_saved_model" else 1.0
  return Model(loaded.signatures["serving_default"], scale, keep=loaded)


def _keras(task: Mapping[str, Any]) -> Model:
  import tf_keras  # pylint: disable=g-import-not-at-top
  if task["precision"] == "bf16":
    tf_keras.mixed_precision.set_global_policy("mixed_bfloat16")
  size_px = task["size_px"]
  model = getattr(tf_keras.applications, task["keras_name"])(
      weights=None, classes=task["num_classes"], classifier_activation=None,
      input_shape=(size_px, size_px, 3))
  with np.load(task["path"]) as stored:
    assign(model, stored)
  infer = tf.function(lambda x: model(x, training=False), autograph=False)
  made = Model(infer, 255.0, lambda x: model(x, training=True),
               lambda: model.trainable_variables, model)
  made.versions["tf-keras"] = tf_keras.__version__
  if task.get("save_to"):
    model.save(task["save_to"], save_format="tf")
  return made


def assign(model: Any, tensors: Mapping[str, np.ndarray]) -> None:
  """Gives a Keras model its weights.

  Args:
    model: Of tf_keras.applications.
    tensors: By the ends of the weights' names: what comes before, such as
      "regnety006", depends on how many models there were.

  Raises:
    ValueError: unless each weight has one tensor and each tensor one weight.
  """
  left = set(tensors)
  for weight in model.weights:
    found = [name for name in left if weight.name.endswith(name)]
    if len(found) != 1:
      raise ValueError(f"{weight.name} has {len(found)} tensors")
    left.remove(found[0])
    weight.assign(tensors[found[0]])
  if left:
    raise ValueError(f"tf_keras has no {sorted(left)[:3]}")
