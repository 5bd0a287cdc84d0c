"""Evaluates many exports on many machines with Apache Beam, each example once.

    exports x shards -> reshuffle -> evaluate a shard -> group by export
        -> put together, assert, write -> one summary

Between machines go paths and predictions, never models or images. Nothing is
added up on the way: the shards of an export are put side by side, by number, so
that a bundle that a runner runs twice counts once, and the counts come from the
whole as in a single process. What would fail again (an image that cannot be
read, logits that are not finite) is an outcome of that export alone; anything
else is raised, for the runner to try again.

Exports may be addresses that TensorFlow reads, such as gs://, where machines
have no file system in common; a worker then copies those that it evaluates.
"""

import collections
import contextlib
import dataclasses
import json
import pathlib
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.options import pipeline_options
from apache_beam.runners import runner as runner_lib
from apache_beam.runners.portability import fn_api_runner
from apache_beam.utils import shared
import tensorflow as tf

from checks import accuracy
from checks import evaluation
from checks import evaluation_sets
from checks import predictions as predictions_lib
from hub_export import errors
from hub_export import export_dirs

# Loaded exports that a worker process keeps.
_MOST_MODELS = 2
_SUFFIX = ".parquet"


@dataclasses.dataclass(frozen=True)
class Job:
  """What is the same for all exports of a run."""
  dataset: str | None    # TFDS name; None for the one in each manifest.
  split: str | None      # The same.
  data_dir: str | None   # TFDS' directory, as the workers see it.
  num_shards: int        # Per export.
  batch_size: int        # Images per step; the last ones are filled up.
  summary: str           # Path or address of the summary, a JSON list.


class Split(NamedTuple):
  """What of an evaluation set goes between machines."""
  name: str
  split: str
  num_examples: int


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
  """What came of one shard of one export."""
  shard: int
  predictions: predictions_lib.Predictions | None = None  # None: no examples.
  context: Mapping[str, Any] | None = None  # What the predictions are of.
  split: Split | None = None
  num_classes: int = 0       # That could be predicted.
  seconds: float = 0.0       # Wall clock, loading included.
  error: str | None = None   # What would fail again.
  has_steps: bool = False    # As `evaluation.has_steps` says.


def find(patterns: Sequence[str]) -> list[str]:
  """Returns the exports that match any of some patterns, each once.

  Args:
    patterns: Directories or addresses, with wildcards or without.

  Raises:
    UsageError: if there is none for a pattern.
  """
  found = {}
  for pattern in patterns:
    # Reports and cards lie beside exports, and match as well.
    matches = [match for match in tf.io.gfile.glob(pattern.rstrip("/"))
               if tf.io.gfile.exists(f"{match}/{export_dirs.MANIFEST}")]
    if not matches:
      raise errors.UsageError(
          f"{pattern} is no export, nor a pattern for any; expected "
          f"directories of versions, each with {export_dirs.MANIFEST}")
    found |= dict.fromkeys(sorted(matches))
  return list(found)


def run(exports: Sequence[str], job: Job, runner: str = "DirectRunner",
        options: Sequence[str] = ()) -> list[dict[str, Any]]:
  """Evaluates exports and returns the summary, a record each, in their order.

  Predictions are written to export_dirs.evaluation_path of each export that
  was evaluated whole. A record has "export", "error" (None if there was none),
  "seconds" (of all workers), and without an error "path", "dataset", "split",
  "num_examples", "digest" and "data_digest" of the predictions, "top1" and
  "top5" as report.Rate.to_dict.

  Args:
    exports: Directories or addresses of versions, as the workers see them.
    job: What to do with them.
    runner: Beam's name of a runner.
    options: Beam's options, such as "--direct_num_workers=2".

  Raises:
    UsageError: if Beam does not know the runner or an option.
    HubExportError: if the pipeline did not come to its end.
  """
  made = _runner(runner)
  parsed = _options(options)
  with contextlib.suppress(tf.errors.NotFoundError):
    tf.io.gfile.remove(job.summary)  # So that none is taken for this run's.
  pipeline = beam.Pipeline(runner=made, options=parsed)
  build(pipeline, exports, job)
  state = pipeline.run().wait_until_finish()
  try:
    records = json.loads(tf.io.gfile.GFile(job.summary).read())
  except tf.errors.NotFoundError as e:
    raise errors.HubExportError(
        f"the pipeline ended as {state} and there is no {job.summary}; "
        "expected the workers to write it. Name a place that they and this "
        "machine have in common.") from e
  found = {record["export"]: record for record in records}
  return [found[export] for export in exports]


