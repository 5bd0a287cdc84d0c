"""Tests of cards and collection pages, on made-up manifests and reports."""

import copy
import fcntl
import json
import multiprocessing
import os
import pathlib
import re

import pytest

from hub_export import errors
from hub_export import export_dirs
from model_cards import markdown
from model_cards import render
from model_cards import validate


def manifest(kind="classifier", form="main", is_demo=False):
  """A manifest whose every figure differs from the others."""
  data = "digits_" if is_demo else ""
  name = {"classifier": "classification",
          "feature_extractor": "feature_extractor"}
  stem = f"regnety600mf_{data}" + ("portable_" if form == "portable" else "")
  other = {"classifier": "feature_extractor",
           "feature_extractor": "classifier"}[kind]
  record = {
      "schema_version": 1,
      "handle": f"local/{stem}{name[kind]}/4",
      "family": "regnet", "variant": "regnety_600mf",
      "kind": kind, "form": form,
      "companion": f"local/{stem}{name[other]}",
      "is_demo": is_demo,
      "checkpoint": {
          "source": "keras", "format": "keras_h5",
          "location": "keras:regnety006",
          "files": [{"name": "regnety006.h5", "sha256": "8a5f" * 16,
                     "bytes": 24690584}]},
      "weights": {"sha256": "1b7c" * 16, "backbone_sha256": "9d03" * 16},
      "parameters": {"trainable": 6055160, "total": 6084920},
      "multiply_adds": {"count": 601227608, "image_size_px": 224},
      "dataset": {"name": "imagenet2012",
                  "title": "ImageNet-1k (ILSVRC 2012)",
                  "split": "validation",
                  "tfhub_tag": "imagenet-ilsvrc-2012-cls"},
      "preprocessing": {
          "resizes": [{"mode": "shorter", "size_px": 256,
                       "interpolation": "bicubic", "antialias": True,
                       "jpeg": False}],
          "crop_px": 224, "mean": [0.485, 0.456, 0.406],
          "std": [0.229, 0.224, 0.225]},
      "inputs": {"dtype": "float32", "min_size_px": 32, "range": [0.0, 1.0],
                 "channel_order": "RGB"},
      "outputs": {"num_classes": 1000},
      "labels": {"file": "assets/labels.txt", "count": 1000,
                 "sha256": "77e2" * 16},
      "reported_accuracy": {
          "top1": 73.52, "top5": 91.58, "source": "The model's own page",
          "tolerance": 0.13,
          "tolerance_reason": "The preprocessing is the same."},
      "licence": {"id": "apache-2.0",
                  "text": "The weights are under the Apache License 2.0."},
      "card": {
          "title": "RegNetY 600MF, an image classifier",
          "description": "RegNetY 600MF trained on ImageNet-1k.",
          "architecture": "regnety",
          "training": "Trained for 100 epochs by the authors of the paper.",
          "intended_use": "Classifying photographs and fine-tuning.",
          "limits": "Photographs of single objects only.",
          "references": ["Designing Network Design Spaces, arXiv:2003.13678",
                         "https://www.tensorflow.org/hub"]},
      "software": {"tensorflow": "2.21.0", "python": "3.11.2"},
  }
  if is_demo:
    record["checkpoint"] |= {"source": "demo", "location": "demo"}
    record["dataset"] = {
        "name": "optical_digits", "title": "UCI optical digits (8x8)",
        "split": "test", "tfhub_tag": None}
    record["preprocessing"] = {"resizes": [], "crop_px": 32,
                               "mean": [0.0] * 3, "std": [1.0] * 3}
    record["outputs"] = {"num_classes": 10}
    record["labels"]["count"] = 10
    record["reported_accuracy"] = None
    record["card"]["description"] = "A demo of RegNetY 600MF on 8x8 digits."
  if kind == "feature_extractor":
    record["outputs"] = {"feature_dim": 608, "endpoints": {
        "stage1": 48, "stage2": 112, "stage3": 256, "stage4": 608}}
    record["labels"] = None
  return record


