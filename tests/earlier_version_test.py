"""Tests of what a report says of the version before, and what the card does."""

import json

import pytest

from checks import earlier_version
from hub_export import export_dirs
from model_cards import render
from model_cards import validate
from tests import model_cards_test
from tests import tiny_export

_METRICS = {"top1": {"value": 97.777778}, "top5": None}
_DATASET = {"digest": "e61a" * 16}


def two(tmp_path, **changes):
  """Writes versions 2 and 10 of a tiny module; returns 10's directory."""
  tiny_export.make(tmp_path, "local/tiny_classification/2")
  export_dir = tiny_export.make(tmp_path, "local/tiny_classification/10")
  m = tiny_export.manifest("local/tiny_classification/10")
  m |= changes
  path = export_dir / "assets.extra" / "manifest.json"
  path.write_text(json.dumps(m))
  return export_dir, m


class TestChanges:

  def test_fields_that_differ(self, tmp_path):
    export_dir, m = two(tmp_path, form="portable", parameters={
        "trainable": 4097, "total": 4160, "frozen": 7})
    assert earlier_version.changes(export_dir, m, None, None) == {
        "handle": "local/tiny_classification/2", "changes": [
            {"field": "form", "before": "main", "after": "portable"},
            {"field": "parameters frozen", "before": None, "after": 7},
            {"field": "parameters trainable", "before": 4096, "after": 4097}]}

  def test_accuracies_on_the_same_examples(self, tmp_path):
    export_dir, m = two(tmp_path)
    assert earlier_version.changes(
        export_dir, m, _METRICS, _DATASET)["changes"] == [
            {"field": "measured top-1", "before": 97.5, "after": 97.7778}]
    for metrics, dataset in ((_METRICS, {"digest": "0" * 64}),
                             (_METRICS, None), (None, _DATASET)):
      assert earlier_version.changes(
          export_dir, m, metrics, dataset)["changes"] == []

  def test_an_accuracy_of_other_bytes_does_not_count(self, tmp_path):
    export_dir, m = two(tmp_path)
    (export_dir.with_name("2") / "saved_model.pb").write_bytes(b"altered")
    assert earlier_version.changes(
        export_dir, m, _METRICS, _DATASET)["changes"] == []

  def test_the_newest_before_it_counts(self, tmp_path):
    export_dir, m = two(tmp_path)
    tiny_export.make(tmp_path, "local/tiny_classification/9")
    tiny_export.make(tmp_path, "local/tiny_classification/11")
    assert earlier_version.changes(export_dir, m, None, None)["handle"] == (
        "local/tiny_classification/9")

  def test_without_one_there_is_nothing(self, tmp_path):
    export_dir = tiny_export.make(tmp_path, "local/tiny_classification/2")
    m = tiny_export.manifest()
    tiny_export.make(tmp_path, "local/tiny_classification/3")
    assert earlier_version.changes(export_dir, m, None, None) is None
    damaged = export_dir.with_name("1") / export_dirs.MANIFEST
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    assert earlier_version.changes(export_dir, m, None, None) is None


def with_changes():
  """Returns a card that tells of changes, its manifest and report."""
  m = model_cards_test.manifest()
  r = model_cards_test.report(m)
  r["previous"] = {"handle": "local/regnety600mf_classification/3",
                   "changes": [
                       {"field": "checkpoint location",
                        "before": "keras:regnety006_old",
                        "after": "keras:regnety006"},
                       {"field": "reported_accuracy top1", "before": 71.11,
                        "after": 73.52},
                       {"field": "measured top-1", "before": 70.9012,
                        "after": 73.474}]}
  return render.module_card(m, r), m, r


class TestCard:

  def test_rows_are_those_written_by_hand(self):
    card, m, r = with_changes()
    rows = [" ".join(line.split()) for line in
            card.partition("## Changes")[2].splitlines()]
    for row in (
        "| checkpoint location | keras:regnety006_old | keras:regnety006 |",
        "| reported accuracy top1 | 71.11 | 73.52 |",
        "| measured top-1 | 70.9012 | 73.474 |"):
      assert row in rows
    assert "Against `local/regnety600mf_classification/3`" in card
    assert validate.problems(card, m, r) == []

  def test_the_past_stays_in_its_rows(self):
    card, m, r = with_changes()
    assert validate.problems(card + "\nIt was 71.11.\n", m, r)
    rows = card.partition("## Changes")[2]
    assert "71.11" in rows
    for old, new in (("71.11", "71.12"), ("70.9012", "73.474"),
                     ("regnety006_old", "regnety007_old")):
      altered = card.replace(rows, rows.replace(old, new, 1))
      assert altered != card
      assert validate.problems(altered, m, r), old

  @pytest.mark.parametrize("previous,text", [
      (None, "No earlier version lay beside this one"),
      ({"handle": "local/x/3", "changes": []},
       "The manifest says the same as that of `local/x/3`")])
  def test_without_changes(self, previous, text):
    _, m, r = with_changes()
    r["previous"] = previous
    card = render.module_card(m, r)
    assert text in card
    assert validate.problems(card, m, r) == []

  def test_archive_and_latency(self):
    m = model_cards_test.manifest()
    r = model_cards_test.report(m)
    r["archive"] = {"sha256": "5ca1" * 16, "bytes": 22334455}
    r["latency"] = {"median_ms": 14.207, "low_ms": 13.911, "high_ms": 16.518,
                    "calls": 50, "image_size_px": 224}
    card = render.module_card(m, r)
    rows = [" ".join(line.split()) for line in card.splitlines()]
    for row in (f"| Archive, SHA-256 | `{'5ca1' * 16}` |",
                "| Archive, bytes | 22,334,455 |",
                "| Latency of one image | 14.21 ms | 13.91 to 16.52 ms | 50 "
                "| 224 x 224 |"):
      assert row in rows
    assert "sha256sum --check 4.SHA256SUMS" in card
    assert validate.problems(card, m, r) == []
    for old, new in (("22,334,455", "22,334,456"), ("14.21 ms", "13.91 ms"),
                     ("5ca1" * 16, "c40d" * 16), ("| 224 x 224", "| 50 x 224")):
      altered = card.replace(old, new)
      assert altered != card and validate.problems(altered, m, r), old
