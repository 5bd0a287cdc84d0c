"""From what the user typed to a checkpoint: no surprise, and no silence."""

import dataclasses
import hashlib
import json
import pathlib
import shutil

import h5py
import numpy as np
import pytest
import tf_keras

from hub_export import errors
from hub_export.regnet import demo
from hub_export.regnet import family
from hub_export.regnet import resolve
from hub_export.regnet import variants
from hub_export.regnet import catalog

VARIANT = variants.by_name("200mf")


def _saved(directory, classes):
  path = directory / f"{classes}.h5"
  model = tf_keras.applications.RegNetY002(
      weights=None, include_top=bool(classes), classes=classes or 1000,
      input_shape=(32, 32, 3))
  model.save_weights(path)
  return path


@pytest.fixture(name="weights", scope="module")
def _weights(tmp_path_factory):
  return _saved(tmp_path_factory.mktemp("weights"), 1000)


@pytest.fixture(name="ten_classes", scope="module")
def _ten_classes(tmp_path_factory):
  return _saved(tmp_path_factory.mktemp("ten"), 10)


@pytest.fixture(name="demo_file")
def _demo_file(ten_classes, tmp_path, monkeypatch):
  """A file such as demo.py makes, without the minute that training takes."""
  path = pathlib.Path(shutil.copy(ten_classes, tmp_path / "demo.h5"))
  with h5py.File(path, "r+") as f:
    f.attrs["regnety_hub_demo"] = json.dumps(
        {"dataset": "optical_digits", "split": "test", "top1": 97.5,
         "top5": 100.0})
  monkeypatch.setattr(demo, "checkpoint", lambda variant, cache: path)
  return path


@pytest.fixture(name="published")
def _published(weights, monkeypatch):
  """Makes the catalog's 200MF entry one whose hash is that of `weights`."""
  digest = hashlib.sha256(weights.read_bytes()).hexdigest()
  entries = list(catalog.ENTRIES)
  remote = dataclasses.replace(entries[0].files[0], sha256=digest)
  entries[0] = dataclasses.replace(entries[0], files=(remote,))
  monkeypatch.setattr(catalog, "ENTRIES", tuple(entries))
  return entries[0]


class Case:
  """Resolves in a cache of its own; what is said lands in `said`."""

  def __init__(self, tmp_path):
    self.cache, self.said = tmp_path / "cache", []

  def __call__(self, request, variant=VARIANT):
    return resolve.resolve(request, variant, self.cache, True, pathlib.Path,
                           self.said.append)


@pytest.fixture(name="case")
def _case(tmp_path):
  return Case(tmp_path)


def put_into_cache(case, weights):
  directory = case.cache / "keras_regnety002"
  directory.mkdir(parents=True)
  shutil.copy(weights, directory / "regnety002.h5")


class TestDefault:

  def test_published_weights_where_they_are(self, case, weights, published):
    put_into_cache(case, weights)
    resolved = case(None)
    assert (resolved.source, resolved.location) == ("keras", published.name)
    assert not resolved.is_demo
    assert resolved.reported.top1 == 68.51
    assert resolved.dataset.name == "imagenet2012"
    assert case.said == []

  def test_falls_back_to_the_demo_aloud(self, case, demo_file):
    resolved = case(None)
    assert resolved.is_demo and resolved.location == "demo"
    assert resolved.dataset.name == "optical_digits"
    assert (resolved.reported.top1, resolved.reported.top5) == (97.5, 100.0)
    said = "\n".join(case.said)
    assert "keras:regnety002 is not in the cache" in said
    assert "Falling back to the demo checkpoint" in said
    assert str(demo_file) in said

  def test_damaged_in_the_cache_is_told_too(self, case, weights, published,
                                            demo_file):
    put_into_cache(case, weights)
    path = case.cache / "keras_regnety002" / "regnety002.h5"
    path.write_bytes(b"damaged")
    assert case(None).files[0]["name"] == demo_file.name
    assert f"{path} is damaged" in case.said[0]
    assert published.files[0].sha256 in case.said[0]


