"""Tests of what is said of the data sets on a machine."""

import pytest

from checks import known_sets
from checks import set_status
from hub_export import errors
from tests import tiny_sets


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """Has imagenet2012, of eight images instead of 50,000."""
  data_dir = tmp_path_factory.mktemp("data")
  tiny_sets.prepare("imagenet2012", data_dir,
                    {tiny_sets.VALIDATION: tiny_sets.validation_tar()})
  return data_dir


class TestOverview:

  @pytest.fixture(autouse=True)
  def _overview(self, data_dir):
    self.text = set_status.overview(data_dir)

  def test_a_line_for_each(self):
    lines = self.text.split("\n\n")[0].splitlines()
    assert lines[0].split() == ["data", "set", "split", "images", "classes",
                                "size", "status"]
    assert [line.split()[0] for line in lines[1:]] == [
        known.name for known in known_sets.KNOWN_SETS]
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in lines[1:]}
    assert rows["imagenet2012"] == (
        "validation 50,000 1,000 6.7 GB to get damaged")
    assert rows["imagenet_r"] == "test 30,000 200 2.2 GB to get not prepared"
    assert rows["optical_digits"].startswith("test 360 10 ")
    assert rows["optical_digits"].endswith(" kB ready")

  def test_why_one_is_damaged(self):
    assert "imagenet2012 is damaged: imagenet2012/validation in " in self.text
    assert "has 8 examples; expected 50,000" in self.text

  def test_how_to_prepare_each_of_the_others(self, data_dir):
    for known in known_sets.KNOWN_SETS:
      is_told = f"To prepare {known.name}, {known.title}:" in self.text
      assert is_told == (known.name not in ("imagenet2012", "optical_digits"))
      if is_told:
        assert (f"checks.datasets --dataset={known.name} "
                f"--data_dir={data_dir} --prepare") in self.text
        for archive in known.archives:
          assert (f"{archive.file_name} ({archive.num_bytes:,} bytes), from "
                  f"{archive.page}") in self.text
    # The eight images' archive lies where ReaL would need the whole one.
    assert ("ILSVRC2012_img_val.tar has 20,480 bytes; expected 6,744,924,160"
            in self.text)
    assert f"1 of {len(known_sets.KNOWN_SETS)} are ready in {data_dir}" in (
        self.text)


class TestDetails:

  def test_ready(self, data_dir):
    with tiny_sets.any_size("imagenet2012"):
      text, is_ready = set_status.details("imagenet2012:5.1.0", data_dir, None)
    assert is_ready
    assert text.startswith(
        "imagenet2012: ImageNet (ILSVRC 2012)\n  status   ready\n"
        f"  path     {data_dir}/imagenet2012/5.1.0, ")
    assert ("images   train 1,281,167, validation 50,000; models are measured "
            "on validation") in text
    assert "non-commercial" in text
    assert "--prepare" not in text

  def test_not_ready(self, tmp_path):
    text, is_ready = set_status.details("imagenet_v2", tmp_path, None)
    assert not is_ready
    assert text.startswith(
        "imagenet_v2/matched-frequency: ImageNetV2, matched frequency\n"
        "  status   not prepared\n")
    assert (f"first put into {tmp_path}/downloads/manual, as it is:" in text)

  def test_archive_is_there(self, tmp_path):
    with tiny_sets.published("imagenet_a", tmp_path / "some where",
                             {"imagenet-a.tar": b"x" * 1000}):
      text, is_ready = set_status.details(
          "imagenet_a", tmp_path, tmp_path / "some where")
    assert not is_ready
    assert "imagenet-a.tar is there" in text
    assert f"--prepare --manual_dir='{tmp_path}/some where'\n" in text

  def test_damaged(self, data_dir):
    text, is_ready = set_status.details("imagenet2012", data_dir, None)
    assert not is_ready
    assert "status   damaged" in text
    assert "has 8 examples; expected 50,000" in text

  def test_folder(self, tmp_path):
    for split, count in (("train", 3), ("val", 1)):
      path = tmp_path / "pets" / split / "cat"
      path.mkdir(parents=True)
      for i in range(count):
        (path / f"{i}.jpg").write_bytes(tiny_sets.jpeg(i))
    text, is_ready = set_status.details(f"folder:{tmp_path}/pets", None, None)
    assert is_ready
    assert text.startswith("folder:pets: the image folder pets\n")
    assert "split    train, 3 images, 2 kB\n  split    val, 1 images, " in text

  def test_empty_folder(self, tmp_path):
    with pytest.raises(errors.HubExportError, match="has no splits"):
      set_status.details(f"folder:{tmp_path}", None, None)

  def test_another_of_tfds_that_is_not_ready(self, tmp_path):
    with pytest.raises(errors.UnavailableError, match="mnist is not there"):
      set_status.details("mnist", tmp_path, None)
