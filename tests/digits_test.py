"""Tests of the embedded digits: their file, splits and preparation."""

import gzip
import multiprocessing
import pathlib

import numpy as np
import pytest

from hub_export import digits
from hub_export import errors
from hub_export import labels

# The first image of the data set, 0 to 16, as scikit-learn's documentation of
# load_digits prints it; it is a zero.
FIRST = np.array([
    [0, 0, 5, 13, 9, 1, 0, 0], [0, 0, 13, 15, 10, 15, 5, 0],
    [0, 3, 15, 2, 0, 11, 8, 0], [0, 4, 12, 0, 0, 8, 8, 0],
    [0, 5, 8, 0, 0, 9, 8, 0], [0, 4, 11, 0, 1, 12, 7, 0],
    [0, 2, 14, 5, 10, 12, 0, 0], [0, 0, 6, 13, 10, 0, 0, 0]])

# Examples per digit in all 1,797, from the UCI repository's optdigits.names.
COUNTS = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


class TestLoad:

  def test_values_are_ink_scaled_to_255(self, data_dir):
    images, targets = digits.load("test", data_dir)
    assert images.dtype == np.uint8
    np.testing.assert_allclose(images[0, :, :, 0], FIRST * 255 / 16, atol=0.5)
    assert targets[0] == 0

  def test_every_fifth_line_is_for_testing(self, data_dir):
    # Lines 0, 5, 10, 15 ... of the file and the others; read with gzip here.
    file = pathlib.Path(digits.__file__).parents[1] / (
        "third_party/optical_digits/digits.csv.gz")
    lines = gzip.decompress(file.read_bytes()).decode().splitlines()
    expected = [int(float(line.rsplit(",", 1)[1])) for line in lines]
    _, test = digits.load("test", data_dir)
    _, train = digits.load("train", data_dir)
    assert test.tolist() == expected[::5]
    assert train.tolist() == [
        label for i, label in enumerate(expected) if i % 5]
    assert np.bincount([*test, *train]).tolist() == COUNTS

  def test_split_unknown(self, data_dir):
    with pytest.raises(errors.HubExportError,
                       match="no split 'validation'.*test, train"):
      digits.load("validation", data_dir)


class TestPrepare:

  def test_class_names(self, data_dir):
    feature = digits.prepare(data_dir).info.features["label"]
    assert feature.names[7] == "seven"
    assert tuple(feature.names) == labels.names("optical_digits")

  def test_many_processes_at_once(self, tmp_path):
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
      sizes = pool.map(_prepared_size, [tmp_path] * 2)
    assert sizes == [360, 360]
    left = sorted(p.name for p in (tmp_path / digits.NAME).iterdir())
    assert left == ["1.0.0"]

  def test_not_a_directory(self, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.WriteError, match="cannot write .*file"):
      digits.prepare(tmp_path / "file" / "data")

  def test_damaged_data_set(self, tmp_path):
    (tmp_path / "optical_digits" / "1.0.0").mkdir(parents=True)
    with pytest.raises(errors.HubExportError, match="Remove the directory"):
      digits.prepare(tmp_path)

  def test_damaged_file(self, tmp_path, monkeypatch):
    (tmp_path / "digits.csv.gz").write_bytes(gzip.compress(b"1,2,3\n"))
    monkeypatch.setattr(digits, "_FILE", tmp_path / "digits.csv.gz")
    with pytest.raises(errors.HubExportError, match="SHA-256.*Restore"):
      digits.prepare(tmp_path / "data")

  def test_missing_file(self, tmp_path, monkeypatch):
    monkeypatch.setattr(digits, "_FILE", tmp_path / "none.csv.gz")
    with pytest.raises(errors.HubExportError, match="cannot be read"):
      digits.prepare(tmp_path / "data")


def _prepared_size(data_dir):
  return digits.prepare(data_dir).info.splits["test"].num_examples
