"""Tests of the data sets for evaluation, on TFDS' real builders."""

import io
import os
import pathlib
import shutil

from absl import logging
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from checks import evaluation_sets
from hub_export import errors
from hub_export import labels
from tests import tiny_sets

# From the class list of the ILSVRC 2012 development kit, sorted WordNet ids.
IMAGENET = {"n01440764": 0, "n01443537": 1, "n01498041": 6, "n02102040": 217,
            "n03888257": 701, "n12267677": 988, "n15075141": 999}


def read(opened, shard=(0, 1)):
  """Returns (file name, labels) of the examples, by file name."""
  return sorted((e["file_name"].decode(), e["labels"].tolist())
                for e in opened.examples(shard).as_numpy_iterator())


def opened(name, split, data_dir):
  """Returns a tiny set."""
  with tiny_sets.any_size(name.split(":")[0]):
    return evaluation_sets.open(name, split, data_dir)


def imagenet_map(evaluation_set):
  """Returns the class map to a model with ImageNet's classes in its order."""
  return evaluation_set.class_map("imagenet2012", labels.names("imagenet2012"))


@pytest.fixture(scope="module")
def imagenet_dir(tmp_path_factory):
  """A data directory with imagenet2012, made from the first eight images."""
  data_dir = tmp_path_factory.mktemp("data")
  tiny_sets.prepare("imagenet2012", data_dir,
                    {tiny_sets.VALIDATION: tiny_sets.validation_tar()})
  return data_dir


class TestImagenet:

  def test_labels_and_bytes(self, imagenet_dir):
    found = opened("imagenet2012", "validation", imagenet_dir)
    examples = sorted(found.examples().as_numpy_iterator(),
                      key=lambda e: e["file_name"])
    assert [e["labels"].tolist() for e in examples] == [
        [label] for label in tiny_sets.TRUTH]
    assert [e["image"] for e in examples] == [
        tiny_sets.jpeg(i) for i in range(8)]
    assert examples[0]["file_name"] == b"ILSVRC2012_val_00000001.JPEG"
    assert examples[0]["labels"].dtype == np.int64
    assert found.class_names[tiny_sets.TRUTH[0]] == "sea snake"
    assert found.class_names[tiny_sets.TRUTH[6]] == "porcupine"
    assert {s: found.synsets.index(s) for s in IMAGENET} == IMAGENET
    assert (found.num_examples, found.version) == (8, "5.1.0")
    assert (found.name, found.title) == (
        "imagenet2012", "ImageNet (ILSVRC 2012)")

  def test_incomplete(self, imagenet_dir):
    with pytest.raises(errors.HubExportError,
                       match="has 8 examples; expected 50,000.*prepare it"):
      evaluation_sets.open("imagenet2012", "validation", imagenet_dir)

  def test_split_not_prepared(self, imagenet_dir):
    with pytest.raises(errors.UnavailableError,
                       match="without the split 'train'; to have it, remove"):
      evaluation_sets.open("imagenet2012", "train", imagenet_dir)

  @pytest.mark.parametrize("split", ["validatoin", "test"])
  def test_no_such_split_with_labels(self, tmp_path, split):
    """Told even where nothing is prepared; TFDS' test split has no labels."""
    with pytest.raises(errors.UsageError,
                       match=f"no split '{split}' with labels; expected one "
                       "of train, validation"):
      evaluation_sets.open("imagenet2012", split, tmp_path)

  def test_not_there_says_how_to_prepare(self, tmp_path):
    with pytest.raises(errors.UnavailableError) as caught:
      evaluation_sets.open("imagenet2012", "validation", tmp_path)
    message = str(caught.value)
    assert "ILSVRC2012_img_val.tar (6,744,924,160 bytes)" in message
    assert str(tmp_path / "downloads" / "manual") in message
    assert (f"checks.datasets --dataset=imagenet2012 --data_dir={tmp_path} "
            "--prepare") in message
    assert not list(tmp_path.iterdir())