def build(pipeline: beam.Pipeline, exports: Sequence[str], job: Job) -> None:
  """Adds the steps of an evaluation to a pipeline."""
  tasks = [(export, shard) for export in exports
           for shard in range(job.num_shards)]
  _ = (pipeline
       | "Tasks" >> beam.Create(tasks)
       | "Spread" >> beam.Reshuffle()
       | "EvaluateShard" >> beam.ParDo(EvaluateShard(job))
       | "Export" >> beam.GroupByKey()
       | "Finish" >> beam.Map(finish, job)
       | "All" >> beam.combiners.ToList()
       | "Summary" >> beam.Map(_write_summary, job.summary))


class EvaluateShard(beam.DoFn):
  """From (export, shard) to (export, Outcome)."""

  def __init__(self, job: Job):
    self._job = job
    self._handle = shared.Shared()

  def setup(self) -> None:
    # Threads of one process have one set of models.
    self._models = self._handle.acquire(_Models)

  def process(self, task: tuple[str, int]) -> Iterator[tuple[str, Outcome]]:
    export, shard = task
    start = time.monotonic()
    try:
      outcome = _evaluate_shard(
          self._models.get(export, self._job.batch_size), shard, self._job)
    except errors.HubExportError as e:
      outcome = Outcome(shard, error=str(e))
    yield export, dataclasses.replace(
        outcome, seconds=time.monotonic() - start)


def finish(element: tuple[str, Iterable[Outcome]], job: Job) -> dict[str, Any]:
  """Returns the record of an export, after writing its predictions.

  Done twice it writes the same twice.

  Args:
    element: The export and the outcomes of its shards, in any order; one that
      comes again counts once.
    job: The run's.

  Raises:
    WriteError: if the predictions cannot be written; that may pass.
  """
  export, outcomes = element
  by_shard = {outcome.shard: outcome for outcome in outcomes}
  record = {"export": export, "error": None,
            "seconds": sum(o.seconds for o in by_shard.values())}
  try:
    found, context = _whole(by_shard, job.num_shards)
  except errors.HubExportError as e:
    return record | {"error": str(e)}
  path = _evaluation_path(export, context["dataset"], context["split"])
  with tempfile.TemporaryDirectory() as scratch:
    made = pathlib.Path(scratch, "made")
    predictions_lib.write(found, made, context)
    if "://" not in path:
      evaluation.set_aside(pathlib.Path(path), context)
    _put(path, made.read_bytes())
  # What shards had kept for being interrupted.
  shutil.rmtree(path.removesuffix(_SUFFIX) + ".parts", ignore_errors=True)
  return record | {
      "path": path, "dataset": context["dataset"], "split": context["split"],
      "num_examples": len(found), "digest": found.digest(),
      "data_digest": found.data_digest(),
      "top1": found.top1.to_dict(), "top5": found.top5.to_dict()}


def _whole(outcomes: Mapping[int, Outcome], num_shards: int
           ) -> tuple[predictions_lib.Predictions, dict[str, Any]]:
  """Returns the predictions of all shards and what they are of.

  Raises:
    HubExportError: if a shard failed or is missing, or it is not every example
      once, of one export.
  """
  failed = [shard for shard in sorted(outcomes) if outcomes[shard].error]
  if failed:
    raise errors.HubExportError(
        f"{len(failed)} of {num_shards} shards failed, first: "
        f"{outcomes[failed[0]].error}")
  missing = sorted(set(range(num_shards)) - set(outcomes))
  if missing:
    raise errors.HubExportError(
        f"{len(missing)} of {num_shards} shards are missing, such as "
        f"{missing[0]}; expected each once. Evaluate again.")
  ordered = [outcomes[shard] for shard in sorted(outcomes)]
  context, *others = [dict(o.context) for o in ordered]
  runtimes = [c.pop("runtime") for c in (context, *others)]
  if any(other != context for other in others):
    raise errors.HubExportError(
        "the export or its data set was changed while it was evaluated; "
        "expected all workers to see the same. Evaluate again.")
  parts = [o.predictions for o in ordered if o.predictions is not None]
  if not parts:
    raise errors.HubExportError(
        "no example was read; expected some. Prepare the data set again.")
  found = predictions_lib.concatenate(parts)
  problems = accuracy.counting_problems(found, ordered[0].split,
                                        ordered[0].num_classes)
  if problems:
    raise errors.HubExportError("; ".join(problems))
  evaluation.refuse_ties(found, ordered[0].has_steps)
  return found, context | {"runtime": _merged(runtimes)}


