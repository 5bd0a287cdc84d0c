r"""Evaluates many exports, each example once, on many processes or machines.

  bazel run //checks:evaluate_fleet -- \
      --export_dir='exports/local/*/[0-9]*' --workers=2

Leaves the predictions where //checks:check finds them and need not evaluate
again on the same kind of machine. With another --runner, exports and data are
where its workers see them: on a file system that all have in common, or the
exports at an address such as gs://bucket/exports.

Exit status: 0 if all were evaluated, 1 if one could not be, 2 on wrong usage.
"""

import pathlib
import shlex
import warnings
from collections.abc import Sequence

from absl import flags

from hub_export import errors
from hub_export import program

_EXPORT_DIR = flags.DEFINE_multi_string(
    "export_dir", None,
    "Directory or address of one module's version; may be a pattern, a list "
    "with commas, and given more than once.", required=True)
_DATASET = flags.DEFINE_string(
    "dataset", None,
    "TFDS name of the data set to evaluate on; by default that of each "
    "manifest.")
_SPLIT = flags.DEFINE_string(
    "split", None, "Split to evaluate on; by default that of each manifest.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None,
    "TFDS' directory of prepared data sets, on every worker; by default TFDS' "
    "own, and for the embedded digits one in the cache.")
_RUNNER = flags.DEFINE_string(
    "runner", "DirectRunner",
    "Apache Beam's runner: DirectRunner (this machine), FlinkRunner, "
    "DataflowRunner, ...")
_WORKERS = flags.DEFINE_integer(
    "workers", 1, "Processes of DirectRunner.", lower_bound=1)
_BEAM_OPTIONS = flags.DEFINE_string(
    "beam_options", "",
    "Options for Beam and its runner, such as "
    "'--flink_master=flink:8081 --parallelism=16'.")
_NUM_SHARDS = flags.DEFINE_integer(
    "num_shards", 8,
    "Parts of each export's split, evaluated on their own.", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 64, "Images per step of the evaluation.", lower_bound=1)
_SUMMARY = flags.DEFINE_string(
    "summary", "evaluate_fleet.json",
    "Path or address of the summary that the workers write, a JSON list.")


def main(_: Sequence[str]) -> int:
  if _WORKERS.value > 1 and _RUNNER.value != "DirectRunner":
    raise errors.UsageError(
        "--workers is for DirectRunner; expected the runner's own options in "
        "--beam_options")
  # tensorflow-hub 0.16.1 makes setuptools warn about tensorflow-hub.
  warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
  try:
    import apache_beam  # pylint: disable=g-import-not-at-top,unused-import
  except ImportError as e:
    raise errors.UsageError(
        "Apache Beam is not installed here; start this program with Bazel, or "
        "pip install -r tools/python/requirements-fleet.txt") from e
  with program.quiet_start():
    from checks import fleet  # pylint: disable=g-import-not-at-top

  options = shlex.split(_BEAM_OPTIONS.value)
  if _WORKERS.value > 1:
    options += ["--direct_running_mode=multi_processing",
                f"--direct_num_workers={_WORKERS.value}"]
  exports = fleet.find([
      _place(pattern) for value in _EXPORT_DIR.value
      for pattern in value.split(",")])
  records = fleet.run(exports, fleet.Job(
      dataset=_DATASET.value, split=_SPLIT.value,
      data_dir=_DATA_DIR.value and str(program.user_path(_DATA_DIR.value)),
      num_shards=_NUM_SHARDS.value, batch_size=_BATCH_SIZE.value,
      summary=_place(_SUMMARY.value)), _RUNNER.value, options)
  failed = [record for record in records if record["error"]]
  for record in records:
    print(_line(record))
  print(f"\n{len(records) - len(failed)} of {len(records)} exports evaluated; "
        f"summary {_shown(_place(_SUMMARY.value))}")
  if failed:
    raise errors.HubExportError(errors.join_problems(
        f"{len(failed)} of {len(records)} exports could not be evaluated",
        [f"{_shown(r['export'])}: {r['error']}" for r in failed],
        "What was written before of them was left as it was."))
  return 0


def _line(record) -> str:
  if record["error"]:
    return f"{_shown(record['export'])}: FAILED"
  top1, top5 = record["top1"], record["top5"]
  return (f"{_shown(record['export'])}: top-1 {top1['value']:.2f} % "
          f"({top1['correct']:,} of {top1['total']:,}), top-5 "
          f"{top5['value']:.2f} % on {record['dataset']}/{record['split']}, "
          f"{record['num_examples']:,} examples, {record['seconds']:.0f} s of "
          f"work, digest {record['digest'][:12]}")


def _place(path: str) -> str:
  return path if "://" in path else str(program.user_path(path))


def _shown(path: str) -> str:
  return path if "://" in path else str(
      program.shown_path(pathlib.Path(path)))


if __name__ == "__main__":
  program.run(main)