class TestSisterSets:
  """Each from an archive laid out as the published one."""

  def test_v2(self, tmp_path):
    """Its folders are numbers of ImageNet's classes, sorted as text."""
    top = "imagenetv2-matched-frequency-format-val"
    tiny_sets.prepare("imagenet_v2/matched-frequency", tmp_path, {
        "imagenetv2-matched-frequency.tar.gz": tiny_sets.tar({
            f"{top}/{c}/a{c}.jpeg": tiny_sets.jpeg(c % 9)
            for c in (0, 10, 217, 9)})})
    for name in ("imagenet_v2", "imagenet_v2/matched-frequency",
                 "imagenet_v2/matched-frequency:3.0.0"):
      with tiny_sets.any_size("imagenet_v2/matched-frequency"):
        found = evaluation_sets.open(name, "test", tmp_path)
      assert found.name == "imagenet_v2/matched-frequency"
    assert read(found) == [("0/a0.jpeg", [0]), ("10/a10.jpeg", [10]),
                           ("217/a217.jpeg", [217]), ("9/a9.jpeg", [9])]
    assert found.synsets[217] == "n02102040"
    mapped = imagenet_map(found)
    assert mapped.to_model.tolist() == list(range(1000))
    assert mapped.to_model.dtype == np.int32
    assert mapped.allowed is None

  @pytest.mark.parametrize("name, first", [
      ("imagenet_a", "n01498041"), ("imagenet_r", "n01443537")])
  def test_200_classes(self, tmp_path, name, first):
    """Numbered as ImageNet; the other 800 are never predicted."""
    folder = name.replace("_", "-")
    tiny_sets.prepare(name, tmp_path, {f"{folder}.tar": tiny_sets.tar({
        f"{folder}/README.txt": b"as published",
        f"{folder}/{first}/x.jpg": tiny_sets.jpeg(1),
        f"{folder}/n12267677/y.jpg": tiny_sets.jpeg(2)})})
    found = opened(name, "test", tmp_path)
    assert [row for _, row in read(found)] == [[IMAGENET[first]], [988]]
    mapped = imagenet_map(found)
    assert mapped.allowed.dtype == bool
    assert (len(mapped.allowed), mapped.allowed.sum()) == (1000, 200)
    assert mapped.to_model[988] == 988
    assert mapped.allowed[[IMAGENET[first], 988]].all()
    # In neither: tench, English springer, toilet tissue.
    assert not mapped.allowed[[0, 217, 999]].any()
    assert mapped.to_model[[0, 217, 999]].tolist() == [-1, -1, -1]

  def test_label_outside_of_the_200(self, tmp_path):
    tiny_sets.prepare("imagenet_a", tmp_path, {"imagenet-a.tar": tiny_sets.tar(
        {"imagenet-a/n01440764/tench.jpg": tiny_sets.jpeg(1)})})
    found = opened("imagenet_a", "test", tmp_path)
    with pytest.raises(tf.errors.InvalidArgumentError,
                       match="not classes of the data set.*tench.jpg"):
      list(found.examples())

  def test_sketch(self, tmp_path):
    tiny_sets.prepare("imagenet_sketch", tmp_path, {
        "ImageNet-Sketch.zip": tiny_sets.zipped({
            "sketch/n15075141/sketch_1.JPEG": tiny_sets.jpeg(1),
            "sketch/n02102040/sketch_0.JPEG": tiny_sets.jpeg(2)})})
    found = opened("imagenet_sketch", "test", tmp_path)
    assert read(found) == [("n02102040/sketch_0.JPEG", [217]),
                           ("n15075141/sketch_1.JPEG", [999])]
    assert imagenet_map(found).allowed is None

  def test_imagenette(self, tmp_path):
    """Its ten classes have numbers of their own."""
    tiny_sets.prepare("imagenette/160px-v2", tmp_path, {
        "imagenette2-160.tgz": tiny_sets.tar({
            "imagenette2-160/train/n01440764/a.JPEG": tiny_sets.jpeg(1),
            "imagenette2-160/val/n03888257/b.JPEG": tiny_sets.jpeg(2),
            "imagenette2-160/val/n02102040/c.JPEG": tiny_sets.jpeg(3)})})
    found = opened("imagenette/160px-v2", "validation", tmp_path)
    rows = read(found)
    assert sorted(row for _, row in rows) == [[1], [9]]
    assert len({name for name, _ in rows}) == 2  # TFDS' keys: it has no names.
    assert found.class_names[1] == "English springer"
    mapped = imagenet_map(found)
    assert mapped.to_model[[0, 1, 9]].tolist() == [0, 217, 701]
    assert mapped.allowed.sum() == 10 and mapped.allowed[[0, 217, 701]].all()

  def test_real(self, tmp_path):
    """Several labels or none; images join them by name, not by position."""
    real = [[65], [], [230, 231, 5], [809], [516], [57], [], [415, 0]]
    tiny_sets.prepare("imagenet2012_real", tmp_path, {
        tiny_sets.VALIDATION: tiny_sets.validation_tar(),
        "real.json": tiny_sets.real_json(real)})
    found = opened("imagenet2012_real", "validation", tmp_path)
    assert read(found) == [
        (f"ILSVRC2012_val_{i + 1:08d}.JPEG", row) for i, row in enumerate(real)]
    assert found.examples().element_spec["labels"] == tf.TensorSpec(
        [None], tf.int64)
    assert imagenet_map(found).to_model.tolist() == list(range(1000))