def report(of, status="passed"):
  """A report on the module of manifest `of`."""
  checks = [("structure", "files", "passed", "as promised"),
            ("structure", "signatures", "passed", "3 as promised"),
            ("numerics", "golden", "passed", "largest difference 2e-06"),
            ("accuracy", "top1", "passed", "within tolerance")]
  metrics = {
      "top1": {"value": 73.474, "correct": 36737, "total": 50000,
               "low": 73.08564, "high": 73.8589},
      "top5": {"value": 91.532, "correct": 45766, "total": 50000,
               "low": 91.285, "high": 91.7727}}
  if status == "failed":
    checks[2] = ("numerics", "golden", "failed",
                 "largest difference 0.37, expected at most 0.001")
  elif status == "incomplete":
    checks[3] = ("accuracy", "top1", "not_run", "imagenet2012 is not there")
    metrics = None
  return {
      "schema_version": 1, "handle": of["handle"],
      "export_sha256": "c40d" * 16, "status": status,
      "checks": [{"group": group, "name": name, "status": state,
                  "message": message, "figures": {"seen": 5.5e-7},
                  "seconds": 1.25}
                 for group, name, state, message in checks],
      "dataset": {"name": of["dataset"]["name"], "version": "5.1.0",
                  "split": of["dataset"]["split"], "num_examples": 50000,
                  "digest": "e61a" * 16},
      "metrics": metrics,
      "environment": {"python": "3.11.2", "tensorflow": "2.21.0",
                      "tensorflow_hub": "0.16.1", "onednn": True,
                      "processor": "Some CPU @ 2.60GHz",
                      "platform": "Linux-6.1.0-28-amd64-x86_64"},
      "started": "2026-11-21T10:50:00Z", "seconds": 312.75,
  }


def with_figures(of, names=("tench", "goldfish", "boat, 12 m")):
  """A report whose metrics are those of figures.Figures.to_dict."""
  tench, goldfish, boat = names
  record = report(of)
  record["metrics"] |= {
      "nll": 1.02468, "ece": 3.1357, "mean_confidence": 70.8421,
      "reliability": [
          {"low": 100 * i / 15, "high": 100 * (i + 1) / 15,
           "count": 3300 + i, "accuracy": 6.5 * i + 2.25,
           "confidence": 6.5 * i + 3.33} for i in range(15)],
      "classes": {
          "count": 998, "mean_top1": 73.4491,
          "worst": [
              {"class": 0, "name": tench, "correct": 7, "total": 43},
              {"class": 472, "name": boat, "correct": 9, "total": 51}],
          "best": [
              {"class": 1, "name": goldfish, "correct": 49, "total": 52}]},
      "confusions": [
          {"label": 0, "predicted": 472, "label_name": tench,
           "predicted_name": boat, "count": 31},
          {"label": 472, "predicted": 1, "label_name": boat,
           "predicted_name": goldfish, "count": 19}]}
  return record


def links(of):
  """What a card may link to, by hand."""
  stem = f"4.evaluations/{of['dataset']['name']}-{of['dataset']['split']}"
  return [stem + suffix for suffix in (
      ".reliability.png", ".classes.png", ".worst.png", ".html")]


CASES = [
    pytest.param(kind, form, is_demo, status,
                 id=f"{kind}-{form}-{'demo' if is_demo else 'real'}-{status}")
    for kind in ("classifier", "feature_extractor")
    for form in ("main", "portable") for is_demo in (True, False)
    for status in (None, "passed", "failed", "incomplete")]

HEAD = """\
# Module local/regnety600mf_classification/4
RegNetY 600MF trained on ImageNet-1k.

<!-- asset-path: local/regnety600mf_classification/4.tar.gz -->
<!-- fine-tunable: true -->
<!-- format: saved_model_2 -->
<!-- task: image-classification -->
<!-- network-architecture: regnety -->
<!-- dataset: imagenet-ilsvrc-2012-cls -->
<!-- license: apache-2.0 -->

## Overview

RegNetY 600MF, an image classifier. The module takes images and gives one \
logit per class.

Status of the checks: **passed**.

## Details
"""

# By hand, from the figures in `manifest` and `report`.
METRICS = """\
| Metric          |   Value | 95 % Wilson interval |          Correct |
| --------------- | ------: | -------------------: | ---------------: |
| Top-1, measured | 73.47 % |     73.09 to 73.86 % | 36,737 of 50,000 |
| Top-5, measured | 91.53 % |     91.28 to 91.77 % | 45,766 of 50,000 |
"""

