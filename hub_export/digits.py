"""The embedded data set: optical digits as a small TFDS data set.

1,797 images of 8x8 from the UCI repository (third_party/optical_digits), under
CC BY 4.0. The splits are fixed: of the file's lines, counted from 0, every
fifth is "test" (360), the others are "train" (1,437). Preparing it needs no
network.
"""

import contextlib
import csv
import gzip
import hashlib
import io
import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from hub_export import errors
from hub_export import export_dirs
from hub_export import labels
from hub_export import program

NAME = "optical_digits"
NUM_EXAMPLES = {"test": 360, "train": 1437}

# Beside the package, also in Bazel's runfiles; not resolved, as those are
# symbolic links to single files.
_FILE = (pathlib.Path(__file__).parents[1]
         / "third_party" / "optical_digits" / "digits.csv.gz")
_FILE_SHA256 = (
    "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22")


class OpticalDigits(tfds.core.GeneratorBasedBuilder):
  """The TFDS builder `optical_digits`."""

  name = NAME
  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "scikit-learn's 1,797 images, fixed splits."}
  # There are no package files beside this builder for TFDS to look for.
  pkg_dir_path = None

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
        builder=self,
        description="Handwritten digits, 8x8 grey (UCI, CC BY 4.0).",
        features=tfds.features.FeaturesDict({
            "image": tfds.features.Image(
                shape=(8, 8, 1), dtype=np.uint8, encoding_format="png"),
            "label": tfds.features.ClassLabel(names=list(labels.DIGITS)),
            "file_name": tfds.features.Text(),
        }),
        supervised_keys=("image", "label"),
        homepage="https://doi.org/10.24432/C50P49",
        license="CC BY 4.0",
        disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # Nothing to download.
    rows = list(enumerate(_rows()))
    return {
        "train": self._generate_examples(
            [row for row in rows if row[0] % 5 != 0]),
        "test": self._generate_examples(
            [row for row in rows if row[0] % 5 == 0]),
    }

  def _generate_examples(self, rows):
    for index, (image, label) in rows:
      yield index, {"image": image, "label": label,
                    "file_name": f"digit_{index:05d}.png"}


def prepare(data_dir: pathlib.Path | None = None) -> tfds.core.DatasetBuilder:
  """Returns the builder, after preparing the data set if that is needed.

  Several processes may call this at once; one prepares, the others wait.

  Args:
    data_dir: TFDS' directory of data sets; by default one in the cache.

  Raises:
    WriteError: if the directory cannot be written.
    HubExportError: if the embedded file is missing or damaged.
  """
  if data_dir is None:
    data_dir = program.cache_dir() / "tensorflow_datasets"
  with export_dirs.write_errors(data_dir):
    builder = OpticalDigits(data_dir=data_dir)
    if builder.data_path.exists():  # TFDS renames it there when it is whole.
      return _checked(builder)
    data_dir.mkdir(parents=True, exist_ok=True)
    with export_dirs.lock(data_dir / f".{NAME}.lock", create=True):
      builder = OpticalDigits(data_dir=data_dir)
      with _quiet():
        builder.download_and_prepare()
  return _checked(builder)


def load(split: str, data_dir: pathlib.Path | None = None
         ) -> tuple[np.ndarray, np.ndarray]:
  """Returns (images, labels) of a split in the order of the embedded file.

  Args:
    split: "train" or "test".
    data_dir: As for `prepare`.

  Returns:
    uint8 [n, 8, 8, 1] in 0-255, and int64 [n] in 0-9.
  """
  if split not in NUM_EXAMPLES:
    raise errors.HubExportError(
        f"{NAME} has no split {split!r}; expected one of "
        f"{', '.join(sorted(NUM_EXAMPLES))}")
  dataset = prepare(data_dir).as_dataset(split=split, shuffle_files=False)
  examples = sorted(tfds.as_numpy(dataset), key=lambda e: e["file_name"])
  return (np.stack([e["image"] for e in examples]),
          np.array([e["label"] for e in examples], np.int64))


def _rows() -> list[tuple[np.ndarray, int]]:
  """Returns (uint8 image [8, 8, 1], digit) of each line of the file."""
  try:
    content = _FILE.read_bytes()
  except OSError as e:
    raise errors.HubExportError(
        f"{_FILE} cannot be read ({e.strerror}); expected the digits that come "
        "with this repository. Restore the file.") from e
  found = hashlib.sha256(content).hexdigest()
  if found != _FILE_SHA256:
    raise errors.HubExportError(
        f"{_FILE} has the SHA-256 {found}; expected {_FILE_SHA256}. Restore "
        "the file from the repository.")
  table = csv.reader(gzip.decompress(content).decode("ascii").splitlines())
  rows = []
  for line in table:
    values = np.array([float(v) for v in line])  # The digits' ink, 0 to 16.
    image = np.round(values[:-1].reshape(8, 8, 1) * 255 / 16)
    rows.append((image.astype(np.uint8), int(values[-1])))
  return rows


def _checked(builder: tfds.core.DatasetBuilder) -> tfds.core.DatasetBuilder:
  """Returns `builder`, if what lies on disk has the right sizes."""
  found = {name: split.num_examples
           for name, split in builder.info.splits.items()}
  if found != NUM_EXAMPLES:
    raise errors.HubExportError(
        f"{builder.data_path} holds {found} examples; expected "
        f"{NUM_EXAMPLES}. Remove the directory; it is prepared anew.")
  return builder


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences TFDS' messages and bars, too short-lived to be read."""
  with (contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO())):
    yield
