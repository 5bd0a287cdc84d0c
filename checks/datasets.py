r"""Lists the data sets to evaluate on: which are ready, how to prepare others.

  bazel run //checks:datasets
  bazel run //checks:datasets -- --dataset=imagenet_v2/topimages
  bazel run //checks:datasets -- --dataset=folder:/data/pets
  bazel run //checks:datasets -- --dataset=imagenet_a --prepare

The name in the first column is what //checks:check takes as --dataset. It
takes any other TFDS name of images with labels as well, and folder:PATH for
images in PATH/<split>/<class>/*.jpg, where classes are called by WordNet ids,
by the model's class names or by its numbers.

Exit status: 0 done, 1 the data set of --dataset is not ready, 2 wrong usage.
"""

import logging as python_logging
import os
import sys
from collections.abc import Sequence

from absl import flags

from hub_export import errors
from hub_export import program

_DATASET = flags.DEFINE_string(
    "dataset", None,
    "Show only this one, in detail: a name of the table, another name of TFDS, "
    "or folder:PATH.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None,
    "TFDS' directory of prepared data sets; by default TFDS' own, and for the "
    "embedded digits one in the cache.")
_PREPARE = flags.DEFINE_bool(
    "prepare", False,
    "Prepare the data set of --dataset; downloads what its publisher lets "
    "programs download.")
_MANUAL_DIR = flags.DEFINE_string(
    "manual_dir", None,
    "Directory of the archives that you got yourself; by default "
    "downloads/manual in TFDS' directory.")


def main(_: Sequence[str]) -> int:
  if _DATASET.value is None and (_PREPARE.value or _MANUAL_DIR.value):
    raise errors.UsageError(
        "--prepare and --manual_dir are for one data set; expected its name as "
        "--dataset")
  # TensorFlow takes seconds to import; usage errors have come before.
  with program.quiet_start():
    from checks import preparation  # pylint: disable=g-import-not-at-top
    from checks import set_status  # pylint: disable=g-import-not-at-top

  # TFDS 4.9.10 uses what TensorFlow 2.21 calls deprecated.
  python_logging.getLogger("tensorflow").setLevel(python_logging.ERROR)
  data_dir = program.user_path(_DATA_DIR.value) if _DATA_DIR.value else None
  if _DATASET.value is None:
    _print(set_status.overview(data_dir))
    return 0
  manual_dir = (program.user_path(_MANUAL_DIR.value) if _MANUAL_DIR.value
                else None)
  if _PREPARE.value:
    path = preparation.prepare(_DATASET.value, data_dir, manual_dir)
    print(f"prepared in {path}\n")
  text, is_ready = set_status.details(_DATASET.value, data_dir, manual_dir)
  _print(text)
  return 0 if is_ready else 1


def _print(text: str) -> None:
  try:
    print(text, flush=True)
  except BrokenPipeError:  # Such as of `| head`: it has seen enough.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
  program.run(main)
