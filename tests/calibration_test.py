"""Which images int8 is calibrated on, and the ranges that come of them."""

import io

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from hub_export import digits
from hub_export import errors
from hub_export import hub_module
from hub_export.forms import calibration
from hub_export.forms import lite
from hub_export.forms import tflite_file
from tests import tiny_inference

PREP = tiny_inference.PREPROCESSING


def png(shade):
  buffer = io.BytesIO()
  PIL.Image.new("RGB", (40, 36), (shade, 0, 255 - shade)).save(buffer, "PNG")
  return buffer.getvalue()


def fill(directory, count):
  (directory / "below").mkdir(parents=True)
  for i in range(count):
    path = directory / ("below" if i % 2 else ".") / f"{i}.PNG"
    path.write_bytes(png(i))
  (directory / "notes.txt").write_text("no image")
  return directory


def test_own_images_are_taken_from_all_over_the_directory(tmp_path):
  found = calibration.from_directory(fill(tmp_path / "d", 40), 20, PREP)
  # Sorted by path: 0, 10, 12, ..., below/1, below/11, ...; every second of them.
  names = [n.rpartition("/")[2] for n in found.names]
  assert names[:3] == ["0.PNG", "12.PNG", "16.PNG"]
  assert names[10:13] == ["1.PNG", "13.PNG", "17.PNG"]
  images = list(found.images())
  assert [i.shape for i in images] == [(1, 32, 32, 3)] * 20
  assert images[1][0, 0, 0].tolist() == pytest.approx([12 / 255, 0, 243 / 255])
  record = found.record()
  assert record["examples"] == 20
  # A path of this machine is nobody else's affair.
  assert str(tmp_path) not in str(record)
  assert record == calibration.from_directory(tmp_path / "d", 20, PREP).record()
  assert record["sha256"] != calibration.from_directory(
      tmp_path / "d", 21, PREP).record()["sha256"]
  assert len(calibration.from_directory(tmp_path / "d", 99, PREP).files) == 40


def test_directories_that_will_not_do(tmp_path):
  with pytest.raises(errors.HubExportError, match="has no images"):
    calibration.from_directory(fill(tmp_path / "d", 0), 20, PREP)
  for path in (tmp_path / "none", tmp_path / "d" / "notes.txt"):
    with pytest.raises(errors.HubExportError, match="cannot be read"):
      calibration.from_directory(path, 20, PREP)
  few = fill(tmp_path / "few", 19)
  (few / "twice.png").write_bytes((few / "0.PNG").read_bytes())
  with pytest.raises(errors.HubExportError,
                     match="few has 19 unlike images.* at least 20"):
    calibration.from_directory(few, 200, PREP)


@pytest.mark.parametrize("content", [
    b"", b"not an image", png(40)[:-40], b"\xff\xd8\xff" + png(40)])
def test_images_that_cannot_be_read_are_named(tmp_path, content):
  directory = fill(tmp_path / "d", 20)
  (directory / "odd.png").write_bytes(content)
  with pytest.raises(errors.HubExportError,
                     match=r"odd.png cannot be read \([^{}\[\]]+\); expected"):
    list(calibration.from_directory(directory, 21, PREP).images())


def test_training_data_and_nothing_that_is_evaluated():
  found = calibration.from_dataset(digits.NAME, 25, PREP)
  assert found.source == "optical_digits/train"
  assert len(set(found.names)) == 25
  numbers = sorted(int(n[6:11]) for n in found.names)
  assert all(n % 5 for n in numbers)  # The test split has every fifth.
  assert numbers[0] < 200 and numbers[-1] > 1500


def test_without_training_data_the_error_says_what_to_do(tmp_path, monkeypatch):
  monkeypatch.setenv("REGNETY_HUB_CACHE", str(tmp_path))
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  for name in ("imagenet2012", "custom", "folder:" + str(tmp_path)):
    with pytest.raises(errors.UnavailableError) as e:
      calibration.from_dataset(name, 25, PREP, tmp_path)
    for words in ("int8 needs images", name, "--calibration_images=DIR",
                  "--quantization"):
      assert words in str(e.value)


def network():
  inference = tiny_inference.make("feature_extractor")
  net = inference.network(hub_module.Build(keeps_images=True))
  return lite.convert(lite.Source(net.features, 32, "features"), "float32")


def test_ranges_are_those_of_the_reference_kernels():
  # Other kernels, one tensor at a time. TensorFlow's own calibrator is no
  # measure: of what is added in place it takes the sum for the summand.
  content = network()
  images = [tiny_inference.images(1, 32, 32, seed=s) for s in range(3)]
  found = calibration.ranges(content, images)
  module = tflite_file.interpreter()
  reference = module.Interpreter(
      model_content=content, experimental_preserve_all_tensors=True,
      experimental_op_resolver_type=module.OpResolverType.BUILTIN_REF)
  reference.allocate_tensors()
  seen = {index: [] for index in found}
  for image in images:
    reference.set_tensor(0, image)
    reference.invoke()
    for index, values in seen.items():
      values.append(reference.get_tensor(index))
  assert len(found) > 40
  assert found.pop(0) == (0.0, 1.0)  # The input's, whatever the images.
  for index, (low, high) in found.items():
    assert low == pytest.approx(np.min(seen[index]), abs=1e-5)
    assert high == pytest.approx(max(np.max(seen[index]), low + 0.01), abs=1e-5)


def test_ranges_need_numbers():
  content = network()
  with pytest.raises(errors.HubExportError, match="not finite"):
    calibration.ranges(content, [])
  with pytest.raises(errors.HubExportError, match="not finite"):
    calibration.ranges(content, [np.full((1, 32, 32, 3), np.nan, np.float32)])


def test_what_is_always_zero_can_be_quantised():
  def run(images):
    x = tf.nn.relu(tf.nn.conv2d(images, -tf.ones([1, 1, 3, 4]), 1, "VALID"))
    return tf.reduce_mean(
        tf.nn.conv2d(x, tf.ones([1, 1, 4, 5]), 1, "VALID") + 0.5, [1, 2])
  content = lite.convert(lite.Source(run, 8, "features"), "int8",
                         [np.ones([1, 8, 8, 3], np.float32)])
  found = lite.Runner(content)(np.ones([1, 8, 8, 3], np.float32))
  assert found == pytest.approx(0.5, abs=0.01)
