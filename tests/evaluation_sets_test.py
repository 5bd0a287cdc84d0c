"""Tests of the data sets for evaluation, on TFDS' real builders."""

import io
import pathlib
import tarfile

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from checks import evaluation_sets
from hub_export import errors
from hub_export import labels

# Classes of ILSVRC2012_val_00000001 to 8, from the development kit's
# ILSVRC2012_validation_ground_truth.txt, in sorted WordNet ids: sea snake,
# alp, Shetland sheepdog, soup bowl, cradle, garter snake, porcupine, bakery.
TRUTH = [65, 970, 230, 809, 516, 57, 334, 415]


def _jpeg(index):
  image = PIL.Image.new("RGB", (20 + index, 30), (10 * index, 90, 200))
  buffer = io.BytesIO()
  image.save(buffer, "JPEG")
  return buffer.getvalue()


@pytest.fixture(scope="module")
def imagenet_dir(tmp_path_factory):
  """A data directory with imagenet2012, made from the first eight images."""
  data_dir = tmp_path_factory.mktemp("data")
  manual = data_dir / "downloads" / "manual"
  manual.mkdir(parents=True)
  with tarfile.open(manual / "ILSVRC2012_img_val.tar", "w") as tar:
    for index in (3, 0, 7, 1, 2, 6, 5, 4):  # The archive need not be sorted.
      info = tarfile.TarInfo(f"ILSVRC2012_val_{index + 1:08d}.JPEG")
      info.size = len(_jpeg(index))
      tar.addfile(info, io.BytesIO(_jpeg(index)))
  tfds.builder("imagenet2012", data_dir=data_dir).download_and_prepare()
  return data_dir


class TestImagenet:

  def test_labels_and_bytes(self, imagenet_dir, monkeypatch):
    monkeypatch.setitem(
        evaluation_sets.KNOWN_SIZES, ("imagenet2012", "validation"), 8)
    opened = evaluation_sets.open("imagenet2012", "validation", imagenet_dir)
    examples = sorted(opened.examples().as_numpy_iterator(),
                      key=lambda e: e["file_name"])
    assert [e["label"] for e in examples] == TRUTH
    assert [e["image"] for e in examples] == [_jpeg(i) for i in range(8)]
    assert examples[0]["file_name"] == b"ILSVRC2012_val_00000001.JPEG"
    assert opened.class_names[TRUTH[0]] == "sea snake"
    assert opened.class_names[TRUTH[6]] == "porcupine"
    assert (opened.num_examples, opened.version) == (8, "5.1.0")

  def test_incomplete(self, imagenet_dir):
    with pytest.raises(errors.HubExportError,
                       match="has 8 examples; expected 50,000.*prepare it"):
      evaluation_sets.open("imagenet2012", "validation", imagenet_dir)

  def test_split_not_prepared(self, imagenet_dir):
    with pytest.raises(errors.UnavailableError, match="no split 'train'"):
      evaluation_sets.open("imagenet2012", "train", imagenet_dir)

  def test_not_there_says_how_to_prepare(self, tmp_path):
    with pytest.raises(errors.UnavailableError) as caught:
      evaluation_sets.open("imagenet2012", "validation", tmp_path)
    message = str(caught.value)
    assert "ILSVRC2012_img_val.tar (6.3 GB" in message
    assert str(tmp_path / "downloads" / "manual") in message
    assert f"data_dir='{tmp_path}').download_and_prepare()" in message
    assert not list(tmp_path.iterdir())

  def test_other_order_of_classes(self, imagenet_dir, tmp_path, monkeypatch):
    monkeypatch.setitem(
        evaluation_sets.KNOWN_SIZES, ("imagenet2012", "validation"), 8)
    swapped = list(labels.synsets("imagenet2012"))
    swapped[0], swapped[1] = swapped[1], swapped[0]
    monkeypatch.setattr(labels, "synsets", lambda _: tuple(swapped))
    with pytest.raises(errors.HubExportError, match="another order"):
      evaluation_sets.open("imagenet2012", "validation", imagenet_dir)


class TestOpen:

  def test_digits(self, tmp_path):
    opened = evaluation_sets.open("optical_digits", "test", tmp_path)
    examples = list(opened.examples().as_numpy_iterator())
    assert opened.num_examples == len(examples) == 360
    assert len({e["file_name"] for e in examples}) == 360
    first = min(examples, key=lambda e: e["file_name"])
    assert first["file_name"] == b"digit_00000.png"
    image = np.asarray(PIL.Image.open(io.BytesIO(first["image"])))
    # The fourth pixel of row 1 is 13 of 16 in the UCI file, the fifth 15.
    assert image[1, 2] == round(13 * 255 / 16)
    assert image[1, 3] == round(15 * 255 / 16)

  def test_unknown_split(self, tmp_path):
    with pytest.raises(errors.UsageError, match="expected one of test, train"):
      evaluation_sets.open("optical_digits", "validation", tmp_path)

  def test_unknown_split_of_imagenet_that_is_not_there(self, tmp_path):
    with pytest.raises(errors.UsageError, match="no split 'validatoin'.*valid"):
      evaluation_sets.open("imagenet2012", "validatoin", tmp_path)

  @pytest.mark.parametrize("name,said", [
      ("own", "of its own"), ("imagenet12k", "ImageNet-12k")])
  def test_exports_of_other_data(self, tmp_path, name, said):
    """Not misspelt: the check is not run, and the others are."""
    with pytest.raises(errors.UnavailableError, match=said) as e:
      evaluation_sets.open(name, "", tmp_path)
    assert "--dataset" in str(e.value)

  def test_unknown_name(self, tmp_path):
    with pytest.raises(errors.UsageError, match="no data set 'imagnet'"):
      evaluation_sets.open("imagnet", "validation", tmp_path)

  def test_other_data_set_not_there(self, tmp_path):
    with pytest.raises(errors.UnavailableError,
                       match="imagenet_v2/matched-frequency is not there"):
      evaluation_sets.open("imagenet_v2/matched-frequency", "test", tmp_path)

  def test_damaged(self, tmp_path):
    directory = tmp_path / "imagenet2012" / "5.1.0"
    directory.mkdir(parents=True)
    (directory / "dataset_info.json").write_text("{")
    (directory / "features.json").write_text("{")
    with pytest.raises(errors.HubExportError, match="cannot be opened"):
      evaluation_sets.open("imagenet2012", "validation", tmp_path)


class TestDigest:

  def test_order_free(self):
    pairs = [("b", 1), ("a", 2)]
    assert evaluation_sets.digest(pairs) == evaluation_sets.digest(pairs[::-1])
    # printf 'a\t2\nb\t1\n' | sha256sum
    assert evaluation_sets.digest(pairs) == (
        "2abfabe8ddfcad9ecf72aeaf70afb71b425c61a198cbb5ae9c846ca751251ba4")

  def test_labels_count(self):
    assert evaluation_sets.digest([("a", 1)]) != evaluation_sets.digest([("a", 2)])


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