# By hand, from the figures in `with_figures`.
FIGURES = """\
| Figure                     |                    Value |
| -------------------------- | -----------------------: |
| Mean top-1 of classes      | 73.45 % over 998 classes |
| Negative log-likelihood    |              1.0247 nats |
| Expected calibration error |        3.14 % in 15 bins |
| Mean confidence            |                  70.84 % |
"""

WORST = """\
The classes with the lowest top-1:

| Class      |   Right | 95 % Wilson interval |
| ---------- | ------: | -------------------: |
| tench      | 7 of 43 |      8.12 to 29.97 % |
| boat, 12 m | 9 of 51 |      9.57 to 30.25 % |

The classes with the highest top-1:

| Class    |    Right | 95 % Wilson interval |
| -------- | -------: | -------------------: |
| goldfish | 49 of 52 |     84.36 to 98.02 % |

The most frequent mistakes:

| Label      | Taken for  | Times |
| ---------- | ---------- | ----: |
| tench      | boat, 12 m |    31 |
| boat, 12 m | goldfish   |    19 |
"""

REPORTED = """\
Reported, not measured here:

| Metric          |   Value |
| --------------- | ------: |
| Top-1, reported | 73.52 % |
| Top-5, reported | 91.58 % |

Source: The model's own page
"""

FAILED = """\
| Group     | Passed | Failed | Not run |
| --------- | -----: | -----: | ------: |
| structure |      2 |      0 |       0 |
| numerics  |      0 |      1 |       0 |
| accuracy  |      1 |      0 |       0 |

These did not pass. A check that could not run does not count as passed.

| Check           | Status | Message                                         |
| --------------- | ------ | ----------------------------------------------- |
| numerics/golden | failed | largest difference 0.37, expected at most 0.001 |
"""


