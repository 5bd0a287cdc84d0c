r"""Evaluates an export on a data set; what the checks do for accuracy, alone.

  bazel run //checks:evaluate -- \
      --export_dir=exports/local/regnety600mf_classification/1 \
      --dataset=imagenet_v2/matched-frequency --split=test

On several devices or machines it gives the same counts; the checks, run after
it on the same kind of device, take its predictions over. Exit status: 0 if
every image was counted once, 1 if not or if something is lacking, 2 on wrong
usage.
"""

import contextlib
import logging as python_logging
import pathlib
import sys
import warnings
from collections.abc import Sequence

from absl import flags
import tqdm

from hub_export import errors
from hub_export import export_dirs
from hub_export import program

_EXPORT_DIR = flags.DEFINE_string(
    "export_dir", None,
    "Directory of one module's version, <output_dir>/<publisher>/<name>/"
    "<version>.", required=True)
_DATASET = flags.DEFINE_string(
    "dataset", None,
    "Data set to evaluate on, as //checks:datasets lists them; by default that "
    "of the manifest.")
_SPLIT = flags.DEFINE_string(
    "split", None, "Split to evaluate on; by default that of the manifest.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None,
    "TFDS' directory of prepared data sets; by default TFDS' own, and for the "
    "embedded digits one in the cache.")
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 64, "Images per step and device.", lower_bound=1)
_FRESH = flags.DEFINE_bool(
    "fresh", False,
    "Evaluate every image anew. By default the predictions that this export "
    "has made on this kind of device are used again, so that an evaluation "
    "that was interrupted goes on where it was.")
_STRATEGY = flags.DEFINE_enum(
    "strategy", "default", ("default", "mirrored", "multi_worker", "tpu"),
    "Where it runs: default, on one device; mirrored, on all GPUs of this "
    "machine (or --cpu_devices); multi_worker, on the machines in TF_CONFIG, "
    "on each of which this program runs, with the exports in a directory that "
    "all of them see; tpu, on the TPU that --tpu names.")
_TPU = flags.DEFINE_string("tpu", None, "Name or address of a TPU.")
_CPU_DEVICES = flags.DEFINE_integer(
    "cpu_devices", 1, "Logical devices that the CPU is divided into, for "
    "--strategy=mirrored.", lower_bound=1)


def main(_: Sequence[str]) -> int:
  export_dir = program.user_path(_EXPORT_DIR.value)
  manifest = export_dirs.read_manifest(export_dir)
  if _FRESH.value and _STRATEGY.value == "multi_worker":
    raise errors.UsageError(
        "--fresh is not for --strategy=multi_worker; remove "
        f"{export_dir.name}.evaluations beside the export instead")
  warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
  with program.quiet_start():
    # pylint: disable=g-import-not-at-top
    import tensorflow as tf
    from checks import evaluation
    from checks import evaluation_sets
    from checks import strategies
  python_logging.getLogger("tensorflow").setLevel(python_logging.ERROR)
  if _CPU_DEVICES.value > 1:
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * _CPU_DEVICES.value)
  # Before anything else of TensorFlow: several workers must find each other.
  strategy = strategies.make(_STRATEGY.value, _TPU.value)
  opened = evaluation_sets.open(
      _DATASET.value or manifest["dataset"]["name"],
      _SPLIT.value or manifest["dataset"]["split"],
      program.user_path(_DATA_DIR.value) if _DATA_DIR.value else None)
  model = evaluation.Model(export_dir, _BATCH_SIZE.value, strategy=strategy)
  index, workers = strategies.place(strategy)
  with _bar() as on_examples:
    if workers > 1:
      evaluation.evaluate(model, opened, on_examples, shard=(index, workers))
      strategies.wait_for_all(strategy)
      if index:
        # The first one must not be left alone before it has put all together.
        strategies.wait_for_all(strategy)
        print(f"{manifest['handle']}: worker {index} of {workers} is done; "
              "worker 0 says what came out.")
        return 0
    done = evaluation.evaluate(model, opened, on_examples, _FRESH.value)
    if workers > 1:
      strategies.wait_for_all(strategy)
  return _conclude(manifest["handle"], export_dir, opened, done)


def _conclude(handle: str, export_dir: pathlib.Path, opened, done) -> int:
  """Prints what came out; returns the exit status."""
  from checks import accuracy  # pylint: disable=g-import-not-at-top
  found = done.predictions
  problems = accuracy.counting_problems(found, opened)
  path = export_dirs.evaluation_path(
      program.shown_path(export_dir), opened.name, opened.split, ".parquet")
  print(f"{handle} on {opened.name}/{opened.split}")
  for name, rate in (("top-1", found.top1), ("top-5", found.top5)):
    if rate.total:
      record = rate.to_dict()
      print(f"{name}  {record['value']:.2f} % ({record['low']:.2f} to "
            f"{record['high']:.2f}), {rate.correct:,} of {rate.total:,}")
  if done.reused and _STRATEGY.value != "multi_worker":
    print(f"{done.reused:,} images had been evaluated before.")
  print(f"predictions  {path}")
  if problems:
    raise errors.ChecksError("; ".join(problems))
  return 0


@contextlib.contextmanager
def _bar():
  """Yields a function that draws a bar on a terminal's standard error."""
  bar = tqdm.tqdm(unit="image", leave=False, disable=None, dynamic_ncols=True,
                  file=sys.stderr)

  def on_examples(done: int, total: int, correct: int) -> None:
    bar.total = total
    if done:
      bar.set_postfix_str(f"top-1 {100 * correct / done:.2f} %", refresh=False)
    bar.update(done - bar.n)

  try:
    yield on_examples
  finally:
    bar.close()


if __name__ == "__main__":
  program.run(main)
