"""Tests of the check of the preprocessing against PIL's."""

import dataclasses
import types

import pytest
import tensorflow as tf

from checks import pixels
from hub_export import preprocessing
from hub_export.regnet import catalog
from hub_export.regnet import demo

RECORDS = sorted({e.preprocessing for entry in catalog.ENTRIES
                  for e in entry.evaluations} | {demo.PREPROCESSING}, key=str)
USUAL = preprocessing.Preprocessing(
    (preprocessing.Resize("shorter", 256, "bicubic", True),), 224)


def _checked(prep, apply=None):
  subject = types.SimpleNamespace(preprocessing=types.SimpleNamespace(
      **{f.name: getattr(prep, f.name) for f in dataclasses.fields(prep)},
      apply=apply or prep.apply))
  return pixels.preprocessing(subject)


@pytest.mark.parametrize("prep", RECORDS, ids=lambda p: "-".join(
    f"{r.mode}{r.size_px}{r.interpolation}{'' if r.antialias else '_points'}"
    f"{'_jpeg' if r.jpeg else ''}" for r in p.resizes) + f"-{p.crop_px}")
def test_every_record_of_the_catalog(prep):
  result = _checked(prep)
  assert result.status == "passed", result.message
  if all(r.antialias for r in prep.resizes):
    assert result.figures["largest_difference"] < 0.02


def test_no_resize():
  assert _checked(preprocessing.Preprocessing((), 224)).status == "passed"


def _other(**changes):
  """Returns a preprocessing with something else in its only step."""
  return dataclasses.replace(USUAL, resizes=(dataclasses.replace(
      USUAL.resizes[0], **changes),)).apply


def _later(encoded):
  """Cut out one row and column too far."""
  wider = dataclasses.replace(USUAL, crop_px=226).apply(encoded)
  return wider[2:, 2:]


@pytest.mark.parametrize("apply", [
    lambda e: USUAL.apply(e)[:, ::-1],
    lambda e: USUAL.apply(e)[::-1],
    lambda e: USUAL.apply(e)[..., ::-1],
    lambda e: tf.transpose(USUAL.apply(e), [1, 0, 2]),
    lambda e: 2 * USUAL.apply(e) - 1,
    lambda e: 255 * USUAL.apply(e),
    _later,
    _other(size_px=250),
    _other(mode="squash"),
    _other(antialias=False),
    _other(interpolation="bilinear"),
], ids=["mirrored", "upside_down", "bgr", "turned", "minus_one_to_one",
        "to_255", "a_pixel_off", "other_size", "squashed", "not_antialiased",
        "bilinear"])
def test_fault(apply):
  result = _checked(USUAL, apply)
  assert result.status == "failed"
  assert "pixels differ from PIL's by" in result.message


def test_other_shape():
  result = _checked(USUAL, lambda e: USUAL.apply(e)[:200])
  assert "becomes (200, 224, 3), in PIL (224, 224, 3)" in result.message
