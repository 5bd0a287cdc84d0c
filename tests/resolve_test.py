"""From what the user typed to a checkpoint: no surprise, and no silence."""

import dataclasses
import hashlib
import json
import pathlib
import re
import shutil

import h5py
import numpy as np
import pytest
import tf_keras

from hub_export import download
from hub_export import errors
from hub_export import preprocessing
from hub_export.regnet import demo
from hub_export.regnet import family
from hub_export.regnet import resolve
from hub_export.regnet import variants
from hub_export.regnet import wishes
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
  place = entries.index(catalog.by_name("keras:regnety002"))
  remote = dataclasses.replace(entries[place].files[0], sha256=digest)
  entries[place] = dataclasses.replace(entries[place], files=(remote,))
  monkeypatch.setattr(catalog, "ENTRIES", tuple(entries))
  return entries[place]


class Case:
  """Resolves in a cache of its own; what is said lands in `said`."""

  def __init__(self, tmp_path):
    self.cache, self.said = tmp_path / "cache", []

  def __call__(self, request, variant=VARIANT, **said):
    return resolve.resolve(
        request, variant, self.cache, wishes.Wishes(offline=True, **said),
        pathlib.Path, self.said.append)


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

  def test_no_demo_for_images_of_another_size(self, case, demo_file):
    with pytest.raises(errors.UnavailableError) as e:
      case(None, image_size=256)
    assert "keras:regnety002 is not in the cache" in str(e.value)
    assert "--image_size asks for others" in str(e.value)
    assert case.said == [] and demo_file.is_file()

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
      "keras:regnety000", "regnety:200", "keras:", "timm:regnety_600mf"])
  def test_unknown_name(self, case, name):
    with pytest.raises(errors.UsageError, match="the catalog has no check"):
      case(name)

  @pytest.mark.parametrize("url", ["gs://bucket/weights", "file:///a.h5"])
  def test_url_of_no_file(self, case, url):
    with pytest.raises(errors.UsageError, match="https://host/path/file") as e:
      case(url)
    assert url in str(e.value)

  def test_url_is_taken_from_the_cache(self, case, weights, monkeypatch):
    url = "https://example.org/some/weights.h5"
    with pytest.raises(errors.UnavailableError, match="--offline"):
      case(url)
    monkeypatch.setattr(
        download, "fetch_url",
        lambda asked, cache, offline: weights if asked == url else None)
    resolved = case(url)
    assert resolved.location == url and resolved.is_own

  def test_password_in_a_url_is_nobodys_business(self, case, weights):
    url = "https://me:hidden@example.org/weights.h5?key=hidden"
    with pytest.raises(errors.UnavailableError, match="--offline") as e:
      case(url)
    place, = re.findall(r"\((/\S+)\)", str(e.value))
    pathlib.Path(place).parent.mkdir(parents=True)
    shutil.copy(weights, place)
    resolved = case(url)
    assert resolved.location == "https://example.org/weights.h5"
    assert "hidden" not in str(e.value) + repr(resolved.files)

  def test_restricted_licence_is_accepted_first(self, case):
    name = "timm:regnety_160.swag_ft_in1k"
    with pytest.raises(errors.UsageError) as e:
      case(name, None)
    assert "CC-BY-NC-4.0: no commercial use" in str(e.value)
    assert "--accept_license=cc-by-nc-4.0" in str(e.value)
    with pytest.raises(errors.UsageError, match="--accept_license"):
      case(name, None, accepted_licences=("seer",))
    # Accepted: the next thing that is missing is the file.
    with pytest.raises(errors.UnavailableError):
      case(name, None, accepted_licences=("CC-BY-NC-4.0",))

  @pytest.mark.parametrize("said", [
      {"labels": pathlib.Path("x")}, {"mean": (0.5,) * 3}, {"licence": "mit"},
      {"channel_order": "BGR"}, {"dataset": "mnist"},
      {"reported_top1": 70.0}])
  @pytest.mark.parametrize("request_", [None, "demo", "keras:regnety002"])
  def test_what_is_known_is_not_said_otherwise(self, case, request_, said):
    with pytest.raises(errors.UsageError, match=f"--{next(iter(said))} is for"):
      case(request_, **said)

  def test_no_demo_of_the_largest_unasked(self, case):
    with pytest.raises(errors.UnavailableError) as e:
      case(None, variants.by_name("32gf"))
    assert "keras:regnety320" in str(e.value)
    assert "--checkpoint=demo" in str(e.value)

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

  def test_restricted_licence_of_a_copy(self, case, weights, published,
                                        monkeypatch, tmp_path):
    path = shutil.copy(weights, tmp_path / "renamed.h5")
    entries = [dataclasses.replace(e, licence_name="cc-by-nc-4.0")
               if e is published else e for e in catalog.ENTRIES]
    monkeypatch.setattr(catalog, "ENTRIES", tuple(entries))
    with pytest.raises(errors.UsageError, match="--accept_license"):
      case(str(path))

  def test_classes_that_nobody_names(self, case, ten_classes):
    resolved = case(str(ten_classes))
    assert resolved.labels == tuple(f"class {i}" for i in range(10))
    assert "--labels=FILE" in "\n".join(case.said)
    assert resolved.dataset.name == "own"
    module = next(iter(family.hub_modules(resolved, "main")))
    assert module.name == "regnety200mf_own_classification"
    assert module.labels == resolved.labels

  def test_own_class_names(self, case, ten_classes, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("".join(f"digit {i}\n" for i in range(10)))
    resolved = case(str(ten_classes), labels=names, dataset="My-Digits",
                    split="train[:10%]")
    assert resolved.labels[3] == "digit 3" and case.said == []
    assert (resolved.dataset.name, resolved.dataset.split) == (
        "My-Digits", "train[:10%]")
    assert resolved.dataset.infix == "my_digits_"

  def test_known_data_set(self, case, ten_classes):
    resolved = case(str(ten_classes), dataset="optical_digits")
    assert resolved.labels[:2] == ("zero", "one")
    assert resolved.dataset.infix == "digits_" and not resolved.is_demo

  def test_class_names_of_too_few(self, case, ten_classes, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("one\ntwo")
    with pytest.raises(errors.UsageError, match="there are 2 lines"):
      case(str(ten_classes), labels=names)

  def test_how_an_own_file_is_fed(self, case, ten_classes):
    resolved = case(
        str(ten_classes), image_size=288, interpolation="bicubic",
        antialias=True, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1))
    prep = resolved.preprocessing
    # As tf_keras', whose 256 of 224 become 329 of 288.
    assert prep == preprocessing.Preprocessing(
        (preprocessing.Resize("shorter", 329, "bicubic", True),), 288,
        (0.5, 0.4, 0.3), (0.2, 0.2, 0.1))

  def test_what_it_is_fed_reaches_module_and_manifest(self, case, ten_classes):
    mean, std = (0.5, 0.4, 0.3), (0.3, 0.2, 0.1)
    plain, fed = (
        next(iter(family.hub_modules(case(str(ten_classes), **said), "main")))
        for said in ({}, {"mean": mean, "std": std, "image_size": 64,
                          "channel_order": "BGR"}))
    images = np.random.default_rng(0).uniform(size=(2, 40, 48, 3)).astype("f")
    normalised = ((images - np.array(mean)) / np.array(std)).astype("f")
    # tf_keras' own are 0 and 1; reversed kernels want reversed images.
    expected = plain.root(normalised[..., ::-1].copy()).numpy()
    np.testing.assert_allclose(
        fed.root(images), expected, atol=1e-4 * expected.std())
    assert fed.manifest["preprocessing"]["mean"] == list(mean)
    assert fed.manifest["preprocessing"]["std"] == list(std)
    assert fed.manifest["preprocessing"]["crop_px"] == 64
    assert fed.manifest["checkpoint"]["channel_order"] == "BGR"

  def test_crop_larger_than_the_image(self, case, ten_classes):
    with pytest.raises(errors.UsageError, match="288"):
      case(str(ten_classes), image_size=288, resize=256)

  def test_variant_that_the_file_says(self, case, ten_classes):
    assert case(str(ten_classes), None).checkpoint.architecture.name == (
        "regnety_200mf")

  def test_channel_order(self, case, ten_classes):
    usual, reversed_ = (
        case(str(ten_classes), channel_order=order).checkpoint
        for order in (None, "BGR"))
    np.testing.assert_array_equal(
        reversed_.tensors["stem/conv"],
        usual.tensors["stem/conv"][:, :, [2, 1, 0]])
    assert (usual.channel_order, reversed_.channel_order) == ("RGB", "BGR")
    assert usual.digests != reversed_.digests
    name = "stage1/block1/a/conv"
    np.testing.assert_array_equal(usual.tensors[name], reversed_.tensors[name])

  def test_another_convention_than_the_files(self, case, ten_classes):
    with pytest.raises(errors.UsageError, match="'keras', not 'torch'"):
      case(str(ten_classes), convention="torch")

  def test_another_format_than_it_is(self, case, ten_classes):
    with pytest.raises(errors.CheckpointError):
      case(str(ten_classes), format_name="torch")

  def test_headless_file(self, case, tmp_path):
    resolved = case(str(_saved(tmp_path, 0)))
    assert resolved.checkpoint.num_classes == 0
    assert resolved.reported is None
    # What it was trained on, nothing says.
    assert resolved.dataset.name == "own"
    named = case(str(tmp_path / "0.h5"), dataset="imagenet2012")
    assert named.dataset == resolve.IMAGENET

  def test_nothing_is_made_up_of_an_own_file(self, case, tmp_path):
    """Its layout is tf_keras', its history is not."""
    resolved = case(str(_saved(tmp_path, 1000)))
    assert resolved.is_own and not resolved.is_demo
    assert resolved.licence_id == "custom"
    assert resolved.training.startswith("Not stated by the exporter.")
    assert resolved.licence.startswith("Not stated by the exporter;")
    module = next(iter(family.hub_modules(resolved, "main")))
    assert "trained on" not in module.manifest["card"]["description"]

  def test_says_who_said_how_it_is_fed(self, case, ten_classes):
    usual = case(str(ten_classes)).training
    assert usual.endswith("is fed as that source's are.")
    for said in ({"mean": (0.5, 0.5, 0.5)}, {"image_size": 192}):
      assert case(str(ten_classes), **said).training.endswith(
          "is fed as the exporter says.")

  def test_name_too_long_for_the_file_system(self, case):
    with pytest.raises(errors.CheckpointError, match="too long"):
      case("x" * 300 + ".h5")

  def test_own_demo_file_is_still_a_demo(self, case, demo_file):
    resolved = case(str(demo_file))
    assert resolved.is_demo and resolved.dataset.name == "optical_digits"
    with pytest.raises(errors.UsageError, match="--resize is not for the demo"):
      case(str(demo_file), resize=256)

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