class Shuffled(tfds.core.GeneratorBasedBuilder):
  """Three of ImageNet's classes, called by WordNet ids, in another order."""

  name = "shuffled_synsets"
  VERSION = tfds.core.Version("1.0.0")
  pkg_dir_path = None
  CLASSES = ("n03888257", "n01440764", "n02102040")

  def _info(self):
    return tfds.core.DatasetInfo(builder=self, features=(
        tfds.features.FeaturesDict({
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=list(self.CLASSES))})))

  def _split_generators(self, dl_manager):
    del dl_manager  # Nothing to download.
    return {"test": self._generate_examples()}

  def _generate_examples(self):
    for i in range(12):
      yield i, {"image": io.BytesIO(tiny_sets.jpeg(i)), "label": i % 3}


class Sounds(tfds.core.GeneratorBasedBuilder):
  """No images."""

  name = "no_images"
  VERSION = tfds.core.Version("1.0.0")
  pkg_dir_path = None

  def _info(self):
    return tfds.core.DatasetInfo(builder=self, features=(
        tfds.features.FeaturesDict({
            "sound": tfds.features.Text(),
            "label": tfds.features.ClassLabel(num_classes=2)})))

  def _split_generators(self, dl_manager):
    del dl_manager  # Nothing to download.
    return {"test": iter([(0, {"sound": "quack", "label": 1})])}

  def _generate_examples(self):
    raise NotImplementedError


def prepare_own(builder_class, data_dir, num_shards=None):
  builder_class(data_dir=data_dir).download_and_prepare(
      download_config=tfds.download.DownloadConfig(
          try_download_gcs=False, num_shards=num_shards))


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory):
  data_dir = tmp_path_factory.mktemp("shuffled")
  prepare_own(Shuffled, data_dir, num_shards=4)
  return evaluation_sets.open("shuffled_synsets", "test", data_dir)