class TestModuleCard:

  @pytest.mark.parametrize("kind,form,is_demo,status", CASES)
  def test_is_sound(self, kind, form, is_demo, status):
    m = manifest(kind, form, is_demo)
    r = report(m, status) if status else None
    assert validate.problems(render.module_card(m, r), m, r) == []

  def test_begins_as_written_by_hand(self):
    m = manifest()
    assert render.module_card(m, report(m)).startswith(HEAD)

  def test_tables_are_those_written_by_hand(self):
    m = manifest()
    card = render.module_card(m, report(m))
    assert METRICS in card
    assert REPORTED in card
    assert FAILED in render.module_card(m, report(m, "failed"))

  def test_figures_are_those_written_by_hand(self):
    m = manifest()
    card = render.module_card(m, with_figures(m))
    for part in (METRICS, FIGURES, WORST):
      assert part in card
    assert validate.file_links(card) == []

  def test_pictures_and_page(self):
    m = manifest()
    r = with_figures(m)
    card = render.module_card(m, r, links(m))
    assert validate.problems(card, m, r) == []
    stem = "4.evaluations/imagenet2012-validation"
    assert ("![Reliability diagram: accuracy against confidence in bins of "
            "equal width. Expected calibration error 3.14 %, mean confidence "
            f"70.84 %, top-1 73.47 %.]({stem}.reliability.png)\n") in card
    assert "998 classes, mean 73.45 %." + f"]({stem}.classes.png)\n" in card
    assert f"worst classes.]({stem}.worst.png)\n" in card
    assert f"[The evaluation's page]({stem}.html)" in card
    # Only what is there is shown.
    assert validate.file_links(render.module_card(
        m, r, links(m)[1:3])) == links(m)[1:3]

  def test_reports_of_earlier_versions_have_no_figures(self):
    m = manifest()
    assert (render.module_card(m, report(m), links(m))
            == render.module_card(m, report(m)))

  def test_without_a_mistake_there_are_no_confusions(self):
    m = manifest()
    r = with_figures(m)
    r["metrics"]["confusions"] = []
    card = render.module_card(m, r)
    assert "The most frequent mistakes" not in card
    assert validate.problems(card, m, r) == []

  @pytest.mark.parametrize("kind,form,is_demo,status", CASES)
  def test_is_sound_with_figures(self, kind, form, is_demo, status):
    m = manifest(kind, form, is_demo)
    r = with_figures(m) | ({"status": status} if status else {})
    assert validate.problems(
        render.module_card(m, r, links(m)), m, r) == []

  @pytest.mark.parametrize("metric,row", [
      ({"value": 0.0, "correct": 0, "total": 360, "low": -1.7e-16,
        "high": 1.0558}, "| 0.00 % | 0.00 to 1.06 % | 0 of 360 |"),
      ({"value": 0.2777, "correct": 1, "total": 360, "low": 0.0049,
        "high": 1.5568}, "| 0.28 % | 0.00 to 1.56 % | 1 of 360 |"),
      ({"value": 100.0, "correct": 360, "total": 360, "low": 98.944,
        "high": 100.0}, "| 100.00 % | 98.94 to 100.00 % | 360 of 360 |")])
  def test_extreme_metrics(self, metric, row):
    m = manifest()
    r = report(m)
    r["metrics"] = {"top1": metric, "top5": None}
    card = render.module_card(m, r)
    assert f"| Top-1, measured {row}" in " ".join(card.split())
    assert "Top-5, measured" not in card
    assert validate.problems(card, m, r) == []

  def test_details_are_those_written_by_hand(self):
    rows = [" ".join(line.split()) for line in
            render.module_card(manifest(), None).splitlines()]
    for row in (
        "| Parameters, trainable | 6,055,160 |",
        "| Multiply-adds | 601,227,608 for an image of 224 x 224 pixels |",
        r"| Input | float32 \[batch, height, width, 3\], RGB, values in "
        r"\[0, 1\] |",
        r"| Output | logits, float32 \[batch, 1000\] |",
        "| Labels | 1000 in `assets/labels.txt` |",
        "| crop px | 224 |",
        f"| `regnety006.h5` | 24,690,584 | `{'8a5f' * 16}` |"):
      assert row in rows

  def test_precisions(self):
    m = manifest()
    m["inputs"]["compute_dtypes"] = ["float32", "bfloat16", "float16"]
    row = ("| Computes in | the dtype of its images: `float32`, `bfloat16`, "
           "`float16`; float32 for what is no tensor |")
    card = render.module_card(m, None)
    assert row in " ".join(card.split())
    assert "differ by" not in card and validate.problems(card, m) == []
    r = report(m)
    r["checks"].append({
        "group": "trainability", "name": "mixed_precision", "status": "passed",
        "message": "", "seconds": 1.0,
        "figures": {"bfloat16": 0.021342, "float16": -1.0}})
    card = render.module_card(m, r)
    for row in ("| Outputs in bfloat16 differ by | 0.0213 of their standard "
                "deviation from float32's, in root mean square |",
                "| Outputs in float16 differ by | more than can be told: they "
                "are not finite |"):
      assert row in " ".join(card.split())
    assert validate.problems(card, m, r) == []
    assert "row 'Outputs in bfloat16 differ by' says 0.0312" in (
        validate.problems(card.replace("0.0213", "0.0312"), m, r)[0])

  def test_normalisation_is_no_step_of_the_users(self):
    m = manifest()
    card = render.module_card(m, None)
    inside = card.split("## Details")[1].split("### Signatures")[0]
    steps = card.split("## Evaluation")[1].split("## Metrics")[0]
    assert "| mean              | 0.485, 0.456, 0.406 |" in inside
    assert "| std               | 0.229, 0.224, 0.225 |" in inside
    assert "mean" not in steps and "std" not in steps
    assert steps.index("| resizes |") < steps.index("| crop px |")
    assert validate.problems(card, m) == []

  @pytest.mark.parametrize("order, row", [
      ("RGB", "| Channel order | RGB in the checkpoint |"),
      ("BGR", "| Channel order | BGR in the checkpoint; this module takes RGB "
       "all the same |")])
  def test_channel_order_of_the_checkpoint(self, order, row):
    m = manifest()
    m["checkpoint"]["channel_order"] = order
    card = render.module_card(m, None)
    assert row in " ".join(card.split())
    assert validate.problems(card, m) == []

  @pytest.mark.parametrize("classes", [1, 2, 3, 5, 95])
  def test_few_classes(self, classes):
    """Also as many as an image has channels."""
    m = manifest()
    m["outputs"]["num_classes"] = m["labels"]["count"] = classes
    card = render.module_card(m, None)
    assert validate.problems(card, m) == []
    wrong = card.replace(rf"\[batch, {classes}\]", r"\[batch, 4\]")
    assert any("row 'Output'" in p for p in validate.problems(wrong, m))

  def test_without_a_data_set(self):
    m = manifest()
    m["dataset"] = {"name": "own", "title": "Images of the exporter's own",
                    "split": "", "tfhub_tag": None}
    card = render.module_card(m, None)
    assert "names no data set to measure it on" in card
    assert "``" not in card.replace("```", "")
    assert validate.problems(card, m) == []

  def test_without_report_says_so_and_how_to_measure(self):
    card = render.module_card(manifest(), None)
    assert "this card holds no measured number" in card
    assert "Accuracy is not measured yet." in card
    assert "Top-1, measured" not in card
    assert ("./bazelw run //checks:check -- "
            "--export_dir=PATH/local/regnety600mf_classification/4") in card

  def test_status_is_said_first(self):
    m = manifest()
    assert "**failed**. Do not use this module" in render.module_card(
        m, report(m, "failed"))
    incomplete = render.module_card(m, report(m, "incomplete"))
    assert "**incomplete**" in incomplete
    assert "| accuracy/top1 | not run | imagenet2012 is not there |" in (
        incomplete)

  def test_demo_is_called_one_twice_and_a_real_model_never(self):
    warning = "**A demo, trained on UCI optical digits (8x8); not for use.**"
    assert render.module_card(manifest(is_demo=True), None).count(warning) == 2
    assert "demo" not in render.module_card(manifest(), None).lower()

  def test_form_decides_what_is_said_of_onednn(self):
    main = render.module_card(manifest(), None)
    portable = render.module_card(manifest(form="portable"), None)
    assert "Training on a CPU needs oneDNN" in main
    assert "Training on a CPU needs oneDNN" not in portable
    assert "Inference and training work everywhere" in portable

  def test_kind_decides_signatures_and_examples(self):
    classifier = render.module_card(manifest(), None)
    extractor = render.module_card(manifest("feature_extractor"), None)
    assert '"feature_vector"' in classifier
    assert "return_endpoints" not in classifier
    assert "<!-- task: image-feature-vector -->" in extractor
    assert 'endpoints["stage3"]  # float32 [batch, height, width, 256]' in (
        extractor)
    assert "`feature_vector`" not in extractor

  def test_python_examples_compile(self):
    for kind in ("classifier", "feature_extractor"):
      blocks = render.module_card(manifest(kind), None).split("```python\n")
      assert len(blocks) == 5
      for block in blocks[1:]:
        compile(block.split("```")[0], "card", "exec")

  @pytest.mark.parametrize("kind", ["classifier", "feature_extractor"])
  def test_examples_say_what_to_put_in_for_the_place(self, kind):
    m = manifest(kind)
    card = render.module_card(m, None)
    assert "exports/" not in card and "$PWD" not in card
    # hub.KerasLayer and hub.load take addresses; Keras, Docker, the converter
    # to Lite and both programs want directories.
    assert card.count(f'"PATH_OR_URL/{m["handle"]}"') == 2
    assert len(re.findall(r"\bPATH/local/", card)) == 5
    use = card.partition("## How to use\n")[2]
    explained = use.partition("```")[0]
    for word in ("`PATH_OR_URL`", "`PATH`", "directory of exports",
                 "published to", "`http://host:port`"):
      assert word in explained

  def test_unlisted_licence_is_tagged_custom_and_named_in_the_text(self):
    m = manifest()
    m["licence"] = {"id": "cc-by-4.0", "text": "Attribution is asked for."}
    card = render.module_card(m, None)
    assert "<!-- license: custom -->" in card
    assert "Attribution is asked for. (`cc-by-4.0`)" in card
    assert validate.problems(card, m) == []

  @pytest.mark.parametrize("path", [
      ("handle",), ("kind",), ("parameters", "trainable"), ("card", "title"),
      ("dataset", "tfhub_tag"), ("outputs", "num_classes"),
      ("reported_accuracy", "source"), ("checkpoint", "files")])
  def test_missing_field_is_named(self, path):
    m = manifest()
    inner = m
    for key in path[:-1]:
      inner = inner[key]
    del inner[path[-1]]
    with pytest.raises(errors.HubExportError, match=path[-1]):
      render.module_card(m, None)

  def test_report_of_another_module_is_refused(self):
    other = manifest("feature_extractor")
    with pytest.raises(errors.HubExportError, match="feature_extractor/4"):
      render.module_card(manifest(), report(other))


