"""A small real export on the digits, sound or with one planted fault.

One convolution, batch norm, pooling and a last layer solved by least squares,
so that its accuracy on the digits is known and far from chance.
"""

import functools
import hashlib
import json
import pathlib

import numpy as np
import tensorflow as tf

from hub_export import digits
from hub_export import preprocessing

WIDTH = 48
SIZE_PX = 32
PREPROCESSING = preprocessing.Preprocessing(
    (preprocessing.Resize("squash", SIZE_PX, "bilinear", True),), SIZE_PX)
LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven",
          "eight", "nine")
_IMAGES = tf.TensorSpec([None, None, None, 3], tf.float32, name="images")
_MOMENTUM = tf.TensorSpec([], tf.float32)


class Root(tf.Module):
  """The reusable interface; plain lists in place of tf.Module's properties."""
  variables = None
  trainable_variables = None
  regularization_losses = None

  def __init__(self, weights, labels, is_classifier, fault=None):
    super().__init__()
    self._fault = fault
    self._labels = tuple(labels)
    self._is_classifier = is_classifier
    statistic = {} if fault == "drifting_replicas" else {
        "synchronization": tf.VariableSynchronization.ON_READ,
        "aggregation": tf.VariableAggregation.MEAN}
    made = {}
    for name, value in weights.items():
      if name.startswith("head/") and not is_classifier:
        continue
      moving = "moving" in name
      made[name] = tf.Variable(
          value, trainable=not moving, name=name,
          **(statistic if moving else {}))
    self._made = made
    self.names = tuple(made)
    self.variables = list(made.values())
    self.trainable_variables = [v for v in self.variables if v.trainable]
    self.regularization_losses = []

  def features(self, images, training, momentum):
    v = self._made
    if self._fault == "bgr":
      images = images[..., ::-1]
    x = tf.nn.conv2d(images - 0.4, v["stem/conv"], strides=2, padding="SAME")
    moves = training or self._fault == "moving_at_inference"
    if self._fault == "frozen_statistics":
      moves = False
    if moves:
      mean, variance = tf.nn.moments(x, [0, 1, 2])
      step = 0.1 if self._fault == "fixed_momentum" else 1 - momentum
      for name, batch in (("mean", mean), ("variance", variance)):
        moving = v[f"stem/moving_{name}"]
        moving.assign(moving - step * (moving - tf.stop_gradient(batch)))
    elif training:
      mean, variance = tf.nn.moments(x, [0, 1, 2])
    if not training:
      mean, variance = v["stem/moving_mean"], v["stem/moving_variance"]
    gamma = v["stem/gamma"]
    if self._fault == "untrainable":
      gamma = tf.stop_gradient(gamma)
    x = tf.nn.batch_normalization(
        x, mean, variance, v["stem/beta"], gamma, 1e-5)
    x = tf.nn.relu(x)
    # The thirds of the image are pooled one by one: digits need to know where.
    height, width = tf.shape(x)[1], tf.shape(x)[2]
    parts = [tf.reduce_mean(
        x[:, i * height // 3:(i + 1) * height // 3,
          j * width // 3:(j + 1) * width // 3], [1, 2])
             for i in range(3) for j in range(3)]
    features = tf.concat(parts, -1)
    if self._fault == "constant":
      features = tf.zeros_like(features)
    if self._fault == "batch_mean":
      features -= tf.reduce_mean(features, 0)
    return features, x

  @tf.function
  def __call__(self, images, training=False, batch_norm_momentum=0.9,
               return_endpoints=False):
    features, stage = self.features(images, training, batch_norm_momentum)
    if self._is_classifier:
      logits = tf.matmul(features, self._made["head/kernel"])
      return logits + self._made["head/bias"]
    if return_endpoints:
      # Each feature is the mean of its four numbers, as in a RegNet.
      spread = tf.constant([[1.5, 0.5], [0.5, 1.5]])[None, :, :, None]
      last = features[:, None, None] * spread
      if self._fault == "zero_stages":
        stage, last = 0 * stage, 0 * last
      if self._fault == "zero_stages_in_training" and training:
        stage = 0 * stage
      return {"stage1": stage, "stage2": last, "features": features}
    return features

  def trace(self):
    for training in (False, True):
      for endpoints in (False,) if self._is_classifier else (False, True):
        self.__call__.get_concrete_function(
            _IMAGES, training=training, batch_norm_momentum=_MOMENTUM,
            return_endpoints=endpoints)
    output = "logits" if self._is_classifier else "features"

    @tf.function(input_signature=[_IMAGES])
    def serving(images):
      return {output: self(images)}

    @tf.function(input_signature=[_IMAGES])
    def feature_vector(images):
      return {"features": self.features(images, False, 0.9)[0]}

    @tf.function(input_signature=[
        tf.TensorSpec([None], tf.string, name="image_bytes")])
    def image_bytes(image_bytes):
      images = PREPROCESSING.apply_batch(image_bytes)
      if self._fault == "image_bytes_scale":
        images = images * 0.9
      outputs = self(images)
      if not self._is_classifier:
        return {"features": outputs}
      labels = self._labels
      if self._fault == "label_names":
        labels = labels[::-1]
      values, classes = tf.math.top_k(tf.nn.softmax(outputs), 5)
      return {"classes": classes, "probabilities": values,
              "labels": tf.gather(tf.constant(labels), classes)}

    signatures = {"serving_default": serving, "image_bytes": image_bytes}
    if self._is_classifier:
      signatures["feature_vector"] = feature_vector
    if self._fault == "missing_signature":
      del signatures["image_bytes"]
    return {name: f.get_concrete_function() for name, f in signatures.items()}


def write(output_dir: pathlib.Path, data_dir: pathlib.Path,
          kind: str = "classifier", fault: str | None = None,
          version: int = 1) -> pathlib.Path:
  """Writes an export and returns its directory.

  Args:
    output_dir: Where exports lie.
    data_dir: TFDS' directory, for the digits that the weights are solved on.
    kind: "classifier" or "feature_extractor".
    fault: What is wrong with it; see the uses in this file.
    version: The export's version.
  """
  is_classifier = kind == "classifier"
  weights, top1, top5 = _solved(data_dir)
  if fault == "nan_weights":
    weights = weights | {"stem/gamma": np.full(WIDTH, np.nan, np.float32)}
  # An extractor of other weights still claims to be its classifier's.
  stated = weights
  if fault == "other_weights" and not is_classifier:
    weights = weights | {"stem/gamma": weights["stem/gamma"] * 1.5}
  labels = list(LABELS)
  if fault == "label_order":
    labels[3], labels[4] = labels[4], labels[3]
  root = Root(weights, labels, is_classifier, fault)
  names = {True: "tiny_digits_classification",
           False: "tiny_digits_feature_extractor"}
  name = names[is_classifier]
  export_dir = output_dir / "local" / name / str(version)
  signatures = root.trace()
  tf.saved_model.save(root, str(export_dir), signatures=signatures)
  content = "".join(f"{label}\n" for label in labels).encode()
  if is_classifier:
    (export_dir / "assets" / "labels.txt").write_bytes(content)
  else:
    (export_dir / "assets").rmdir()
  _write_golden(export_dir, Root(weights, labels, is_classifier), fault)
  if fault == "extra_file":
    (export_dir / "assets.extra" / "notes.txt").write_text("left over")
  sizes = {v.name: int(np.prod(v.shape)) for v in root.variables}
  manifest = {
      "schema_version": 1, "handle": f"local/{name}/{version}",
      "family": "tiny", "variant": "tiny", "kind": kind, "form": "portable",
      "companion": f"local/{names[not is_classifier]}", "is_demo": True,
      "checkpoint": {"source": "demo", "format": "keras_h5",
                     "location": "demo",
                     "convention": "keras", "channel_order": "RGB",
                     "files": [
                         {"name": "tiny.h5", "sha256": "5a" * 32, "bytes": 9}]},
      "weights": {
          "sha256": _digest(v for v in weights.items() if v[0] in root.names),
          "backbone_sha256": _digest(
              v for v in stated.items() if v[0].startswith("stem/"))},
      "parameters": {
          "trainable": sum(n for k, n in sizes.items() if "moving" not in k),
          "total": sum(sizes.values())},
      "multiply_adds": {"count": 27 * WIDTH * 256, "image_size_px": SIZE_PX},
      "dataset": {"name": "optical_digits",
                  "title": "Optical recognition of handwritten digits",
                  "split": "test", "tfhub_tag": None},
      "preprocessing": PREPROCESSING.to_dict(),
      "inputs": {"dtype": "float32", "min_size_px": 32, "range": [0.0, 1.0],
                 "channel_order": "RGB"},
      "outputs": {"num_classes": 10} if is_classifier else {
          "feature_dim": 9 * WIDTH,
          "endpoints": {"stage1": WIDTH, "stage2": 9 * WIDTH}},
      "labels": {"file": "assets/labels.txt", "count": 10,
                 "sha256": hashlib.sha256(content).hexdigest()}
                if is_classifier else None,
      "reported_accuracy": None if fault == "nothing_reported" else {
          "top1": top1 + (3 if fault == "boast" else 0), "top5": top5,
          "source": "the least-squares solution in numpy", "tolerance": 0.3,
          "tolerance_reason": "one example of 360 is 0.28 points"},
      "licence": {"id": "apache-2.0", "text": "Apache License 2.0."},
      "card": {"title": "Tiny", "description": "A tiny module for tests.",
               "architecture": "regnety", "training": "Least squares.",
               "intended_use": "Tests.", "limits": "Many.",
               "references": []},
      "software": {"tensorflow": tf.__version__},
  }
  path = export_dir / "assets.extra" / "manifest.json"
  path.write_text(json.dumps(manifest, indent=2))
  return export_dir


def _write_golden(export_dir, root, fault):
  images = np.random.default_rng(1).random((2, 40, 56, 3)).astype(np.float32)
  outputs = root(tf.constant(images)).numpy()
  if fault == "tampered_golden":
    outputs[0, 0] += 0.01 * outputs.std()
  (export_dir / "assets.extra").mkdir()
  np.savez(export_dir / "assets.extra" / "golden.npz", images=images,
           outputs=outputs)


@functools.cache
def _solved(data_dir):
  """Returns the weights, and top-1 and top-5 in percent on the test split."""
  rng = np.random.default_rng(0)
  # The three channels weigh unlike, so that their order matters.
  kernel = rng.normal(0, 0.4, (5, 5, 3, WIDTH)) * [[[[1.5], [1.0], [0.4]]]]
  weights = {
      "stem/conv": kernel, "stem/gamma": rng.uniform(0.8, 1.2, WIDTH),
      "stem/beta": rng.normal(0, 0.2, WIDTH),
      "stem/moving_mean": rng.normal(0, 0.1, WIDTH),
      "stem/moving_variance": rng.uniform(0.8, 1.2, WIDTH),
      "head/kernel": np.zeros((9 * WIDTH, 10)), "head/bias": np.zeros(10)}
  weights = {k: v.astype(np.float32) for k, v in weights.items()}
  root = Root(weights, LABELS, is_classifier=False)
  features, targets = {}, {}
  for split in ("train", "test"):
    pixels, targets[split] = digits.load(split, data_dir)
    encoded = tf.stack([tf.io.encode_png(p) for p in pixels])
    # As a graph: image by image, TensorFlow spends ten times as long on calls.
    images = tf.function(PREPROCESSING.apply_batch)(encoded)
    features[split] = root(images).numpy().astype(np.float64)
  x = np.c_[features["train"], np.ones(len(features["train"]))]
  y = np.eye(10)[targets["train"]]
  solution = np.linalg.solve(x.T @ x + 0.01 * np.eye(x.shape[1]), x.T @ y)
  weights["head/kernel"] = solution[:-1].astype(np.float32)
  weights["head/bias"] = solution[-1].astype(np.float32)
  order = np.argsort(-(features["test"] @ solution[:-1] + solution[-1]), axis=1)
  hits = order == targets["test"][:, None]
  return weights, 100 * hits[:, 0].mean(), 100 * hits[:, :5].any(1).mean()


def _digest(weights):
  """Returns what the design asks for: names, shapes and bytes, sorted."""
  return hashlib.sha256(b"".join(
      f"{name} {value.shape}\n".encode() + value.tobytes()
      for name, value in sorted(weights))).hexdigest()