class TestOtherSetsOfTfds:

  def test_any_name(self, shuffled):
    assert (shuffled.name, shuffled.title) == ("shuffled_synsets",) * 2
    assert shuffled.num_examples == 12
    assert [row for _, row in read(shuffled)].count([2]) == 4

  def test_mapped_by_synset(self, shuffled):
    assert shuffled.class_names == ("parachute", "tench", "English springer")
    mapped = imagenet_map(shuffled)
    assert mapped.to_model.tolist() == [701, 0, 217]
    assert np.flatnonzero(mapped.allowed).tolist() == [0, 217, 701]

  def test_to_imagenet12k(self, shuffled):
    names = labels.names("imagenet12k")
    mapped = shuffled.class_map("imagenet12k", names)
    assert [names[i] for i in mapped.to_model] == list(shuffled.class_names)
    assert len(mapped.allowed) == 11821

  def test_to_a_model_that_names_synsets(self, shuffled):
    classes = ("n02102040", "n01443537", "n03888257", "n01440764")
    mapped = shuffled.class_map("own", classes)
    assert mapped.to_model.tolist() == [2, 3, 0]
    assert mapped.allowed.tolist() == [True, False, True, True]

  def test_to_a_model_that_names_classes(self, shuffled):
    """The manifest says ImageNet, the classes are its in another order."""
    backwards = labels.names("imagenet2012")[::-1]
    mapped = shuffled.class_map("imagenet2012", backwards)
    assert mapped.to_model.tolist() == [999 - 701, 999, 999 - 217]

  def test_model_lacks_a_class(self, shuffled):
    with pytest.raises(
        errors.HubExportError,
        match=r"not those of shuffled_synsets: of 3 it lacks 1, tench; it has "
        r"3 \(parachute, English springer, pug"):
      shuffled.class_map("own", ("parachute", "English springer", "pug"))

  def test_imagenet_against_12k(self, imagenet_dir):
    """Seven classes of ImageNet are not among ImageNet-12k's."""
    found = opened("imagenet2012", "validation", imagenet_dir)
    with pytest.raises(errors.HubExportError) as caught:
      found.class_map("imagenet12k", labels.names("imagenet12k"))
    assert ("of 1000 it lacks 7, n02085782 (Japanese spaniel), "
            "n02089078 (black-and-tan coonhound)") in str(caught.value)
    assert "and 2 more; it has 11821" in str(caught.value)

  def test_numbers_need_as_many_classes(self, tmp_path):
    found = evaluation_sets.open("optical_digits", "test", tmp_path)
    with pytest.raises(errors.HubExportError, match="lacks 10, zero, one"):
      found.class_map("own", tuple("0123456789"))

  def test_no_images(self, tmp_path):
    prepare_own(Sounds, tmp_path)
    with pytest.raises(errors.HubExportError,
                       match="labelled images"):
      evaluation_sets.open("no_images", "test", tmp_path)

  @pytest.mark.parametrize("count", [1, 3, 5, 12, 20])
  def test_shards(self, shuffled, count):
    whole = read(shuffled)
    parts = [read(shuffled, (i, count)) for i in range(count)]
    assert sorted(sum(parts, [])) == whole  # Each once.
    assert {len(part) for part in parts} <= {12 // count, -(-12 // count)}

  def test_a_shard_reads_its_own_files(self, tmp_path):
    prepare_own(Shuffled, tmp_path, num_shards=4)
    found = evaluation_sets.open("shuffled_synsets", "test", tmp_path)
    whole = read(found)
    last = sorted(found.path.glob("*.tfrecord-*"))[-1]
    last.write_bytes(b"x" * last.stat().st_size)
    rows = sum((read(found, (i, 4)) for i in range(3)), [])
    assert len(rows) == 9 and set(map(str, rows)) < set(map(str, whole))
    with pytest.raises(tf.errors.DataLossError):
      read(found, (3, 4))

  @pytest.mark.parametrize("shard", [(1, 1), (-1, 2), (0, 0)])
  def test_no_such_shard(self, shuffled, shard):
    with pytest.raises(ValueError, match="no shard"):
      shuffled.examples(shard)

  def test_a_file_is_missing(self, shuffled, tmp_path):
    shutil.copytree(shuffled.path, tmp_path / "shuffled_synsets" / "1.0.0")
    files = sorted(tmp_path.glob("*/*/*.tfrecord-*"))
    files[1].unlink()
    with pytest.raises(errors.HubExportError,
                       match="lacks 1 files, such as .*00001-of-00004"):
      evaluation_sets.open("shuffled_synsets", "test", tmp_path)

  def test_a_file_is_cut_short(self, shuffled, tmp_path):
    shutil.copytree(shuffled.path, tmp_path / "shuffled_synsets" / "1.0.0")
    files = sorted(tmp_path.glob("*/*/*.tfrecord-*"))
    os.truncate(files[2], 100)
    with pytest.raises(errors.HubExportError,
                       match="has [0-9,]+ bytes of [0-9,]+; expected it"):
      evaluation_sets.open("shuffled_synsets", "test", tmp_path)


def make_folder(root, classes, split="val"):
  """Makes images "a.JPEG" and "b.png" in each class's folder."""
  for i, name in enumerate(classes):
    (root / split / name).mkdir(parents=True)
    (root / split / name / "a.JPEG").write_bytes(tiny_sets.jpeg(i))
    (root / split / name / "b.png").write_bytes(tiny_sets.jpeg(i + 10))
  return f"folder:{root}"


class TestFolder:

  def test_as_tfds_reads_it(self, tmp_path):
    name = make_folder(tmp_path / "pets", ["dog", "cat"])
    make_folder(tmp_path / "pets", ["ant"], "train")
    (tmp_path / "pets" / "val" / ".hidden").mkdir()
    (tmp_path / "pets" / "val" / "dog" / ".DS_Store").write_bytes(b"x")
    found = evaluation_sets.open(name, "val")
    assert read(found) == [("cat/a.JPEG", [1]), ("cat/b.png", [1]),
                           ("dog/a.JPEG", [2]), ("dog/b.png", [2])]
    images = {e["file_name"].decode(): e["image"]
              for e in found.examples().as_numpy_iterator()}
    assert images["dog/b.png"] == tiny_sets.jpeg(10)
    theirs = tfds.ImageFolder(str(tmp_path / "pets"))
    assert [c for c in theirs.info.features["label"].names if c[0] != "."] == (
        list(found.class_names))
    assert theirs.info.splits["val"].num_examples == found.num_examples == 4
    assert (found.name, found.split) == ("folder:pets", "val")
    assert found.num_bytes() == sum(map(len, images.values()))

  def test_relative_to_the_user(self, tmp_path, monkeypatch):
    make_folder(tmp_path / "pets", ["cat"])
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    assert evaluation_sets.open("folder:pets", "val").num_examples == 2

  def test_class_names(self, tmp_path):
    name = make_folder(tmp_path, ["cat", "dog"])
    mapped = evaluation_sets.open(name, "val").class_map(
        "own", ("dog", "fish", "cat"))
    assert mapped.to_model.tolist() == [2, 0]
    assert mapped.allowed.tolist() == [True, False, True]

  def test_synsets(self, tmp_path):
    name = make_folder(tmp_path, ["n03888257", "n01440764", "n02102040"])
    found = evaluation_sets.open(name, "val")
    assert found.class_names == ("tench", "English springer", "parachute")
    assert imagenet_map(found).to_model.tolist() == [0, 217, 701]

  def test_numbers_are_the_model_s(self, tmp_path):
    """As text, 10 comes before 2 and 999 before 9."""
    name = make_folder(tmp_path, ["2", "10", "9", "999", "0"])
    found = evaluation_sets.open(name, "val")
    assert found.class_names == ("0", "2", "9", "10", "999")
    mapped = imagenet_map(found)
    assert mapped.to_model.tolist() == [0, 2, 9, 10, 999]
    assert np.flatnonzero(mapped.allowed).tolist() == [0, 2, 9, 10, 999]
    rows = dict(read(found))
    assert mapped.to_model[rows["10/a.JPEG"][0]] == 10

  def test_a_thousand_numbers(self, tmp_path):
    for i in range(1000):
      (tmp_path / "val" / str(i)).mkdir(parents=True)
    (tmp_path / "val" / "734" / "a.jpg").write_bytes(tiny_sets.jpeg(0))
    found = evaluation_sets.open(f"folder:{tmp_path}", "val")
    mapped = imagenet_map(found)
    assert mapped.to_model.tolist() == list(range(1000))
    assert mapped.allowed is None
    assert read(found) == [("734/a.jpg", [734])]

  def test_numbers_that_the_model_calls_otherwise(self, tmp_path):
    """A model whose classes are called by numbers goes by these names."""
    name = make_folder(tmp_path, ["2", "10"])
    mapped = evaluation_sets.open(name, "val").class_map(
        "own", ("10", "2", "3"))
    assert mapped.to_model.tolist() == [1, 0]

  def test_number_too_high(self, tmp_path):
    name = make_folder(tmp_path, ["1", "1000"])
    with pytest.raises(errors.HubExportError, match="of 2 it lacks 1, 1000; "):
      imagenet_map(evaluation_sets.open(name, "val"))

  def test_number_twice(self, tmp_path):
    name = make_folder(tmp_path, ["1", "01"])
    with pytest.raises(errors.HubExportError, match="a class twice, as 01, 1"):
      evaluation_sets.open(name, "val")

  @pytest.mark.parametrize("count", [1, 3, 20])
  def test_shards(self, tmp_path, count):
    found = evaluation_sets.open(
        make_folder(tmp_path, ["a", "b", "c", "d"]), "val")
    parts = [read(found, (i, count)) for i in range(count)]
    assert sum(parts, []) == read(found)

  def test_a_shard_reads_its_own_files(self, tmp_path):
    found = evaluation_sets.open(make_folder(tmp_path, ["a", "b"]), "val")
    (tmp_path / "val" / "b" / "b.png").unlink()
    assert len(read(found, (0, 2))) == 2
    with pytest.raises(tf.errors.NotFoundError):
      read(found, (1, 2))

  def test_not_there(self, tmp_path):
    with pytest.raises(errors.UnavailableError,
                       match="no directory .*pets; expected folder:PATH"):
      evaluation_sets.open(f"folder:{tmp_path}/pets", "val")

  def test_no_such_split(self, tmp_path):
    name = make_folder(tmp_path, ["cat"])
    with pytest.raises(errors.UsageError,
                       match="no split 'validation'; expected one of val, or"):
      evaluation_sets.open(name, "validation")

  def test_no_images(self, tmp_path):
    (tmp_path / "val" / "cat").mkdir(parents=True)
    with pytest.raises(errors.HubExportError, match="has no images"):
      evaluation_sets.open(f"folder:{tmp_path}", "val")

  @pytest.mark.parametrize("foreign", ["c.webp", "notes.txt", "deeper/a.jpg"])
  def test_what_is_not_an_image(self, tmp_path, foreign):
    """Passed over, it would be missed in the count."""
    name = make_folder(tmp_path, ["cat"])
    path = tmp_path / "val" / "cat" / foreign
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(tiny_sets.jpeg(0))
    with pytest.raises(errors.HubExportError) as caught:
      evaluation_sets.open(name, "val")
    assert f"'cat/{foreign.split('/')[0]}'" in str(caught.value)


class TestOpen:

  def test_digits(self, tmp_path):
    found = evaluation_sets.open("optical_digits", "test", tmp_path)
    examples = list(found.examples().as_numpy_iterator())
    assert found.num_examples == len(examples) == 360
    assert len({e["file_name"] for e in examples}) == 360
    first = min(examples, key=lambda e: e["file_name"])
    assert first["file_name"] == b"digit_00000.png"
    image = np.asarray(PIL.Image.open(io.BytesIO(first["image"])))
    # The fourth pixel of row 1 is 13 of 16 in the UCI file, the fifth 15.
    assert image[1, 2] == round(13 * 255 / 16)
    assert image[1, 3] == round(15 * 255 / 16)
    assert found.synsets is None
    mapped = found.class_map("optical_digits", labels.DIGITS)
    assert mapped.to_model.tolist() == list(range(10))
    assert mapped.allowed is None

  def test_unknown_split(self, tmp_path):
    with pytest.raises(errors.UsageError, match="expected one of test, train"):
      evaluation_sets.open("optical_digits", "validation", tmp_path)

  def test_unknown_split_of_another_set(self, tmp_path):
    prepare_own(Shuffled, tmp_path)
    with pytest.raises(errors.UsageError,
                       match="no split 'validation'; expected one of test"):
      evaluation_sets.open("shuffled_synsets", "validation", tmp_path)

  @pytest.mark.parametrize("name,said", [
      ("own", "of its own"), ("imagenet12k", "ImageNet-12k")])
  def test_exports_of_other_data(self, tmp_path, name, said):
    """Not misspelt: the check is not run, and the others are."""
    with pytest.raises(errors.UnavailableError, match=said) as e:
      evaluation_sets.open(name, "", tmp_path)
    assert "--dataset" in str(e.value)

  def test_unknown_name(self, tmp_path):
    with pytest.raises(errors.UsageError,
                       match="no data set 'imagnet2012'; .*as imagenet2012,"):
      evaluation_sets.open("imagnet2012", "validation", tmp_path)

  @pytest.mark.parametrize("name", [
      "", "cats and dogs", "../here", "imagenet2012:5", "huggingface:mnist"])
  def test_not_a_name(self, tmp_path, monkeypatch, name):
    # TFDS asks the network for some of them.
    monkeypatch.setattr(evaluation_sets.tfds, "builder", None)
    with pytest.raises(errors.UsageError, match="is no name of a data set; "
                       "expected one such as imagenet2012, imagenet_v2/top"):
      evaluation_sets.open(name, "validation", tmp_path)

  @pytest.mark.parametrize("name, reason", [
      ("mnist/large", r"BuilderConfig large not found\)"),
      ("mnist:99.0.0", r"version 99.0.0, only: 3\.0\.1\)")])
  def test_no_such_configuration_or_version(self, tmp_path, name, reason):
    with pytest.raises(errors.UsageError, match=f"no data set '{name}'.*"
                       f"{reason}; expected another configuration or version"):
      evaluation_sets.open(name, "test", tmp_path)

  def test_no_warning_of_tfds_about_itself(self, tmp_path, caplog):
    evaluation_sets.open("optical_digits", "test", tmp_path).examples()
    assert "FeatureConnector.dtype" not in caplog.text
    # Others still come through.
    logging.get_absl_logger().warning("something else")
    assert "something else" in caplog.text

  def test_unknown_configuration(self, tmp_path):
    with pytest.raises(errors.UsageError,
                       match="'imagenet_v2/top'; expected one of .*topimages"):
      evaluation_sets.open("imagenet_v2/top", "test", tmp_path)

  def test_sister_set_not_there(self, tmp_path):
    with pytest.raises(errors.UnavailableError) as caught:
      evaluation_sets.open("imagenet_v2/matched-frequency", "test", tmp_path)
    message = str(caught.value)
    assert "imagenet_v2/matched-frequency is not there" in message
    assert "imagenetv2-matched-frequency.tar.gz (1,264,079,360" in message
    assert not list(tmp_path.iterdir())

  def test_other_data_set_not_there(self, tmp_path):
    with pytest.raises(errors.UnavailableError,
                       match="mnist is not there(.|\n)*--dataset=mnist"):
      evaluation_sets.open("mnist", "test", tmp_path)

  def test_damaged(self, tmp_path):
    directory = tmp_path / "imagenet2012" / "5.1.0"
    directory.mkdir(parents=True)
    (directory / "dataset_info.json").write_text("{")
    (directory / "features.json").write_text("{")
    with pytest.raises(errors.HubExportError, match="cannot be opened"):
      evaluation_sets.open("imagenet2012", "validation", tmp_path)


class TestLabels:

  def test_same_order_as_tfds(self):
    path = pathlib.Path(tfds.core.tfds_path("datasets/imagenet2012/labels.txt"))
    assert list(labels.synsets("imagenet2012")) == path.read_text().split()

  def test_sorted_and_unique(self):
    synsets = labels.synsets("imagenet2012")
    names = labels.names("imagenet2012")
    assert list(synsets) == sorted(set(synsets))
    assert len({name.lower() for name in names}) == len(names) == 1000
    assert all(name == name.strip() and name for name in names)

  # From the class list of the ILSVRC 2012 development kit.
  @pytest.mark.parametrize("index, name", [
      (0, "tench"), (1, "goldfish"), (134, "crane (bird)"),
      (207, "golden retriever"), (281, "tabby"), (517, "crane (machine)"),
      (999, "toilet tissue")])
  def test_anchors(self, index, name):
    assert labels.names("imagenet2012")[index] == name

  def test_unknown_data_set(self):
    with pytest.raises(errors.HubExportError, match="no class list.*'mnist'"):
      labels.names("mnist")

  # The ends, and a number in the middle, of the lists in the evaluation
  # programs of natural-adv-examples and imagenet-r.
  @pytest.mark.parametrize("name, inside, outside", [
      ("imagenet_a", (6, 11, 13, 401, 402, 980, 988), (0, 1, 7, 403, 989)),
      ("imagenet_r", (1, 2, 4, 6, 8, 22, 988), (0, 3, 5, 7, 999))])
  def test_classes_with_images(self, name, inside, outside):
    synsets = labels.synsets("imagenet2012")
    found = labels.occurring_synsets(name)
    assert len(found) == 200
    assert found < set(synsets)
    assert all(synsets[i] in found for i in inside)
    assert not any(synsets[i] in found for i in outside)

  def test_all_classes_with_images(self):
    assert labels.occurring_synsets("imagenet2012") is None
