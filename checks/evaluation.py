"""Evaluates an export on a split: every example exactly once, and resumable.

What is known of an example is kept by the example's own digest, which covers
its image, name and labels. So an evaluation that was killed goes on where it
was, one that is finished is read back, and whatever changed is evaluated anew:
no position in the data, size of it or date is relied on. Predictions are only
used again for the same export, preprocessing code, runtime and batch size.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from checks import evaluation_sets
from checks import known_sets
from checks import predictions as predictions_lib
from checks import report
from checks import strategies
from checks import subject as subject_lib
from checks import trainability
from checks.forms import loading
from hub_export import errors
from hub_export import export_dirs
from hub_export import preprocessing

# A kill costs at most so many seconds of work.
_PART_SECONDS = 20
# Of examples whose two best logits are exactly equal: some are chance in
# float32, more come from a network that is constant or saturated.
_MOST_TIED = 0.001
# Where logits have 256 steps: of a network of random weights and 1000 classes
# it was 6 %.
_MOST_TIED_IN_STEPS = 0.1

# Examples that are known and handled at once, so that progress can be seen.
_MOST_KNOWN = 1000

OnExamples = Callable[[int, int, int], None]  # Done, in all, correct so far.


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """A finished evaluation."""
  predictions: predictions_lib.Predictions
  context: Mapping[str, Any]  # What it is of; see `context`.
  reused: int                 # Examples that were known from before.
  num_classes: int            # That could be predicted.
  # What this export predicted before, where that was not used again: with
  # --fresh, or because runtime, batch size or code were others.
  earlier: predictions_lib.Predictions | None = None
  earlier_context: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Model:
  """An export as it is evaluated: from images to logits."""
  export_dir: pathlib.Path     # The directory of one version.
  manifest: Mapping[str, Any]
  classes: tuple[str, ...]     # The names of the logits' classes.
  # Over the export's files, and over those of the classifier whose last layer a
  # feature extractor is evaluated with.
  sha256: Sequence[str]
  preprocessing: preprocessing.Preprocessing
  function: Callable[[tf.Tensor], tf.Tensor]  # Images to logits.
  batch_size: int = 64         # Images per step and device; others are filled
                               # up.
  strategy: tf.distribute.Strategy | None = None  # None: on one device.

  @property
  def step_size(self) -> int:
    """Images per step, on all devices of this process."""
    return self.batch_size * (
        self.strategy.num_replicas_in_sync // strategies.place(self.strategy)[1]
        if self.strategy else 1)

  def logits(self, images: tf.Tensor) -> np.ndarray:
    """Returns the logits of a step's images.

    Args:
      images: float32 [step_size, size, size, 3], RGB in [0, 1].

    Returns:
      float32 [step_size, classes].
    """
    if not self.strategy:
      return self.function(images).numpy()
    parts = iter(tf.split(images, self.step_size // self.batch_size))
    values = self.strategy.experimental_distribute_values_from_function(
        lambda _: next(parts))
    outputs = self.strategy.run(self._step, args=(values,))
    return np.concatenate([
        o.numpy() for o in self.strategy.experimental_local_results(outputs)])

  @functools.cached_property
  def _step(self) -> Callable[[tf.Tensor], tf.Tensor]:
    return tf.function(self.function)

  def predict(self, images: np.ndarray | tf.Tensor, file_names: Sequence[str],
              example_sha256: Sequence[bytes], labels: Sequence[Sequence[int]],
              allowed: np.ndarray | None) -> predictions_lib.Predictions:
    """Returns the predictions of up to `step_size` images, in their order.

    Args:
      images: float32 [n, size, size, 3], RGB in [0, 1].
      file_names: Of the n examples.
      example_sha256: Their predictions.example_digest.
      labels: The right classes of each, in the model's numbers.
      allowed: bool [classes], those that the data set has, if not all.

    Raises:
      HubExportError: if a logit is not finite.
    """
    n = len(file_names)
    if n < self.step_size:
      images = tf.pad(images,
                      [[0, self.step_size - n], [0, 0], [0, 0], [0, 0]])
    return predictions_lib.from_logits(
        file_names, example_sha256, labels, self.logits(images)[:n], allowed)


def load(export_dir: pathlib.Path, batch_size: int = 64, module: Any = None,
         strategy: tf.distribute.Strategy | None = None) -> Model:
  """Returns an export that is ready to be evaluated.

  Args:
    export_dir: The directory of one version.
    batch_size: Images per step and device.
    module: The export, if it is loaded already.
    strategy: Where it runs; by default on one device.

  Raises:
    UnavailableError: if a feature extractor's classifier is not there.
    HubExportError: if it is no export.
  """
  manifest = export_dirs.read_manifest(export_dir)
  directory = head_dir(export_dir, manifest)
  classes = (directory / export_dirs.LABELS).read_text("utf-8").splitlines()
  with strategy.scope() if strategy else contextlib.nullcontext():
    module = module or loading.load(export_dir, manifest)
  function = module
  if directory != export_dir:
    kernel, bias = subject_lib.head(
        loading.load(directory, export_dirs.read_manifest(directory)))
    function = lambda images: tf.matmul(module(images), kernel) + bias
  return Model(
      export_dir, manifest, tuple(classes),
      [export_dirs.digest(d) for d in dict.fromkeys((export_dir, directory))],
      preprocessing.from_dict(manifest["preprocessing"]), function, batch_size,
      strategy)


def head_dir(export_dir: pathlib.Path, manifest: Mapping[str, Any]
             ) -> pathlib.Path:
  """Returns the export whose last layer gives the logits: a classifier's own.

  Raises:
    UnavailableError: if a feature extractor's classifier is not there.
  """
  if manifest["kind"] == "classifier":
    return export_dir
  if not manifest["companion"]:
    raise errors.UnavailableError(
        "the checkpoint has no classifier head, so there is nothing to "
        "measure accuracy with; such an extractor cannot be published yet. "
        "Export a checkpoint that has a head.")
  companion = export_dirs.companion(export_dir, manifest)
  if companion is None:
    raise errors.UnavailableError(
        "the classifier of the same weights is not in "
        f"{export_dir.parents[2]}; its last layer is needed to "
        "evaluate features. Export it there, too.")
  return companion


def context(model: Model, evaluation_set: evaluation_sets.EvaluationSet,
            class_map: evaluation_sets.ClassMap) -> dict[str, Any]:
  """Returns all that predictions depend on but the examples, as JSON."""
  mapped = hashlib.sha256(class_map.to_model.tobytes())
  if class_map.allowed is not None:
    mapped.update(class_map.allowed.tobytes())
  code = hashlib.sha256()
  for file in (__file__, preprocessing.__file__, predictions_lib.__file__):
    code.update(pathlib.Path(file).read_bytes())
  return {
      "exports_sha256": model.sha256, "dataset": evaluation_set.name,
      "split": evaluation_set.split, "classes_sha256": mapped.hexdigest(),
      "code_sha256": code.hexdigest(), "batch_size": model.batch_size,
      "runtime": runtime(model.strategy)}


def runtime(strategy: tf.distribute.Strategy | None = None) -> dict[str, Any]:
  """Returns what the last digits of the outputs depend on.

  Args:
    strategy: Where the model runs; None for one device.
  """
  gpus = tf.config.list_physical_devices("GPU")
  if isinstance(strategy, tf.distribute.TPUStrategy):
    # Its host's processor computes nothing of the outputs.
    device = "TPU"
  elif gpus:
    device = tf.config.experimental.get_device_details(gpus[0]).get(
        "device_name", "GPU")
  else:
    device = report.processor()
  return {"tensorflow": metadata.version("tensorflow"), "device": device,
          "onednn": trainability.has_onednn()}


def evaluate(model: Model, evaluation_set: evaluation_sets.EvaluationSet,
             on_examples: OnExamples = lambda done, total, correct: None,
             fresh: bool = False, shard: tuple[int, int] = (0, 1)
             ) -> Evaluation:
  """Evaluates on every example, or on a shard of them, and keeps the outcome.

  It lies where export_dirs.evaluation_path says: `.parquet` when it is
  finished, `.parts/` until then. When all shards have been evaluated, by
  whomever, one more call without `shard` puts them together. Of two calls for
  the same at once, one waits for the other.

  Args:
    model: The export.
    evaluation_set: The examples.
    on_examples: Called as it goes on.
    fresh: Whether to use nothing that is known from before; not for a shard.
    shard: Which part of how many.

  Raises:
    HubExportError: if the classes are not the model's, a logit is not finite,
      too many are equal, or an example cannot be read. Whether there is each
      example once, a check tells.
  """
  class_map = evaluation_set.class_map(model.manifest["dataset"]["name"],
                                       model.classes)
  about = context(model, evaluation_set, class_map)
  path = export_dirs.evaluation_path(
      model.export_dir, evaluation_set.name, evaluation_set.split, ".parquet")
  with export_dirs.write_errors(path):
    path.parent.mkdir(exist_ok=True)
  with (export_dirs.lock(path.parent) if shard == (0, 1)
        else contextlib.nullcontext()):
    store = _Store(path, about)
    run = _Run(model, evaluation_set, class_map, store.read(fresh), store,
               on_examples)
    found = run.run(shard)
    earlier = None, None
    if shard == (0, 1):
      # Of all: a shard may be too small to tell.
      refuse_ties(found, has_steps(model.manifest))
      store.finish(found, fresh)
      earlier = store.earlier()
  allowed = class_map.allowed
  return Evaluation(
      found, about, run.reused,
      len(model.classes) if allowed is None else int(allowed.sum()), *earlier)


class _Row(NamedTuple):
  """An example to be evaluated."""
  file_name: str
  key: bytes          # predictions.example_digest.
  labels: np.ndarray  # int64, the data set's numbers.
  image: bytes        # Encoded.


class _Step(NamedTuple):
  """Examples that are handled at once."""
  rows: list[_Row]                 # Those to be evaluated.
  known: list[int]                 # Others, by their rows of what is known.
  images: tf.Tensor | None = None  # Of `rows`, decoded.


class _Run:
  """One pass over the examples."""

  def __init__(self, model: Model,
               evaluation_set: evaluation_sets.EvaluationSet,
               class_map: evaluation_sets.ClassMap,
               known: predictions_lib.Predictions | None, store: "_Store",
               on_examples: OnExamples):
    self._model = model
    self._set = evaluation_set
    self._map = class_map
    self._known = known
    self._indices = {} if known is None else {
        key: i for i, key in enumerate(known.keys())}
    self._hits = [] if known is None else known.hits[:, 0].tolist()
    self._store = store
    self._on_examples = on_examples
    self._decode = tf.function(
        model.preprocessing.apply_batch,
        input_signature=[tf.TensorSpec([None], tf.string)])
    self._used = []       # Rows of `known`.
    self._new = []        # Predictions, as they are made.
    self._kept = 0        # How many of `_new` are in the store.
    self._done = 0
    self._correct = 0     # How many of these are predicted rightly.

  @property
  def reused(self) -> int:
    return len(self._used)

  def run(self, shard: tuple[int, int]) -> predictions_lib.Predictions | None:
    """Returns all predictions; None for a shard without examples."""
    total = -(-self._set.num_examples // shard[1])
    try:
      self._evaluate(shard, total)
    finally:
      self._keep()  # If it fails as well, also on Ctrl-C.
    found = ([self._known.rows(self._used)] if self._used else []) + self._new
    if found:
      return predictions_lib.concatenate(found)
    if shard != (0, 1):
      return None
    raise errors.HubExportError(
        f"no example of {self._set.name}/{self._set.split} was read; "
        f"expected {self._set.num_examples:,}. Prepare the data set again.")

  def _evaluate(self, shard: tuple[int, int], total: int) -> None:
    clock = time.monotonic()
    for step in self._steps(shard):
      self._used += step.known
      self._done += len(step.known)
      self._correct += sum(self._hits[i] for i in step.known)
      if step.rows:
        found = self._predicted(step)
        self._new.append(found)
        self._done += len(found)
        self._correct += int(found.hits[:, 0].sum())
      self._on_examples(self._done, total, self._correct)
      if time.monotonic() - clock > _PART_SECONDS:
        self._keep()
        clock = time.monotonic()

  def _predicted(self, step: "_Step") -> predictions_lib.Predictions:
    rows = step.rows
    return self._model.predict(
        step.images, [row.file_name for row in rows],
        [row.key for row in rows],
        [self._map.to_model[row.labels] for row in rows], self._map.allowed)

  def _steps(self, shard: tuple[int, int]) -> Iterator["_Step"]:
    """Yields all examples by steps, with their images.

    They are read one step ahead. On a CPU they are decoded between the steps of
    the model, by all cores: both at once was measured a fifth slower, as each
    waits for the other's threads.
    """
    def decoded(steps):
      for step in steps:
        if step.rows:
          step = step._replace(images=self._decoded(step.rows))
        yield step

    steps = decoded(_ahead(self._read(shard)))
    return _ahead(steps) if _has_accelerator() else steps

  def _read(self, shard: tuple[int, int]) -> Iterator["_Step"]:
    """Yields all examples by steps; changes nothing, so in any thread."""
    rows, known, count = [], [], 0
    try:
      for example in self._set.examples(shard).as_numpy_iterator():
        name = example["file_name"].decode()
        key = predictions_lib.example_digest(
            name, example["labels"], example["image"])
        index = self._indices.get(key)
        if index is None:
          rows.append(_Row(name, key, example["labels"], example["image"]))
        else:
          known.append(index)
        count += 1
        if len(rows) == self._model.step_size:
          yield _Step(rows, known)
          rows, known = [], []
        elif len(known) == _MOST_KNOWN:
          yield _Step([], known)
          known = []
    except (tf.errors.InvalidArgumentError, tf.errors.DataLossError,
            tf.errors.NotFoundError) as e:
      raise errors.HubExportError(
          f"an example after the {count:,} first of {self._set.name}/"
          f"{self._set.split} cannot be read ({e.message}); expected an image "
          f"and its labels. {self._advice()}") from e
    if rows or known:
      yield _Step(rows, known)

  def _decoded(self, rows: Sequence["_Row"]) -> tf.Tensor:
    try:
      return self._decode(tf.constant([row.image for row in rows]))
    except tf.errors.InvalidArgumentError as e:
      if len(rows) > 1:  # Which one is it?
        for row in rows:
          self._decoded([row])
      raise errors.HubExportError(
          f"{rows[0].file_name} of {self._set.name}/{self._set.split} cannot "
          f"be decoded ({_reason(e)}); expected an encoded image. "
          f"{self._advice()}") from e

  def _advice(self) -> str:
    if self._set.name.startswith(known_sets.FOLDER):
      return "Replace or remove that file."
    return "Prepare the data set again."

  def _keep(self) -> None:
    """Stores what is not stored yet."""
    if len(self._new) > self._kept:
      self._store.add(predictions_lib.concatenate(self._new[self._kept:]))
      self._kept = len(self._new)


class _Store:
  """The files of one evaluation."""

  def __init__(self, path: pathlib.Path, about: Mapping[str, Any]):
    self._path = path
    self._parts = path.with_suffix(".parts")
    self._about = json.loads(json.dumps(about))

  def read(self, fresh: bool) -> predictions_lib.Predictions | None:
    """Returns what may be used again, if anything.

    Parts of anything else, damaged ones and, for a fresh start, all are
    removed.
    """
    finished = None if fresh else self._read(self._path)
    found = [] if finished is None else [finished]
    for part in sorted(self._parts.glob("*.parquet")):
      rows = None if fresh else self._read(part)
      if rows is None:
        part.unlink(missing_ok=True)
      else:
        found.append(rows)
    return predictions_lib.concatenate(found) if found else None

  def earlier(self) -> tuple[predictions_lib.Predictions | None,
                             dict[str, Any] | None]:
    """Returns what was set aside of the same export, and what it is of."""
    return _read_of_export(earlier_path(self._path), self._about)

  def add(self, rows: predictions_lib.Predictions) -> None:
    """Keeps a part."""
    predictions_lib.write(
        rows, self._parts / f"{uuid.uuid4().hex}.parquet", self._about)

  def finish(self, rows: predictions_lib.Predictions, fresh: bool) -> None:
    """Keeps all; the parts are not needed any more.

    The evaluation before, if nothing of it was used, is set aside: what differs
    from it is told again each time, not only the first.
    """
    set_aside(self._path, self._about, fresh)
    predictions_lib.write(rows, self._path, self._about)
    shutil.rmtree(self._parts, ignore_errors=True)

  def _read(self, path: pathlib.Path) -> predictions_lib.Predictions | None:
    try:
      rows, about = predictions_lib.read(path)
    except (FileNotFoundError, errors.ChecksError):
      return None
    return rows if about == self._about else None


def earlier_path(path: pathlib.Path) -> pathlib.Path:
  """Returns where the evaluation that was in `path` before is kept."""
  return path.with_suffix(".earlier.parquet")


def set_aside(path: pathlib.Path, about: Mapping[str, Any],
              fresh: bool = False) -> None:
  """Keeps the finished evaluation in `path` from being overwritten.

  Only if it is of the same export, and of another runtime, batch size or code.

  Args:
    path: Where the next evaluation will be written.
    about: What that one is of; see `context`.
    fresh: Whether it uses nothing of the one before, even of the same runtime.

  Raises:
    WriteError: if it cannot be renamed.
  """
  _, before = _read_of_export(path, about)
  if before is not None and (fresh or before != about):
    with export_dirs.write_errors(path):
      os.replace(path, earlier_path(path))


def _read_of_export(path: pathlib.Path, about: Mapping[str, Any]
                    ) -> tuple[predictions_lib.Predictions | None,
                               dict[str, Any] | None]:
  """Returns predictions of the same export and examples, and their context."""
  try:
    rows, found = predictions_lib.read(path)
  except (FileNotFoundError, errors.ChecksError):
    return None, None
  same = all(found.get(key) == about[key] for key in (
      "exports_sha256", "dataset", "split", "classes_sha256"))
  return (rows, found) if same else (None, None)


def has_steps(manifest: Mapping[str, Any]) -> bool:
  """Returns whether a module's logits have 256 steps."""
  return manifest.get("quantization") == "int8"


