"""Checks that an export can be fine-tuned, as users do it with KerasLayer.

MirroredStrategy needs two devices; `two_logical_devices` makes them out of one
processor, before TensorFlow computes anything.
"""

import pathlib
import tempfile
import warnings
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_hub as hub
import tf_keras

from checks import numerics
from checks import report
from checks import subject as subject_lib

_BATCH = 32
_STEPS = 5
_CLASSES = 4       # Of the made-up task that is learnt.
# What 16 bits may cost (root of the mean square, in standard deviations of the
# outputs), and how much coarser than float32 they are. A network that float32
# already takes far from float64 may lose as much more.
_LOW_PRECISIONS = {"bfloat16": (0.1, 2.0**16), "float16": (0.0125, 2.0**13)}
_LOW_PRECISION_SIZE_PX = 64
_MAX_SIZE_PX = 96  # Training at 224 would take minutes on a small machine.


def two_logical_devices() -> bool:
  """Returns whether there are two logical CPU devices now.

  Makes them, unless TensorFlow has been running with one already.
  """
  processors = tf.config.list_physical_devices("CPU")
  try:
    if len(tf.config.get_logical_device_configuration(
        processors[0]) or ()) < 2:
      tf.config.set_logical_device_configuration(
          processors[0], [tf.config.LogicalDeviceConfiguration()] * 2)
  except RuntimeError:  # It is running.
    pass
  return len(tf.config.list_logical_devices("CPU")) >= 2


def unfit_reason(subject: subject_lib.Subject) -> str | None:
  """Returns why this machine cannot train the export, None if it can."""
  if (_needs_onednn(subject)
      and not tf.config.list_physical_devices("GPU")):
    return ("on a processor, training an export of the form \"main\" needs "
            "oneDNN, which is off or not built in here. Unset "
            "TF_ENABLE_ONEDNN_OPTS, or export with --form=portable.")
  return None


def _needs_onednn(subject: subject_lib.Subject) -> bool:
  """Returns whether this machine's processor cannot train the export."""
  return subject.manifest["form"] == "main" and not has_onednn()


def has_onednn() -> bool:
  """Returns whether TensorFlow computes with oneDNN in this process."""
  # pylint: disable-next=g-import-not-at-top
  from tensorflow.python.util import _pywrap_util_port  # No public way.
  return bool(_pywrap_util_port.IsMklEnabled())


