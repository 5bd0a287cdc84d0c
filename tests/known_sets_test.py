"""The known data sets, against what TFDS records of them."""

import pathlib

import pytest
import tensorflow_datasets as tfds

from checks import known_sets

MANUAL = pathlib.Path("/data/manual")
GIVEN = {known.name: known for known in known_sets.KNOWN_SETS}
IN_TFDS = [name for name in GIVEN if name != "optical_digits"]

# Of the papers and of TFDS' catalog pages.
EXAMPLES = {"imagenet2012": 50_000, "imagenet2012_real": 50_000,
            "imagenet_v2/matched-frequency": 10_000,
            "imagenet_v2/threshold-0.7": 10_000,
            "imagenet_v2/topimages": 10_000, "imagenet_a": 7_500,
            "imagenet_r": 30_000, "imagenet_sketch": 50_889,
            "imagenette/full-size-v2": 3_925, "imagenette/320px-v2": 3_925,
            "imagenette/160px-v2": 3_925, "imagenette/full-size": 500,
            "imagenette/320px": 500, "imagenette/160px": 500,
            "optical_digits": 360}


def test_all_are_there():
  assert {name: known.num_examples[known.split]
          for name, known in GIVEN.items()} == EXAMPLES


def test_imagenette_is_divided_in_two_ways():
  for size in ("full-size", "320px", "160px"):
    assert (sum(GIVEN[f"imagenette/{size}"].num_examples.values())
            == sum(GIVEN[f"imagenette/{size}-v2"].num_examples.values()))


@pytest.mark.parametrize("name", IN_TFDS)
def test_archives_as_tfds_records_them(name):
  """Sizes and hashes of ImageNet's own are recorded by URL only."""
  recorded = tfds.builder_cls(name.split("/")[0]).url_infos
  for archive in GIVEN[name].archives:
    if archive.url:
      info = recorded[archive.url]
      assert info.filename == archive.file_name
    else:
      info, = (i for url, i in recorded.items()
               if url.endswith(f"/{archive.file_name}"))
    assert (int(info.size), info.checksum) == (
        archive.num_bytes, archive.sha256)


@pytest.mark.parametrize("name", ["imagenet_v2", "imagenette"])
def test_all_configurations_and_the_default(name):
  configs = tfds.builder_cls(name).BUILDER_CONFIGS
  assert set(known_sets.family(name)) == {f"{name}/{c.name}" for c in configs}
  assert known_sets.find(name).name == f"{name}/{configs[0].name}"


@pytest.mark.parametrize("name, found", [
    ("imagenet2012", "imagenet2012"), ("imagenet2012:5.1.0", "imagenet2012"),
    ("imagenet_v2/topimages:3.0.0", "imagenet_v2/topimages"),
    ("imagenet_v2/top", None), ("imagenet", None), ("mnist", None)])
def test_find(name, found):
  assert getattr(known_sets.find(name), "name", None) == found


@pytest.mark.parametrize("num_bytes, text", [
    (388_478, "388 kB"), (99_003_388, "99 MB"), (999_999_999, "1000 MB"),
    (6_744_924_160, "6.7 GB")])
def test_size_text(num_bytes, text):
  assert known_sets.size_text(num_bytes) == text


class TestInstructions:

  def test_by_hand(self):
    lines = known_sets.instructions(GIVEN["imagenet2012"], MANUAL, "do it")
    assert lines == [
        "get, and put as it is into /data/manual:",
        "   ILSVRC2012_img_val.tar (6,744,924,160 bytes), from "
        "https://image-net.org/download-images (with an account)",
        "   SHA-256 "
        "c7e06a6c0baccf06d8dbeb6577d71efff84673a5dbdd50633ab44f8ea0456ae0",
        "run this; it needs 7.4 GB of space:", "   do it"]

  def test_downloaded(self):
    """Unpacked and written again: twice the archive and a tenth."""
    lines = known_sets.instructions(GIVEN["imagenet_a"], MANUAL, "do it")
    assert lines[:3] == [
        "run this; it needs 1.5 GB of space, and downloads 688 MB more:",
        "   do it", "without a network, first put into /data/manual, as it is:"]
    assert lines[3].startswith("   imagenet-a.tar (687,552,512 bytes), from ")

  def test_both(self):
    text = "\n".join(known_sets.instructions(
        GIVEN["imagenet2012_real"], MANUAL, "do it"))
    assert text.index("img_val.tar") < text.index("do it") < text.index(
        "as well:\n   real.json (388,478 bytes)")


@pytest.mark.parametrize("known", known_sets.KNOWN_SETS, ids=lambda k: k.name)
def test_says_all_that_a_user_needs(known):
  assert known.title and known.licence and known.classes
  assert known.split in known.num_examples
  for archive in known.archives:
    assert archive.page.startswith("https://")
    assert len(archive.sha256) == 64 and archive.num_bytes > 0


@pytest.mark.parametrize("name, stored", [
    ("imagenet_v2", "imagenet_v2/matched-frequency"),
    ("imagenet_v2/topimages:3.0.0", "imagenet_v2/topimages"),
    ("imagenet2012:5.1.0", "imagenet2012"), ("zoo/small", "zoo/small"),
    ("zoo:1.0.0", "zoo"), ("folder:/data/pets/", "folder:pets"),
    ("folder:pets", "folder:pets")])
def test_what_evaluations_call_a_data_set(name, stored):
  assert known_sets.stored_name(name) == stored