HOSTILE = ("bad -->\n## Heading\n| 99.9 % | `x` ``` \r\n<!-- license: mit -->"
           " [click](javascript:1) \u202e<script>\x00\\")


class TestHostileText:

  @pytest.mark.parametrize("path", [
      ("card", "title"), ("card", "description"), ("card", "training"),
      ("card", "intended_use"), ("card", "limits"), ("card", "references", 0),
      ("card", "architecture"), ("dataset", "title"), ("dataset", "name"),
      ("dataset", "split"), ("dataset", "tfhub_tag"), ("licence", "id"),
      ("licence", "text"), ("checkpoint", "location"),
      ("checkpoint", "files", 0, "name"), ("checkpoint", "source"),
      ("reported_accuracy", "source"), ("variant",), ("companion",),
      ("inputs", "channel_order"), ("software", "tensorflow"),
      ("preprocessing", "resizes", 0, "mode"), ("labels", "file")],
      ids=lambda path: ".".join(map(str, path)))
  def test_stays_text(self, path):
    m = manifest()
    inner = m
    for key in path[:-1]:
      inner = inner[key]
    clean = render.module_card(m, None)
    inner[path[-1]] = HOSTILE
    self.assert_same_structure(render.module_card(m, None), clean)

  def test_in_messages_of_checks_stays_text(self):
    m = manifest()
    r = report(m, "failed")
    clean = render.module_card(m, r)
    r["checks"][2]["message"] = HOSTILE
    r["environment"]["processor"] = HOSTILE
    card = render.module_card(m, r)
    self.assert_same_structure(card, clean)
    assert validate.problems(card, m, r) == []

  def test_in_names_of_classes_stays_text(self):
    m = manifest()
    clean = render.module_card(m, with_figures(m), links(m))
    for names in ((HOSTILE, "&amp;\\|*a", "](x)"),
                  ("7", "12", "50,000"), ("top-1", "-3.5 %", "`1`"),
                  ("Examples", "files", "](4.evaluations/y.png)"),
                  ("\\", "1\\", "[1](2)")):
      r = with_figures(m, names)
      card = render.module_card(m, r, links(m))
      self.assert_same_structure(
          re.sub(r"(?m)^!?\[.*", "", card), re.sub(r"(?m)^!?\[.*", "", clean))
      assert validate.problems(card, m, r) == []
      assert validate.file_links(card) == links(m)

  def test_in_the_collection_stays_text(self):
    m = manifest()
    clean = render.collection_page([(m, None)], "local")
    m["dataset"]["title"] = HOSTILE
    m["card"]["architecture"] = "x --> y"
    self.assert_same_structure(
        render.collection_page([(m, None)], "local"), clean)

  def test_block_marks_at_the_start_are_escaped(self):
    for start in ("# a", "> a", "- a", "+ a", "* a", "1. a", "= a", "~~~"):
      assert not markdown.paragraph(start).startswith(start)
    assert markdown.paragraph("1.5 a") == "1.5 a"

  def test_endpoint_names_cannot_leave_their_code_block(self):
    m = manifest("feature_extractor")
    clean = render.module_card(m, None)
    m["outputs"]["endpoints"] = {
        'a"]\n```\n# x': 48, "stage2": 112, "stage3": 256, "stage4": 608}
    self.assert_same_structure(render.module_card(m, None), clean)

  def assert_same_structure(self, card, clean):
    """Asserts that headings, tables' shapes, tags and fences are the same."""
    def structure(text):
      found = []
      is_code = False
      for line in text.split("\n"):
        is_code ^= line.startswith("```")
        if line.startswith("#"):
          found.append(line)
        elif line.startswith("<!--"):
          assert line.endswith(" -->") and line.count("-->") == 1
          found.append(line.split(":")[0])
        elif line.startswith("|"):
          found.append(line.replace("\\\\", "").replace("\\|", "").count("|"))
        elif line.startswith(("```", ">")):
          found.append(line[:3])
        elif not is_code:
          prose = re.sub(r"`[^`]*`", "", line)
          assert "<script" not in prose and "](" not in prose.replace(
              "\\]", "")
        assert "\r" not in line and "\x00" not in line and "\u202e" not in line
      return found
    assert structure(card) == structure(clean)


