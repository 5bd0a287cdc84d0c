"""Proves that each fault an export may have is caught by some check.

A small RegNetY of random convolutions, whose last layer is solved for twelve
classes of coloured slopes, goes through the family, the writer and the suite.
Its classes are told by the colour and by the side that is bright, so that
exchanged channels and mirrored images matter. How many of the test images it
gets right is known from NumPy, image by image, and is what the manifest says
was reported; the tolerance is less than one image.

A fault sits in one of four places:

* in the network: it computes something else than its checkpoint says. The
  golden outputs, which come from other code, tell, whether or not the accuracy
  moves.
* in the checkpoint as it was read (of exchanged channels, by a wrong mean):
  network and golden outputs agree, and the reported accuracy alone knows.
* in the signature for encoded images.
* in the evaluation: the model is sound, the figure is not.
"""

import contextlib
import dataclasses
import functools
import io
import pathlib
import shutil
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from checks import evaluation_sets
from checks import html_report
from checks import pictures
from checks import predictions as predictions_lib
from checks import recount
from checks import report
from checks import suite
from hub_export import export_dirs
from hub_export import preprocessing
from hub_export import saved_model
from hub_export.regnet import catalog
from hub_export.regnet import checkpoints
from hub_export.regnet import family
from hub_export.regnet import modules
from hub_export.regnet import network
from hub_export.regnet import reference
from hub_export.regnet import resolve
from hub_export.regnet import variants
from hub_export.regnet.checkpoints import layout

COLOURS = ("red", "green", "blue")
SIDES = ("left", "right", "top", "bottom")
CLASSES = tuple(f"{colour}, bright {side}" for side in SIDES
                for colour in COLOURS)
HEIGHT, WIDTH = 32, 36
# The last of the suite's batches of 64 is not full.
EXAMPLES = {"train": 1500, "test": 250}
PREPROCESSING = preprocessing.Preprocessing(
    (preprocessing.Resize("shorter", 32, "bilinear", True),), 32,
    preprocessing.IMAGENET_MEAN, preprocessing.IMAGENET_STD)
ARCHITECTURE = variants.Architecture(
    "regnety_tiny", tuple(
        variants.Stage(depth, width, 8, se) for depth, width, se in (
            (1, 24, (8,)), (2, 48, (6, 12)), (1, 96, (12,)), (1, 192, (24,)))),
    variants.convention("torch"))
GROUPS = ("structure", "numerics", "accuracy")
NO_MEAN, NO_STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
SOUND_NETWORK = network.Network
NOISE = 0.05  # Standard deviation of pixels.
PERMUTED = "stage2/block2/a/conv"


class ColouredSlopes(tfds.core.GeneratorBasedBuilder):
  """The TFDS builder `coloured_slopes`."""
  VERSION = tfds.core.Version("1.0.0")
  pkg_dir_path = None

  def _info(self):
    return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict({
            "image": tfds.features.Image(
                shape=(HEIGHT, WIDTH, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=list(CLASSES)),
            "file_name": tfds.features.Text()}))

  def _split_generators(self, dl_manager):
    del dl_manager
    return {split: self._generate_examples(split) for split in EXAMPLES}

  def _generate_examples(self, split):
    for i, (image, label) in enumerate(zip(*drawn(split))):
      name = f"{split}_{i:04d}.png"
      yield name, {"image": image, "label": label, "file_name": name}