def refuse_ties(found: predictions_lib.Predictions, in_steps: bool = False
                ) -> None:
  """Raises HubExportError if classes are as likely as each other too often.

  Args:
    found: All predictions.
    in_steps: What `has_steps` says: two logits may well be equal then.
  """
  if found.top.shape[1] < 2:
    return
  tied = np.flatnonzero(found.margins == 0)
  most = _MOST_TIED_IN_STEPS if in_steps else _MOST_TIED
  if len(tied) > max(1, most * len(found)):
    names = ", ".join(found.file_names[i] for i in tied[:3])
    raise errors.HubExportError(
        f"of {len(tied):,} examples, such as {names}, the two highest logits "
        "are equal, so that there is no top-1; expected that of at most 1 in "
        f"{1 / most:,.0f}. The network is constant or saturated.")


def _reason(error: tf.errors.OpError) -> str:
  """Returns what happened, without where in a graph it did."""
  text = re.sub(r"\{\{function_node [^}]*\}\} ", "", error.message)
  found = re.search(r"^(\S.*)\n\s*\[\[\{\{node", text, re.MULTILINE)
  return found[1] if found else text.splitlines()[0]


def _has_accelerator() -> bool:
  return any(tf.config.list_physical_devices(kind) for kind in ("GPU", "TPU"))


def _ahead(steps: Iterator[Any]) -> Iterator[Any]:
  """Yields what an iterator does, the next one being made meanwhile."""
  with futures.ThreadPoolExecutor(1) as thread:
    coming = thread.submit(next, steps, None)
    while (step := coming.result()) is not None:
      coming = thread.submit(next, steps, None)
      yield step