def gradients(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks that every trainable variable gets a finite, non-zero gradient."""
  model = hub.load(str(subject.export_dir))
  images, targets = _task(subject, 8)
  head = _random_head(subject.output_size)
  with tf.GradientTape() as tape:
    logits = tf.matmul(model(tf.constant(images), training=True), head)
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(
        targets, logits))
  found = tape.gradient(loss, model.trainable_variables)
  problems = []
  for variable, gradient in zip(model.trainable_variables, found):
    if gradient is None:
      problems.append(f"{variable.name} has no gradient")
      continue
    values = tf.convert_to_tensor(gradient).numpy()
    if not np.isfinite(values).all():
      problems.append(f"the gradient of {variable.name} is not finite")
    elif not values.any():
      problems.append(f"the gradient of {variable.name} is zero")
  return report.from_problems(
      problems, f"finite and not zero for all {len(found)} trainable variables",
      variables=len(found))


def moving_statistics(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks that statistics move in training as told, and never otherwise.

  With the momentum m they go by (1 - m) of the way to the batch's, so from one
  start the way at 0.5 is five times that at 0.9.
  """
  model = hub.load(str(subject.export_dir))
  trainable = {id(v) for v in model.trainable_variables}
  statistics = [v for v in model.variables if id(v) not in trainable]
  start = [v.numpy() for v in model.variables]
  images = tf.constant(_task(subject, 8)[0])
  model(images, training=False)
  model(images)
  problems = [f"{v.name} changes at inference"
              for v, before in zip(model.variables, start)
              if not np.array_equal(v.numpy(), before)]
  _restore(model.variables, start)

  moved = {}
  for momentum in (0.9, 0.5):
    model(images, training=True, batch_norm_momentum=momentum)
    moved[momentum] = [
        v.numpy() - before for v, before in zip(model.variables, start)]
    _restore(model.variables, start)
  for index, v in enumerate(model.variables):
    slow, fast = moved[0.9][index], moved[0.5][index]
    if id(v) in trainable:
      if slow.any() or fast.any():
        problems.append(f"{v.name} changes without an optimizer")
    elif not slow.any():
      problems.append(f"{v.name} does not move in training")
    else:
      # The ways are differences of float32 numbers of the variable's size.
      slack = 1e-3 * np.abs(fast).max() + 1e-5 * np.abs(start[index]).max()
      if not np.abs(fast - 5 * slow).max() <= slack:
        problems.append(
            f"{v.name} does not follow batch_norm_momentum: at 0.5 it moves "
            f"{np.abs(fast).max() / np.abs(slow).max():.2f} times as far as at "
            "0.9, expected 5")
  return report.from_problems(
      problems, f"{len(statistics)} moving statistics move in training only, "
      "by the momentum", statistics=len(statistics))


def endpoints(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks a feature extractor's `return_endpoints` in training."""
  model = hub.load(str(subject.export_dir))  # Its statistics will move.
  problems = numerics.endpoint_problems(
      subject, model, _task(subject, 8)[0], training=True)
  return report.from_problems(problems, "in training as at inference")


def mixed_precision(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks that images of 16 bits give nearly what those of 32 bits give.

  Keras' mixed precision policies cast a layer's images, and a module computes
  in their dtype. Two small images are enough: it is the number of layers that
  adds up roundings. What layers give may be too large for float16, which ends
  at 65504; that is no fault of the export, and the card says so.
  """
  size = max(subject.min_size_px, _LOW_PRECISION_SIZE_PX)
  images = subject_lib.probe_images(2, size, size)
  expected = subject.model(tf.constant(images))
  noise = numerics.golden_noise(subject)
  problems, seen, figures = [], [], {}
  for dtype in subject.manifest["inputs"].get("compute_dtypes", ()):
    if dtype not in _LOW_PRECISIONS:
      continue
    found = subject.model(tf.cast(images, dtype)).numpy()
    if dtype == "float16" and not np.isfinite(found).all():
      seen.append(f"{dtype} ends before what these weights make")
      figures[dtype] = -1.0
      continue
    off = subject_lib.difference(found, expected, is_mean=True)
    seen.append(f"{dtype} is off float32 by {off:.1e} standard deviations of "
                "the outputs in root mean square")
    figures[dtype] = off if np.isfinite(off) else -1.0
    loss, coarseness = _LOW_PRECISIONS[dtype]
    limit = max(loss, min(1.0, noise * coarseness))
    if not off <= limit:
      problems.append(f"{seen[-1]}; expected at most {limit:.1e}")
  return report.from_problems(
      problems, "; ".join(seen) or "it computes in float32 alone", **figures)


def fine_tuning(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks that a few steps through KerasLayer bring the loss down."""
  model = _keras_model(subject)
  losses = _fit(subject, model)
  result = _judge(losses, "KerasLayer")
  if result.status == report.PASSED:
    subject.tuned = model
  return result


def mirrored(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks the same under MirroredStrategy, and that replicas stay together.

  Each replica sees other images. A statistic read afterwards must be the mean
  of the replicas', and every trainable variable the same on both.
  """
  devices = _replicas(subject)
  if isinstance(devices, report.CheckResult):
    return devices
  # Not the default reduction: with its collectives the second export that one
  # process checked was once seen to fail (TF 2.21).
  strategy = tf.distribute.MirroredStrategy(
      devices, tf.distribute.ReductionToOneDevice())
  with strategy.scope():
    # The optimizer of TF 2.10, with one operation for each variable instead of
    # ten, takes half the time to trace; the module cannot tell.
    model = _keras_model(subject, tf_keras.optimizers.legacy.Adam(1e-3))
  result = _judge(_fit(subject, model), "two replicas")
  if result.status != report.PASSED:
    return result
  problems = []
  for v in model.variables:
    if not v.dtype.is_floating or not hasattr(v, "values"):
      continue
    replicas = np.stack([local.numpy() for local in v.values])
    read = v.read_value().numpy() if hasattr(v, "read_value") else v.numpy()
    expected = replicas[0] if v.trainable else replicas.mean(axis=0)
    size = np.abs(expected).max() + 1e-6
    if np.abs(read - expected).max() > 1e-5 * size or (
        v.trainable and np.abs(replicas[0] - replicas[1]).max() > 1e-5 * size):
      problems.append(
          f"{v.name}: replicas drift apart; moving statistics need "
          "synchronization=ON_READ and aggregation=MEAN")
  return report.from_problems(problems, result.message, **result.figures)


def _replicas(subject: subject_lib.Subject) -> list[str] | report.CheckResult:
  """Returns two devices that can train the export, or why there are none."""
  if _needs_onednn(subject):
    if len(tf.config.list_logical_devices("GPU")) >= 2:
      return ["GPU:0", "GPU:1"]
    return report.not_run(
        "this needs two devices that train: a processor, whose oneDNN is off "
        "or not built in here, or two GPUs. Unset TF_ENABLE_ONEDNN_OPTS, or "
        "export with --form=portable.")
  if not two_logical_devices():
    return report.not_run(
        "TensorFlow was started with one device in this process. Run the check "
        "program, which makes two.")
  return ["CPU:0", "CPU:1"]


def save_and_reload(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks that the fine-tuned model comes back from both formats as it was."""
  model = subject.tuned
  if model is None:
    return report.not_run("there is no fine-tuned model: fine_tuning has not "
                          "passed")
  images = tf.constant(_task(subject, 4)[0])
  expected = model(images, training=False).numpy()
  problems = []
  with tempfile.TemporaryDirectory(prefix="regnety_hub_") as directory:
    for name, options in (("model.h5", {"save_format": "h5"}),
                          ("model", {"save_format": "tf"})):
      path = str(pathlib.Path(directory, name))
      with warnings.catch_warnings():
        # Users save to .h5, legacy or not.
        warnings.filterwarnings("ignore", message="You are saving your model")
        model.save(path, **options)
      reloaded = tf_keras.models.load_model(
          path, custom_objects={"KerasLayer": hub.KerasLayer})
      worst = subject_lib.difference(reloaded(images, training=False), expected)
      if worst > subject_lib.TOLERANCE:
        problems.append(f"from {options['save_format']}, predictions differ by "
                        f"{worst:.1e} standard deviations")
  return report.from_problems(
      problems, "equal predictions from .h5 and from a SavedModel")


def _size(subject: subject_lib.Subject) -> int:
  """Returns the side of training images, in pixels."""
  return max(subject.min_size_px,
             min(subject.preprocessing.crop_px, _MAX_SIZE_PX))


def _task(subject: subject_lib.Subject, batch: int
          ) -> tuple[np.ndarray, np.ndarray]:
  """Returns images and their classes, int64 [batch]: which colour is strong."""
  size = _size(subject)
  images = subject_lib.probe_images(batch, size, size, seed=7)
  targets = np.arange(batch) % _CLASSES
  tints = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]], np.float32)
  images = 0.6 * images + 0.4 * tints[targets][:, None, None]
  return images.astype(np.float32), targets


def _random_head(width: int) -> tf.Tensor:
  rng = np.random.default_rng(3)
  return tf.constant(rng.normal(0, width ** -0.5, (width, _CLASSES)),
                     tf.float32)


def _keras_model(subject: subject_lib.Subject, optimizer: Any = None
                 ) -> tf_keras.Model:
  """Returns the export as a trainable layer, and a new last layer.

  Args:
    subject: The export.
    optimizer: A legacy one; Adam as it is today if not given.
  """
  tf_keras.utils.set_random_seed(5)
  size = _size(subject)
  model = tf_keras.Sequential([
      tf_keras.Input((size, size, 3)),
      hub.KerasLayer(str(subject.export_dir), trainable=True),
      tf_keras.layers.Dense(_CLASSES),
  ])
  model.compile(
      optimizer=optimizer or tf_keras.optimizers.Adam(1e-3),
      loss=tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
  # Else the first step makes the optimizer's variables, and tf.function traces
  # a function that made any once more.
  if optimizer is None:
    model.optimizer.build(model.trainable_variables)
  return model


def _fit(subject: subject_lib.Subject, model: tf_keras.Model) -> list[float]:
  """Returns the loss of each step on the same images."""
  images, targets = _task(subject, _BATCH)
  history = model.fit(images, targets, batch_size=_BATCH, epochs=_STEPS,
                      shuffle=False, verbose=0)
  return history.history["loss"]


def _judge(losses: list[float], where: str) -> report.CheckResult:
  """Returns passed if the last losses are lower than the first."""
  figures = {"first_loss": losses[0], "last_loss": losses[-1]}
  if not np.isfinite(losses).all():
    return report.failed(f"{where}: the loss is not finite: {losses}")
  if not losses[-1] < losses[0]:
    return report.failed(
        f"{where}: after {len(losses)} steps the loss went from "
        f"{losses[0]:.3f} to {losses[-1]:.3f}; expected it to go down",
        **figures)
  return report.passed(
      f"{where}: {len(losses)} steps bring the loss from {losses[0]:.3f} to "
      f"{losses[-1]:.3f}", **figures)


def _restore(variables: list[Any], values: list[np.ndarray]) -> None:
  for variable, value in zip(variables, values):
    variable.assign(value)