@functools.cache
def drawn(split: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns uint8 [n, 32, 36, 3] and labels int64 [n]."""
  rng = np.random.default_rng(list(EXAMPLES).index(split))
  n = EXAMPLES[split]
  labels = rng.integers(0, len(CLASSES), n)
  y, x = np.meshgrid(np.linspace(0, 1, HEIGHT), np.linspace(0, 1, WIDTH),
                     indexing="ij")
  slopes = np.stack([1 - x, x, 1 - y, y])[labels // len(COLOURS)]
  colours = rng.uniform(0.3, 0.9, (n, 3))
  colours[np.arange(n), labels % len(COLOURS)] = 1
  images = (0.1 + rng.uniform(0.3, 0.8, (n, 1, 1, 1)) * slopes[..., None]
            * colours[:, None, None])
  images = images + rng.normal(0, NOISE, images.shape)
  return (np.clip(images * 255, 0, 255).round().astype(np.uint8), labels)


def fed(images: np.ndarray) -> np.ndarray:
  """Returns what a network is fed of drawn images; nothing is to be scaled."""
  side = (WIDTH - HEIGHT) // 2
  return (images[:, :, side:side + HEIGHT] / 255).astype(np.float32)


@functools.cache
def solved() -> dict[str, np.ndarray]:
  """Returns the tensors of the sound network."""
  rng = np.random.default_rng(7)
  tensors = network.initial_tensors(ARCHITECTURE, len(CLASSES), seed=5)
  for name, values in tensors.items():
    if name.endswith("/conv"):
      # Else all variances would be about 1, and of little effect.
      values *= rng.uniform(0.3, 1.5)
    elif name.endswith("/gamma"):
      values[:] = rng.uniform(0.7, 1.3, values.shape)
    elif name.endswith(("/beta", "/bias")):
      values[:] = rng.normal(0, 0.2, values.shape)
  images, labels = drawn("train")
  tensors = with_statistics_of(tensors, fed(images))
  net = network.Network(ARCHITECTURE, tensors, PREPROCESSING.mean,
                        PREPROCESSING.std)
  features = np.concatenate([
      net.features(tf.constant(part), False, tf.constant(0.9))[0].numpy()
      for part in np.array_split(fed(images), 8)]).astype(np.float64)
  x = np.c_[features, np.ones(len(features))]
  solution = np.linalg.solve(x.T @ x + 0.01 * np.eye(x.shape[1]),
                             x.T @ np.eye(len(CLASSES))[labels])
  return tensors | {
      "head/kernel": (8 * solution[:-1]).astype(np.float32),
      "head/bias": (8 * solution[-1]).astype(np.float32)}


def with_statistics_of(tensors: Mapping[str, np.ndarray], images: np.ndarray
                       ) -> dict[str, np.ndarray]:
  """Returns tensors with the moving statistics that images would leave."""
  net = SOUND_NETWORK(ARCHITECTURE, tensors, PREPROCESSING.mean,
                      PREPROCESSING.std)
  net.features(tf.constant(images), True, tf.constant(0.0))
  return {v.name.removesuffix(":0"): v.numpy() for v in net.variables}


def stale(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns tensors with statistics of an earlier time, of darker images."""
  old = with_statistics_of(tensors, 0.6 * fed(drawn("train")[0][:200]))
  return {name: old[name] if variants.is_statistic(name) else values
          for name, values in tensors.items()}


def permuted(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns tensors, the outputs of one layer's kernel in another order."""
  return {**tensors, PERMUTED: np.ascontiguousarray(
      tensors[PERMUTED][..., ::-1])}


def resolved(tensors: Mapping[str, np.ndarray], top1: float, top5: float,
             convention: str = "torch", labels: tuple[str, ...] = CLASSES,
             **prep: tuple[float, ...]) -> resolve.Resolved:
  """Returns what the family gets: a checkpoint, and what is known of it."""
  digest = export_dirs.WeightsDigest()
  for name in sorted(tensors):
    digest.update(name, tensors[name])
  arch = dataclasses.replace(
      ARCHITECTURE, convention=variants.convention(convention))
  found = layout.Layout(
      source="timm", format="safetensors", tensors={}, unexpected=(),
      duplicates=(), files=(), spelling=str, may_lack_head=False)
  return resolve.Resolved(
      checkpoint=checkpoints.Checkpoint(
          arch, tensors, len(CLASSES), found, "RGB", digest.hexdigests()),
      source="timm", location="tiny.safetensors",
      files=({"name": "tiny.safetensors", "sha256": "5a" * 32, "bytes": 9},),
      dataset=resolve.Dataset("coloured_slopes", "Coloured slopes", "test",
                              None, "slopes_"),
      labels=labels,
      preprocessing=dataclasses.replace(PREPROCESSING, **prep),
      reported=catalog.Accuracy(
          top1, top5, "counted in NumPy", 0.1,
          "one of the images is 0.4 points"),
      licence_id="apache-2.0", licence="Apache-2.0.", training="Solved.")


@dataclasses.dataclass(frozen=True)
class World:
  """The sound network, and all that is known of it."""
  tensors: Mapping[str, np.ndarray]
  logits: np.ndarray      # float64 [250, 12], of the test images.
  data_dir: pathlib.Path
  export_dir: pathlib.Path

  def correct(self, k: int) -> int:
    """Returns how many labels are among the best k, counted by hand."""
    return sum(label in sorted(range(len(CLASSES)), key=lambda c: -row[c])[:k]
               for row, label in zip(self.logits.tolist(), drawn("test")[1]))

  @property
  def reported(self) -> tuple[float, float]:
    return tuple(100 * self.correct(k) / EXAMPLES["test"] for k in (1, 5))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  data_dir = tmp_path_factory.mktemp("data")
  with (contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO())):
    ColouredSlopes(data_dir=data_dir).download_and_prepare()
  tensors = solved()
  _, logits = reference.outputs(
      tensors, "torch", PREPROCESSING.mean, PREPROCESSING.std,
      fed(drawn("test")[0]))
  made = World(tensors, logits, data_dir, pathlib.Path())
  export_dir = export(resolved(tensors, *made.reported),
                      tmp_path_factory.mktemp("sound"))
  return dataclasses.replace(made, export_dir=export_dir)


def export(source: resolve.Resolved, output_dir: pathlib.Path) -> pathlib.Path:
  """Writes the classifier; returns its directory."""
  classifier = next(family.hub_modules(source, "main"))
  return saved_model.write(classifier, output_dir, "local").export_dir


@pytest.fixture(autouse=True)
def groups_that_tell(monkeypatch):
  """Leaves out fine-tuning and pictures, which tell nothing of what is here."""
  monkeypatch.setattr(suite, "CHECKS", tuple(
      c for c in suite.CHECKS if c.group in GROUPS))
  monkeypatch.setattr(pictures, "write", lambda *_: {})
  monkeypatch.setattr(html_report, "write", lambda *_: None)
  # Of the groups above none computes in 16 bits. The sound export, which was
  # made before this, can; each other would take twice the time to trace.
  monkeypatch.setattr(modules, "COMPUTE_DTYPES", (tf.float32,))


def checked(export_dir: pathlib.Path, world: World) -> dict[str, str]:
  """Returns the message of each check that failed, by group/name."""
  found = suite.run(export_dir, data_dir=world.data_dir)
  assert not [c for c in found.checks if c.status == "not_run"]
  return {f"{c.group}/{c.name}": c.message for c in found.checks
          if c.status == "failed"}


def copied(world: World, tmp_path: pathlib.Path) -> pathlib.Path:
  """Returns a copy of the sound export, of which nothing is known yet."""
  target = tmp_path.joinpath(*world.export_dir.parts[-3:])
  shutil.copytree(world.export_dir, target)
  return target


def test_what_is_known(world):
  """Each place in the top five counts, or a fault in it could not show."""
  counts = [world.correct(k) for k in range(1, 7)]
  assert 0.5 * 250 < counts[0] < 0.9 * 250
  assert all(a < b for a, b in zip(counts, counts[1:]))
  # Logits so near to each other that float32 might exchange them.
  ordered = -np.sort(-world.logits, axis=1)
  assert (ordered[:, :5] - ordered[:, 1:6]).min() > 1e-5


def test_sound(world, tmp_path):
  export_dir = copied(world, tmp_path)
  found = suite.run(export_dir, data_dir=world.data_dir)
  assert {c.group for c in found.checks} == {*GROUPS, "card"}
  assert [(c.name, c.message) for c in found.checks
          if c.status != "passed"] == []
  assert found.metrics["top1"]["correct"] == world.correct(1)
  assert found.metrics["top5"]["correct"] == world.correct(5)


@dataclasses.dataclass(frozen=True)
class NetworkFault:
  """Something that the network does otherwise than its checkpoint says."""
  images: Callable[[tf.Tensor], tf.Tensor] | None = None
  logits: Callable[[tf.Tensor], tf.Tensor] | None = None
  tensors: Callable[[Mapping], Mapping] | None = None
  mean_std: tuple | None = None
  convention: str | None = None
  epsilon: float | None = None
  golden: str = "No change of the images explains it"
  also: tuple[str, ...] = ("accuracy/top1",)  # Caught by these as well.

  def plant(self, monkeypatch):
    class Faulty(SOUND_NETWORK):
      """The network with the fault."""

      def features(self, images, training, momentum):
        if fault.images:
          images = fault.images(images)
        return super().features(images, training, momentum)

      def logits(self, features):
        logits = super().logits(features)
        return fault.logits(logits) if fault.logits else logits

    fault = self

    def build(arch, tensors, mean, std, portable=False):
      if fault.tensors:
        tensors = fault.tensors(tensors)
      if fault.mean_std:
        mean, std = fault.mean_std
      if fault.convention:
        arch = dataclasses.replace(
            arch, convention=variants.convention(fault.convention))
      return Faulty(arch, tensors, mean, std, portable)

    monkeypatch.setattr(network, "Network", build)
    if self.epsilon:
      monkeypatch.setattr(variants, "BATCH_NORM_EPSILON", self.epsilon)


IN_THE_NETWORK = {
    "bgr": NetworkFault(
        images=lambda x: x[..., ::-1],
        golden="They agree if, before the export gets the images, their "
        "channels are reversed"),
    "minus_one_to_one": NetworkFault(
        images=lambda x: 2 * x - 1, golden="brought from [-1, 1] to [0, 1]"),
    "no_mean_and_std": NetworkFault(
        mean_std=(NO_MEAN, NO_STD), golden="mean and std are applied to them"),
    "mirrored": NetworkFault(
        images=lambda x: x[:, :, ::-1], golden="they are mirrored"),
    "labels_off_by_one": NetworkFault(
        logits=lambda x: tf.roll(x, 1, -1)),
    "stale_statistics": NetworkFault(
        tensors=stale, also=("structure/weights", "accuracy/top1")),
    "permuted_layer": NetworkFault(
        tensors=permuted, also=("structure/weights", "accuracy/top1")),
    "padding_of_tensorflow": NetworkFault(convention="keras"),
    # The accuracy need not move; the golden outputs do.
    "epsilon": NetworkFault(epsilon=1e-3, also=()),
}


@pytest.mark.parametrize("name", IN_THE_NETWORK)
def test_in_the_network(world, tmp_path, monkeypatch, name):
  fault = IN_THE_NETWORK[name]
  with monkeypatch.context() as patch:
    fault.plant(patch)
    export_dir = export(resolved(world.tensors, *world.reported), tmp_path)
  failed = checked(export_dir, world)
  assert fault.golden in failed["numerics/golden"]
  assert set(fault.also) <= set(failed)


# What is believed of a checkpoint: its tensors, and how it is fed and built.
IN_THE_CHECKPOINT = {
    "bgr": lambda t: (t | {"stem/conv": np.ascontiguousarray(
        t["stem/conv"][:, :, ::-1])}, {}),
    "minus_one_to_one": lambda t: (
        t, {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}),
    "no_mean_and_std": lambda t: (t, {"mean": NO_MEAN, "std": NO_STD}),
    "stale_statistics": lambda t: (stale(t), {}),
    "permuted_layer": lambda t: (permuted(t), {}),
    "padding_of_tensorflow": lambda t: (t, {"convention": "keras"}),
    "background_class": lambda t: (t | {
        "head/kernel": np.roll(t["head/kernel"], 1, -1),
        "head/bias": np.roll(t["head/bias"], 1, -1)}, {}),
    "labels_off_by_one": lambda t: (
        t, {"labels": (CLASSES[-1], *CLASSES[:-1])}),
}


@pytest.mark.parametrize("name", IN_THE_CHECKPOINT)
def test_in_the_checkpoint(world, tmp_path, name):
  """The export agrees with itself in all; only the reported accuracy knows."""
  tensors, changes = IN_THE_CHECKPOINT[name](world.tensors)
  export_dir = export(
      resolved(tensors, *world.reported, **changes), tmp_path)
  failed = checked(export_dir, world)
  assert {key.split("/")[0] for key in failed} == {"accuracy"}
  if name == "labels_off_by_one":
    assert "accuracy/top1" in failed
  else:
    assert f"but {world.reported[0]:.6g} % is reported" in (
        failed["accuracy/top1"])


IN_IMAGE_BYTES = {
    "mirrored": lambda x: x[:, :, ::-1],
    "bgr": lambda x: x[..., ::-1],
    "minus_one_to_one": lambda x: 2 * x - 1,
}


@pytest.mark.parametrize("name", IN_IMAGE_BYTES)
def test_in_image_bytes(world, tmp_path, monkeypatch, name):
  sound = preprocessing.Preprocessing.apply_batch
  with monkeypatch.context() as patch:
    patch.setattr(preprocessing.Preprocessing, "apply_batch",
                  lambda self, x: IN_IMAGE_BYTES[name](sound(self, x)))
    export_dir = export(resolved(world.tensors, *world.reported), tmp_path)
  failed = checked(export_dir, world)
  # On made-up images, and on some of the split's.
  assert set(failed) == {"numerics/image_bytes", "accuracy/image_bytes"}
  assert all("differ by" in message for message in failed.values())


def test_label_names_off_by_one_in_image_bytes(world, tmp_path, monkeypatch):
  sound = modules.Classifier
  with monkeypatch.context() as patch:
    patch.setattr(modules, "Classifier", lambda net, labels, prep: sound(
        net, (labels[-1], *labels[:-1]), prep))
    export_dir = export(resolved(world.tensors, *world.reported), tmp_path)
  told = "labels are not those of the classes in labels.txt"
  assert checked(export_dir, world) == {
      "numerics/image_bytes": told, "accuracy/image_bytes": told}


def test_mirrored_by_preprocessing(world, tmp_path, monkeypatch):
  """Evaluation and `image_bytes` agree; PIL and the reported top-1 do not."""
  _mirror(monkeypatch)
  export_dir = export(resolved(world.tensors, *world.reported), tmp_path)
  failed = checked(export_dir, world)
  assert "pixels differ from PIL's by" in failed["numerics/preprocessing"]
  assert "accuracy/top1" in failed
  assert "numerics/image_bytes" not in failed


def _mirror(monkeypatch):
  """Has images mirrored after they were prepared."""
  sound = preprocessing.Preprocessing.pixels
  monkeypatch.setattr(preprocessing.Preprocessing, "pixels",
                      lambda self, x: sound(self, x)[:, ::-1])


class TestInTheEvaluation:
  """The export is sound."""

  def _examples(self, monkeypatch, change):
    """Has the data set's examples changed by a function."""
    sound = evaluation_sets.EvaluationSet.examples
    monkeypatch.setattr(
        evaluation_sets.EvaluationSet, "examples",
        lambda self, *a, **k: change(sound(self, *a, **k)))

  def test_last_batch_dropped(self, world, tmp_path, monkeypatch):
    self._examples(monkeypatch, lambda d: d.take(3 * 64))
    failed = checked(copied(world, tmp_path), world)
    assert "192 examples of coloured_slopes/test were read; expected 250" in (
        failed["accuracy/counting"])

  def test_a_batch_twice(self, world, tmp_path, monkeypatch):
    """As many as there should be, but not each one once."""
    self._examples(monkeypatch,
                   lambda d: d.take(3 * 64).concatenate(d.take(58)))
    failed = checked(copied(world, tmp_path), world)
    assert "58 file names of coloured_slopes/test come more than once" in (
        failed["accuracy/counting"])

  def test_mirrored(self, world, tmp_path, monkeypatch):
    _mirror(monkeypatch)
    failed = checked(copied(world, tmp_path), world)
    assert {"numerics/image_bytes", "numerics/preprocessing",
            "accuracy/top1"} <= set(failed)

  def test_labels_off_by_one(self, world, tmp_path, monkeypatch):
    def shift(element):
      key = "labels" if "labels" in element else "label"
      return element | {key: (element[key] + 1) % len(CLASSES)}

    self._examples(monkeypatch, lambda d: d.map(shift))
    failed = checked(copied(world, tmp_path), world)
    assert f"but {world.reported[0]:.6g} % is reported" in (
        failed["accuracy/top1"])


class TestTopFour:
  """In place of top-5: the reported figure tells, and the recount without."""

  def _predictions(self, world):
    labels = drawn("test")[1]
    return predictions_lib.from_logits(
        [f"{i:04d}" for i in range(len(labels))],
        [b"%d" % i for i in range(len(labels))],
        [[label] for label in labels.tolist()],
        world.logits.astype(np.float32))

  def test_sound(self, world):
    found = self._predictions(world)
    assert (found.top1.correct, found.top5.correct) == (
        world.correct(1), world.correct(5))
    assert recount.problems(found, len(CLASSES)) == []

  def test_four_are_counted(self, world, monkeypatch):
    monkeypatch.setattr(predictions_lib.Predictions, "top5", property(
        lambda p: report.Rate(int(p.hits[:, :4].any(axis=1).sum()), len(p))))
    assert recount.problems(self._predictions(world), len(CLASSES)) == [
        f"top-5 is {world.correct(4)} of 250, but counted by hand it is "
        f"{world.correct(5)} of 250"]

  def test_four_are_kept(self, world):
    found = self._predictions(world)
    cut = dataclasses.replace(found, top=found.top[:, :4],
                              probabilities=found.probabilities[:, :4])
    assert recount.problems(cut, len(CLASSES)) == [
        "4 best classes are kept of each example; expected 5"]
