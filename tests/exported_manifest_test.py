"""The manifest of an export that comes from anyone: an error, or plain text."""

import copy
import dataclasses
import pathlib

import pytest

from hub_export import errors
from hub_export.regnet import checkpoints
from hub_export.regnet import resolve
from hub_export.regnet import variants
from hub_export.regnet import wishes
from hub_export.regnet.checkpoints import layout

GOOD = {
    "handle": "someone/regnety200mf_pets_classification/1",
    "variant": "regnety_200mf", "form": "main", "is_demo": False,
    "outputs": {"num_classes": 3},
    "preprocessing": {
        "resizes": [{"mode": "shorter", "size_px": 256, "antialias": True,
                     "interpolation": "bilinear", "jpeg": False}],
        "crop_px": 224, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    "licence": {"id": "mit", "text": "MIT.\nFor all."},
    "card": {"training": "By hand.\nFor long."},
    "dataset": {"name": "pets", "title": "Pets", "split": "test",
                "tfhub_tag": None},
}
ODD = (None, True, 3, float("nan"), "a\0b", "a\x1b[2J", "\ud800", [], ["a"], {},
       {"a": 1}, 10 ** 400, "x" * 100_000)


def known(manifest):
  """Returns the data set, licence and so on that a manifest tells of."""
  found = layout.Layout(
      "hub", "saved_model", {}, (), (), (pathlib.Path("m"),), str, True,
      manifest=manifest, convention="torch")
  arch = variants.architectures(variants.by_name("regnety_200mf"), "torch")[0]
  checkpoint = checkpoints.Checkpoint(
      arch, checkpoints.Tensors(pathlib.Path("m"), {}, False), 3, found, "RGB",
      {})
  return resolve._as_exported(
      checkpoint, pathlib.Path("m"), wishes.Wishes())


def changed(path, value):
  manifest = copy.deepcopy(GOOD)
  place = manifest
  for key in path[:-1]:
    place = place[key]
  place[path[-1]] = value
  return manifest


def paths(record, before=()):
  """Yields where each value of nested records is."""
  items = record.items() if isinstance(record, dict) else enumerate(record)
  for key, value in items:
    yield (*before, key)
    if isinstance(value, (dict, list)):
      yield from paths(value, (*before, key))


def texts(told):
  data = told.dataset
  lines = [told.licence[0], *([] if data is None else [
      data.name, data.title, data.split, data.infix])]
  if data is not None and data.tfhub_tag is not None:
    lines.append(data.tfhub_tag)
  return lines, [told.licence[1], told.training]


def test_what_an_export_writes():
  told = known(GOOD)
  assert told.dataset == resolve.Dataset("pets", "Pets", "test", None, "pets_")
  assert told.licence == ("mit", "MIT.\nFor all.")
  assert told.training.endswith("classification/1, of which this was said: "
                                "By hand.\nFor long.")
  assert told.preprocessing.std == (0.25,) * 3


@pytest.mark.parametrize("form, name", [
    ("main", "pets_classification"), ("portable", "pets_portable_classification"),
    ("serving", "pets_classification_serving_float32"),
    ("serving", "pets_classification_serving_bf16"),
    ("lite", "pets_feature_extractor_lite_int8"),
    ("lite", "pets_classification_lite_fp16"),
    ("onnx", "pets_classification_onnx"),
    ("tfjs", "pets_feature_extractor_tfjs")])
def test_what_forms_put_into_names_is_none_of_the_data_set(form, name):
  manifest = changed(("handle",), f"someone/regnety200mf_{name}/1")
  assert known(manifest | {"form": form}).dataset.infix == "pets_"


@pytest.mark.parametrize("path", list(paths(GOOD)), ids=str)
def test_odd_values(path):
  for value in ODD:
    try:
      told = known(changed(path, value))
    except errors.CheckpointError as e:
      assert "is not the manifest of an export" in str(e)
      assert len(str(e)) < 2000
      continue
    lines, more = texts(told)
    sizes = [r.size_px for r in told.preprocessing.resizes]
    assert max(sizes, default=0) < 1 << 16
    assert all(isinstance(t, str) and len(t) < 30_000 for t in lines + more)
    assert all(line.isprintable() for line in lines)
    assert all(text.replace("\n", "").isprintable() for text in more)


@pytest.mark.parametrize("handle", [
    "../../etc", "a/../1", "a/b\nc/1", "a/b", "a/" + "\0" + "/1", "a/b/0"])
def test_handles_that_lead_elsewhere(handle):
  with pytest.raises(errors.CheckpointError, match="is not a handle"):
    known(changed(("handle",), handle))


def test_a_manifest_of_nothing_is_none():
  with pytest.raises(errors.CheckpointError, match="not the manifest"):
    known({})


def test_the_user_is_asked_nothing_where_all_is_known():
  """As in `resolve`: what the manifest says stands unless a flag says more."""
  told = known(GOOD)
  assert resolve._fed(told.preprocessing, wishes.Wishes()) == told.preprocessing
  assert dataclasses.asdict(told.dataset)["infix"] == "pets_"


class TestLicence:
  """What a publisher stated stays with what is made of the weights."""

  def own(self, text, **said):
    manifest = changed(("licence",), {"id": "cc-by-nc-4.0", "text": text})
    found = layout.Layout(
        "hub", "saved_model", {}, (), (), (pathlib.Path(__file__),), str, True,
        manifest=manifest, convention="torch")
    arch = variants.architectures(variants.by_name("regnety_200mf"), "torch")[0]
    checkpoint = checkpoints.Checkpoint(
        arch, checkpoints.Tensors(pathlib.Path("m"), {}, False), 0, found,
        "RGB", {})
    return resolve._own(checkpoint, None, pathlib.Path("m"),
                        wishes.Wishes(**said), lambda text: None)

  def test_a_publishers(self):
    text = "CC-BY-NC-4.0, the licence of SWAG: no commercial use."
    assert self.own(text).licence == text
    assert self.own(text).location == GOOD["handle"]
    with pytest.raises(errors.UsageError, match="no commercial use"):
      self.own(text, licence="mit")

  @pytest.mark.parametrize("text", [
      "mit, as stated by the exporter.",
      "Not stated by the exporter; ask before use."])
  def test_the_exporters_own(self, text):
    again = self.own(text, licence="Apache-2.0")
    assert (again.licence_id, again.licence) == (
        "apache-2.0", "Apache-2.0, as stated by the exporter.")