class TestCollectionPage:

  def entries(self):
    measured = manifest()
    small = manifest("feature_extractor", "portable", is_demo=True)
    small["multiply_adds"]["count"] = 199519076
    small["parameters"]["trainable"] = 3162996
    return [(measured, report(measured)), (small, None)]

  def test_rows_are_those_written_by_hand_smallest_first(self):
    page = render.collection_page(self.entries(), "local")
    rows = [" ".join(line.split()) for line in page.splitlines()
            if line.startswith("| [")]
    assert rows == [
        "| [local/regnety600mf_digits_portable_feature_extractor/4]"
        "(../../regnety600mf_digits_portable_feature_extractor/4.md) "
        "| feature extractor, portable, demo | 3,162,996 | 199,519,076 "
        "| not measured yet | none | not measured | UCI optical digits (8x8) "
        "|",
        "| [local/regnety600mf_classification/4]"
        "(../../regnety600mf_classification/4.md) | classifier, main "
        "| 6,055,160 | 601,227,608 | 73.47 % (73.09 to 73.86) | 73.52 % "
        "| not measured | ImageNet-1k (ILSVRC 2012) |"]

  def test_is_sound_and_tagged_with_all_its_modules_tags(self):
    page = render.collection_page(self.entries(), "local")
    assert validate.problems(page) == []
    assert page.startswith("# Collection local/regnet/1\nAll modules")
    assert page.count("<!-- task: ") == 2
    assert page.count("<!-- dataset: ") == 1

  def test_mixed_families_and_publishers_are_refused(self):
    other = copy.deepcopy(manifest())
    other["family"] = "resnet"
    with pytest.raises(errors.HubExportError, match="'regnet', 'resnet'"):
      render.collection_page([(manifest(), None), (other, None)], "local")
    with pytest.raises(errors.HubExportError, match="publisher 'else'"):
      render.collection_page([(manifest(), None)], "else")
    with pytest.raises(errors.HubExportError, match=r"families \[\]"):
      render.collection_page([], "local")

  def test_publisher_page_is_sound(self):
    assert validate.problems(render.publisher_page("local")) == []