class TestExplicit:

  def test_catalog_name_does_not_fall_back(self, case, demo_file):
    with pytest.raises(errors.UnavailableError, match="keras:regnety002"):
      case("keras:regnety002")
    with pytest.raises(errors.UnavailableError, match="regnety:200mf"):
      case("regnety:200mf")
    assert case.said == [] and demo_file.is_file()

  def test_catalog_name(self, case, weights, published):
    put_into_cache(case, weights)
    resolved = case("keras:regnety002")
    content = weights.read_bytes()
    assert resolved.location == "keras:regnety002"
    assert resolved.files == ({
        "name": "regnety002.h5", "bytes": len(content),
        "sha256": published.files[0].sha256},)

  def test_missing_path_does_not_fall_back(self, case, demo_file, tmp_path):
    with pytest.raises(errors.CheckpointError, match="is not there"):
      case(str(tmp_path / "weights.h5"))
    assert case.said == [] and demo_file.is_file()

  @pytest.mark.parametrize("name,actual", [
      ("keras:regnety006", "regnety_600mf"),
      ("regnety:400mf", "regnety_400mf")])
  def test_name_of_another_variant(self, case, name, actual):
    with pytest.raises(errors.UsageError) as e:
      case(name)
    assert f"{name} is a {actual}; expected a regnety_200mf" in str(e.value)
    assert f"--variant={actual}" in str(e.value)

  @pytest.mark.parametrize("name", [
      "keras:regnety016", "regnety:200", "keras:"])
  def test_unknown_name(self, case, name):
    with pytest.raises(errors.UsageError, match="the catalog has no check"):
      case(name)

  @pytest.mark.parametrize("url", [
      "https://example.org/weights.h5", "gs://bucket/weights", "file:///a.h5"])
  def test_url(self, case, url):
    with pytest.raises(errors.UsageError, match="is a URL") as e:
      case(url)
    assert url in str(e.value) and "Download it" in str(e.value)

  def test_demo_by_name(self, case, demo_file):
    resolved = case("demo")
    assert resolved.is_demo
    assert case.said == [f"Demo checkpoint: {demo_file}"]


class TestLocal:

  def test_copy_of_a_published_file_is_recognised(self, case, weights,
                                                  published, tmp_path):
    path = shutil.copy(weights, tmp_path / "my_copy.h5")
    resolved = case(str(path))
    assert resolved.location == published.name
    assert resolved.reported == published.accuracy

  def test_own_file_has_no_reported_accuracy(self, case, weights, published,
                                             tmp_path):
    path = pathlib.Path(shutil.copy(weights, tmp_path / "own.h5"))
    with h5py.File(path, "r+") as f:
      layer = "regnety002_stem_bn"
      f[layer][layer]["gamma:0"][0] += np.float32(1)
    resolved = case(str(path))
    assert resolved.reported is None and resolved.source == "keras"
    # The name alone: directories are the user's.
    assert resolved.location == "own.h5"
    assert str(tmp_path) not in repr(resolved.files)

  def test_classes_that_nobody_knows(self, case, ten_classes):
    with pytest.raises(errors.CheckpointError) as e:
      case(str(ten_classes))
    assert "10 classes, whose names are not known" in str(e.value)
    assert "1000" in str(e.value)

  def test_headless_file(self, case, tmp_path):
    resolved = case(str(_saved(tmp_path, 0)))
    assert resolved.checkpoint.num_classes == 0
    assert resolved.reported is None

  def test_nothing_is_made_up_of_an_own_file(self, case, tmp_path):
    """Its layout is tf_keras', its history is not."""
    resolved = case(str(_saved(tmp_path, 1000)))
    assert resolved.is_own and not resolved.is_demo
    assert resolved.licence_id == "custom"
    assert resolved.training.startswith("Not stated by the exporter.")
    assert resolved.licence.startswith("Not stated by the exporter;")
    module = next(iter(family.hub_modules(resolved, "main")))
    assert "trained on" not in module.manifest["card"]["description"]

  def test_name_too_long_for_the_file_system(self, case):
    with pytest.raises(errors.CheckpointError, match="too long"):
      case("x" * 300 + ".h5")

  def test_own_demo_file_is_still_a_demo(self, case, demo_file):
    resolved = case(str(demo_file))
    assert resolved.is_demo and resolved.dataset.name == "optical_digits"

  @pytest.mark.parametrize("metadata", [
      "{}", "[]", "7", '"text"', '{"dataset": "optical_digits", "top1": "x"}',
      '{"dataset": "mnist", "split": "test", "top1": 99.0, "top5": 100.0}'])
  def test_damaged_metadata(self, case, demo_file, metadata):
    with h5py.File(demo_file, "r+") as f:
      f.attrs["regnety_hub_demo"] = metadata
    with pytest.raises(errors.CheckpointError, match="--checkpoint=demo"):
      case(str(demo_file))

  def test_metadata_that_are_no_json(self, case, demo_file):
    with h5py.File(demo_file, "r+") as f:
      f.attrs["regnety_hub_demo"] = "{"
    with pytest.raises(errors.CheckpointError, match="demo.h5"):
      case(str(demo_file))

  def test_another_variant_is_named(self, case, weights):
    with pytest.raises(errors.CheckpointError, match="is a regnety_200mf"):
      case(str(weights), variants.by_name("800mf"))