def _merged(runtimes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Returns what workers ran on; where they differ, a list, which equals no
  single machine's."""
  merged = {}
  for key in runtimes[0]:
    values = sorted({json.dumps(r[key], sort_keys=True) for r in runtimes})
    values = [json.loads(v) for v in values]
    merged[key] = values[0] if len(values) == 1 else values
  return merged


def _evaluate_shard(model: evaluation.Model, shard: int, job: Job) -> Outcome:
  own = model.manifest["dataset"]
  opened = evaluation_sets.open(
      job.dataset or own["name"], job.split or own["split"],
      pathlib.Path(job.data_dir) if job.data_dir else None)
  done = evaluation.evaluate(model, opened, shard=(shard, job.num_shards))
  return Outcome(shard, done.predictions, done.context,
                 Split(opened.name, opened.split, opened.num_examples),
                 done.num_classes,
                 has_steps=evaluation.has_steps(model.manifest))


class _Models:
  """The exports that a worker process has loaded, the last few of them."""

  def __init__(self):
    self._lock = threading.Lock()
    self._loaded = collections.OrderedDict()

  def get(self, export: str, batch_size: int) -> evaluation.Model:
    # Held while it loads: other threads would want the same one.
    with self._lock:
      if export not in self._loaded:
        while len(self._loaded) >= _MOST_MODELS:
          self._loaded.popitem(last=False)
        self._loaded[export] = _loaded(export, batch_size)
      self._loaded.move_to_end(export)
      return self._loaded[export]


def _loaded(export: str, batch_size: int) -> evaluation.Model:
  """As `_load`, but a damaged export is a HubExportError."""
  try:
    return _load(export, batch_size)
  except (ValueError, KeyError, TypeError, tf.errors.DataLossError,
          tf.errors.InvalidArgumentError, tf.errors.NotFoundError) as e:
    raise errors.HubExportError(
        f"{export} cannot be loaded ({e}); expected an export of this version "
        "of the programs. Export the checkpoint again.") from e


def _load(export: str, batch_size: int) -> evaluation.Model:
  if "://" not in export:
    return evaluation.load(pathlib.Path(export), batch_size)
  root, publisher, name, version = export.rstrip("/").rsplit("/", 3)
  copies = tempfile.TemporaryDirectory()
  fetched = pathlib.Path(copies.name, publisher, name, version)
  _fetch(export, fetched)
  manifest = export_dirs.read_manifest(fetched)
  companion = f"{root}/{manifest['companion']}"
  if manifest["kind"] != "classifier" and tf.io.gfile.isdir(companion):
    _fetch(companion, pathlib.Path(copies.name, manifest["companion"]))
  model = evaluation.load(fetched, batch_size)
  weakref.finalize(model, copies.cleanup)
  return model


def _fetch(address: str, directory: pathlib.Path) -> None:
  """Copies all files below an address; an error of TensorFlow is raised."""
  for parent, _, names in tf.io.gfile.walk(address):
    target = directory / parent[len(address):].strip("/")
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
      tf.io.gfile.copy(f"{parent.rstrip('/')}/{name}", str(target / name))


def _put(place: str, content: bytes) -> None:
  """Writes a file, whole or not at all; object stores have no other way."""
  if "://" not in place:
    export_dirs.write_file(pathlib.Path(place), content)
    return
  tf.io.gfile.makedirs(place.rpartition("/")[0])
  with tf.io.gfile.GFile(place, "wb") as f:
    f.write(content)


def _write_summary(records: Iterable[Mapping[str, Any]], summary: str) -> None:
  _put(summary, json.dumps(
      sorted(records, key=lambda r: r["export"]), indent=2).encode())


def _evaluation_path(export: str, dataset: str, split: str) -> str:
  """As export_dirs.evaluation_path, also for an address."""
  parent, _, version = export.rstrip("/").rpartition("/")
  return f"{parent}/" + export_dirs.evaluation_path(
      pathlib.Path(version), dataset, split, _SUFFIX).as_posix()


def _runner(name: str) -> runner_lib.PipelineRunner:
  # Beam's DirectRunner would first download another runner and try that.
  if name == "DirectRunner":
    return fn_api_runner.FnApiRunner()
  try:
    return runner_lib.create_runner(name)
  except (ImportError, ValueError, AttributeError) as e:
    raise errors.UsageError(
        f"Apache Beam cannot make the runner {name!r} ({e}); expected one such "
        "as DirectRunner, FlinkRunner or DataflowRunner (which needs "
        "apache-beam[gcp])") from e


def _options(arguments: Sequence[str]) -> pipeline_options.PipelineOptions:
  """Returns Beam's options; it would pass over those that it does not know."""
  try:
    options = pipeline_options.PipelineOptions(list(arguments))
    unknown = (options.get_all_options(retain_unknown_options=True).keys()
               - options.get_all_options().keys())
  except SystemExit as e:  # Of argparse, which has printed what is wrong.
    raise errors.UsageError(
        f"Apache Beam does not take the options {' '.join(arguments)}") from e
  if unknown:
    raise errors.UsageError(
        f"Apache Beam has no option {', '.join(sorted(unknown))}; expected "
        "pipeline options of the installed version")
  return options