def put(root: pathlib.Path, m, r=None) -> pathlib.Path:
  """Lays down an export that consists of its manifest, and its report."""
  export_dir = root / m["handle"]
  export_dirs.write_file(export_dir / export_dirs.MANIFEST, json.dumps(m))
  if r is not None:
    r = {**r, "export_sha256": export_dirs.digest(export_dir)}
    export_dirs.write_file(export_dirs.report_path(export_dir), json.dumps(r))
  return export_dir


def _write(export_dir):
  render.write_cards(export_dir)


class TestWriteCards:

  def test_writes_card_collection_and_publisher(self, tmp_path):
    m = manifest()
    export_dir = put(tmp_path, m, report(m))
    written = render.write_cards(export_dir)
    assert written == [
        tmp_path / "local/regnety600mf_classification/4.md",
        tmp_path / "local/collections/regnet/1.md"]
    r = render.read_report(export_dir)
    assert written[0].read_text() == render.module_card(m, r)
    assert "73.47 %" in written[1].read_text()
    assert validate.problems(written[1].read_text(), path=written[1]) == []
    assert (tmp_path / "local/local.md").read_text().startswith(
        "# Publisher local\n")
    assert not list(tmp_path.rglob(".*"))  # No temporary file is left.

  def test_shows_the_pictures_that_lie_beside_the_export(self, tmp_path):
    m = manifest()
    export_dir = put(tmp_path, m)
    r = with_figures(m) | {"export_sha256": export_dirs.digest(export_dir)}
    export_dirs.report_path(export_dir).write_text(json.dumps(r))
    assert render.evaluation_links(export_dir, r) == []
    for link in links(m)[::3]:
      path = export_dir.parent / link
      path.parent.mkdir(exist_ok=True)
      path.write_bytes(b"")
    (export_dir.parent / "4.evaluations/other-test.html").write_bytes(b"")
    card_path, _ = render.write_cards(export_dir)
    card = card_path.read_text()
    assert validate.file_links(card) == links(m)[::3]
    assert validate.problems(card, m, r, card_path) == []
    assert render.evaluation_links(export_dir, None) == []

  def test_collection_has_the_newest_version_of_each_module(self, tmp_path):
    m = manifest()
    for version in (9, 10):
      render.write_cards(put(tmp_path, {
          **m, "handle": f"local/regnety600mf_classification/{version}"}))
    extractor = manifest("feature_extractor")
    page = render.write_cards(put(tmp_path, extractor))[1].read_text()
    assert "regnety600mf_classification/10.md" in page
    assert "regnety600mf_classification/9.md" not in page
    assert "regnety600mf_feature_extractor/4.md" in page
    assert page.count("\n| [") == 2

  def test_other_families_publishers_and_damage_stay_out(self, tmp_path):
    m = manifest()
    put(tmp_path, {**m, "handle": "local/other/1", "family": "resnet"})
    put(tmp_path, {**m, "handle": "else/regnety600mf_classification/1"})
    damaged = put(tmp_path, {**m, "handle": "local/damaged/1"})
    (damaged / export_dirs.MANIFEST).write_text("{")
    page = render.write_cards(put(tmp_path, m))[1].read_text()
    assert page.count("\n| [") == 1

  def test_publishers_own_page_is_left_alone(self, tmp_path):
    export_dir = put(tmp_path, manifest())
    (tmp_path / "local/local.md").write_text("# Publisher local\nMine.\n")
    render.write_cards(export_dir)
    assert (tmp_path / "local/local.md").read_text().endswith("Mine.\n")

  def test_report_of_other_bytes_is_refused(self, tmp_path):
    m = manifest()
    export_dir = put(tmp_path, m, report(m))
    (export_dir / "saved_model.pb").write_bytes(b"changed")
    with pytest.raises(errors.ChecksError, match="other bytes"):
      render.write_cards(export_dir)
    assert not export_dirs.card_path(export_dir).exists()

  @pytest.mark.parametrize("content", [
      "{", "[]", '{"handle": 1}', "[" * 100_000])
  def test_damaged_report_is_refused(self, tmp_path, content):
    export_dir = put(tmp_path, manifest())
    export_dirs.report_path(export_dir).write_text(content)
    with pytest.raises(errors.HubExportError, match="cannot be read"):
      render.write_cards(export_dir)

  def test_relative_paths_work(self, tmp_path, monkeypatch):
    export_dir = put(tmp_path, manifest())
    monkeypatch.chdir(export_dir)
    assert render.write_cards(pathlib.Path("."))[0] == (
        export_dir.with_name("4.md"))

  def test_writers_at_the_same_time_lose_no_module(self, tmp_path):
    export_dirs_ = [put(tmp_path, {**manifest(), "handle": f"local/m{i}/1"})
                    for i in range(6)]
    for version in (2, 3):
      # Each writer's module appears only now, beside the others.
      export_dirs_ = [put(tmp_path, {**manifest(),
                                     "handle": f"local/m{i}/{version}"})
                      for i in range(6)]
      context = multiprocessing.get_context("fork")
      writers = [context.Process(target=_write, args=(d,))
                 for d in export_dirs_]
      for writer in writers:
        writer.start()
      for writer in writers:
        writer.join()
        assert writer.exitcode == 0
      page = (tmp_path / "local/collections/regnet/1.md").read_text()
      assert page.count(f"/{version}.md") == 6

  def test_writer_waits_for_another_before_it_lists(self, tmp_path):
    collection = tmp_path / "local/collections/regnet"
    collection.mkdir(parents=True)
    fd = os.open(collection, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    writer = multiprocessing.get_context("fork").Process(
        target=_write, args=(put(tmp_path, manifest()),))
    writer.start()
    writer.join(1)
    try:
      assert writer.is_alive()
      assert not (collection / "1.md").exists()
      put(tmp_path, manifest("feature_extractor"))
    finally:
      fcntl.flock(fd, fcntl.LOCK_UN)
      os.close(fd)
      writer.join()
    assert "regnety600mf_feature_extractor/4.md" in (
        collection / "1.md").read_text()
