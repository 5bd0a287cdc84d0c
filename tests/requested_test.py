"""What the flags of export stand for; nothing is read or fetched here."""

import pathlib

import pytest

from hub_export import errors
from hub_export.regnet import requested
from hub_export.regnet import wishes


def _items(variant, checkpoint):
  return [(i.variant and i.variant.name, i.checkpoint)
          for i in requested.items(variant, checkpoint)]


@pytest.mark.parametrize("variant,checkpoint,expected", [
    ("600mf", None, [("regnety_600mf", None)]),
    ("600mf,200mf", "demo",
     [("regnety_200mf", "demo"), ("regnety_600mf", "demo")]),
    (None, "my.pth", [(None, "my.pth")]),
    ("200mf", "my[1].pth", [("regnety_200mf", "my[1].pth")]),
    (None, "https://example.org/a*b.pth",
     [(None, "https://example.org/a*b.pth")]),
    (None, "pycls:RegNetY-600MF", [("regnety_600mf", "pycls:RegNetY-600MF")]),
    ("regnety_*", "pycls:RegNetY-600MF",
     [("regnety_600mf", "pycls:RegNetY-600MF")]),
    (None, "torchvision:regnet_y_400mf/*", [
        ("regnety_400mf", "torchvision:regnet_y_400mf/IMAGENET1K_V1"),
        ("regnety_400mf", "torchvision:regnet_y_400mf/IMAGENET1K_V2")]),
    ("200mf", "*pycls*", [
        ("regnety_200mf", "pycls:RegNetY-200MF"),
        ("regnety_200mf", "timm:regnety_002.pycls_in1k")]),
    (None, "no_such_*.pth", [(None, "no_such_*.pth")]),
    ("regnetx_200mf,200mf", "timm:*PYCLS*", [
        ("regnetx_200mf", "timm:regnetx_002.pycls_in1k"),
        ("regnety_200mf", "timm:regnety_002.pycls_in1k")]),
])
def test_items(variant, checkpoint, expected):
  assert _items(variant, checkpoint) == expected


def test_a_pattern_over_the_catalog_is_all_that_fits():
  # timm's copies of pycls' 24 models.
  assert len(_items(None, "timm:*pycls*")) == 24
  assert len(_items("regnety_*", "timm:*pycls*")) == 12


@pytest.mark.parametrize("variant,checkpoint,fault", [
    (None, None, "--variant"), (None, "demo", "--variant"),
    ("601mf", None, "601mf"), ("600mf", "keras:regnety002", "regnety_200mf"),
    ("600mf", "timm:*swag*", "no checkpoint like"),
    (None, "timm:resnet*", "no checkpoint like"),
    ("all", "my.pth", "one variant only"),
    (None, "timm:regnety_006", "the catalog has no checkpoint"),
    (None, "TIMM:regnety_006.pycls_in1k", "such as timm:regnety_006.pycls"),
    (None, "", "--checkpoint is empty"),
])
def test_what_cannot_be_meant(variant, checkpoint, fault):
  with pytest.raises(errors.UsageError, match=fault):
    requested.items(variant, checkpoint)


@pytest.mark.parametrize("checkpoint,said,fault", [
    ("demo", {"image_size": 64}, "--image_size is not for the demo"),
    ("demo", {"labels": pathlib.Path("x")}, "--labels"),
    (None, {"mean": (0.0,) * 3}, "--mean"),
    ("keras:regnety002", {"std": (1.0,) * 3}, "--std"),
])
def test_wishes_that_are_not_granted(checkpoint, said, fault):
  item, = requested.items("200mf", checkpoint)
  with pytest.raises(errors.UsageError, match=fault):
    requested.check(item, wishes.Wishes(**said))


def test_licences_that_nobody_has():
  item, = requested.items("200mf", None)
  with pytest.raises(errors.UsageError, match="cc-by-nc-4.0 or seer"):
    requested.check(item, wishes.Wishes(accepted_licences=("seer", "mit")))


def test_nothing_is_fetched_before_its_licence_is_accepted(tmp_path):
  item, = requested.items(None, "timm:regnety_160.swag_ft_in1k")
  with pytest.raises(errors.UsageError, match="--accept_license=cc-by-nc-4.0"):
    requested.fetch(item, tmp_path, wishes.Wishes(offline=True))
  accepted = wishes.Wishes(offline=True, accepted_licences=("CC-BY-NC-4.0",))
  with pytest.raises(errors.UnavailableError, match="--offline"):
    requested.fetch(item, tmp_path, accepted)


@pytest.mark.parametrize("checkpoint,said", [
    ("my.h5", {"labels": pathlib.Path("x"), "mean": (0.0,) * 3}),
    ("keras:regnety002", {"image_size": 288, "interpolation": "bicubic"}),
    (None, {"resize": 300}),
])
def test_wishes_that_are_granted(checkpoint, said):
  item, = requested.items("200mf", checkpoint)
  requested.check(item, wishes.Wishes(**said))


@pytest.mark.parametrize("said,fault", [
    ({"reported_top1": float("nan")}, "from 0 to 100"),
    ({"reported_top5": 90.0}, "--reported_top1"),
    ({"reported_top1": 90.0, "reported_top5": 80.0}, "--reported_top5=80 is"),
    ({"reported_source": "me"}, "--reported_top1"),
    ({"split": "test"}, "--dataset"),
    ({"image_size": 224, "resize": 200}, "--resize=200"),
])
def test_wishes_that_make_no_sense(said, fault):
  with pytest.raises(errors.UsageError, match=fault):
    wishes.Wishes(**said)


@pytest.mark.parametrize("values,numbers", [
    (None, None), (["0.485", "0.456", " 0.406"], (0.485, 0.456, 0.406))])
def test_three_numbers(values, numbers):
  assert wishes.three_numbers("mean", values) == numbers


@pytest.mark.parametrize("flag,values", [
    ("mean", ["0.5"]), ("mean", ["a", "0", "0"]), ("mean", []),
    ("mean", ["nan", "0", "0"]), ("std", ["0.2", "0.2", "0"]),
    ("std", ["0.2", "0.2", "-0.2"]),
    # On the scale of bytes.
    ("mean", ["123.675", "116.28", "103.53"]), ("std", ["58.4", "57.1", "57.4"])
])
def test_other_than_three_numbers(flag, values):
  with pytest.raises(errors.UsageError, match=f"--{flag}="):
    wishes.three_numbers(flag, values)
