"""Tests of the rules for cards, and of the tracing of their numbers."""

import re

import pytest

from model_cards import render
from model_cards import safety
from model_cards import validate
from tests import model_cards_test

# The example of TensorFlow Hub's guide to writing documentation, with the
# tags of the current validator.
MODULE = """\
# Module google/text-embedding-model/1

Simple one sentence description.

<!-- asset-path: https://path/to/text-embedding-model/model.tar.gz -->
<!-- task: image-feature-vector -->
<!-- fine-tunable: true -->
<!-- format: saved_model_2 -->

## Overview

Here we give more information about the model.
"""

COLLECTION = """\
# Collection google/image-models/1
Collection of models.

<!-- task: image-classification -->
<!-- task: image-feature-vector -->

## Models

- [google/a/1](https://tfhub.dev/google/a/1)
"""

LITE = """\
# Lite google/spice/1
A Lite model.

<!-- asset-path: google/spice/lite/1.tflite -->
<!-- parent-model: google/spice/1 -->

## Overview
"""

TFJS = """\
# Tfjs google/spice/2
A model for browsers.

<!-- asset-path: google/spice/tfjs/2.tar.gz -->
<!-- parent-model: google/spice/1 -->

## Overview
"""

PUBLISHER = """\
# Publisher vtab
Visual Task Adaptation Benchmark

[![Icon URL]](https://storage.googleapis.com/vtab/vtab_logo_120.png)

## VTAB
The benchmark.
"""


def with_line(card, line):
  """Returns `card` with another metadata line in front of the others."""
  return card.replace("<!--", f"{line}\n<!--", 1)


class TestRules:

  @pytest.mark.parametrize("card", [MODULE, COLLECTION, LITE, TFJS,
                                    PUBLISHER])
  def test_sound_pages_have_no_problem(self, card):
    assert validate.problems(card) == []

  @pytest.mark.parametrize("first", [
      "# Module Google/model/1", "# Module google/model", "# Module google/1",
      "# Module google/model/one", "Module google/model/1",
      "## Module google/model/1", "# Modul google/model/1",
      "# Module google/mo del/1", " # Module google/model/1", "",
      "# Publisher google/1", "# Module google//1", "# Module google/../1",
      "# Module google/./1", "# Module google/model/0",
      "# Collection google/models/7"])
  def test_first_line(self, first):
    found = validate.problems(MODULE.replace(
        "# Module google/text-embedding-model/1", first))
    assert len(found) == 1
    assert found[0].startswith("line 1 is ")

  def test_handle_may_have_slashes_dots_and_underscores(self):
    assert validate.problems(MODULE.replace(
        "text-embedding-model/1", "aiy/vision_1.0/x/12", 1)) == []

  def test_description(self):
    found = validate.problems(MODULE.replace(
        "Simple one sentence description.\n\n", ""))
    assert found == ["no description; expected one paragraph below line 1"]

  def test_second_paragraph_before_the_heading(self):
    found = validate.problems(MODULE.replace(
        "## Overview", "Another paragraph.\n\n## Overview"))
    assert len(found) == 1
    assert "'Another paragraph.'" in found[0]

  @pytest.mark.parametrize("card,key", [
      (MODULE, "asset-path"), (MODULE, "fine-tunable"), (MODULE, "format"),
      (MODULE, "task"), (LITE, "asset-path"), (LITE, "parent-model"),
      (TFJS, "asset-path"), (TFJS, "parent-model"),
      (COLLECTION, "task")])
  def test_required_tags(self, card, key):
    found = validate.problems(re.sub(rf"<!-- {key}: .*\n", "", card))
    assert len(found) == 1
    assert found[0].startswith(f"no {key} tag")

  @pytest.mark.parametrize("line", [
      "<!-- network-architecture: regnety -->", "<!-- license: mit -->",
      "<!-- dataset: imagenet-ilsvrc-2012-cls -->", "<!-- language: en -->",
      "<!-- colab: https://colab.research.google.com/x.ipynb -->",
      "<!-- interactive-visualizer: vision -->"])
  def test_optional_tags(self, line):
    assert validate.problems(with_line(MODULE, line)) == []

  @pytest.mark.parametrize("card,line", [
      (MODULE, "<!-- parent-model: google/a/1 -->"),
      (MODULE, "<!-- module-type: image-classification -->"),
      (LITE, "<!-- task: image-classification -->"),
      (TFJS, "<!-- license: mit -->"),
      (COLLECTION, "<!-- license: mit -->"),
      (COLLECTION, "<!-- format: saved_model_2 -->")])
  def test_unknown_tags(self, card, line):
    found = validate.problems(with_line(card, line))
    assert len(found) == 1
    assert " is unknown on a page of kind " in found[0]

  def test_publisher_has_no_tags(self):
    found = validate.problems(PUBLISHER.replace(
        "\n## VTAB", "\n<!-- task: image-classification -->\n## VTAB"))
    assert len(found) == 1
    assert "expected one of none at all" in found[0]

  @pytest.mark.parametrize("key,values", [
      ("task", ("image-classification", "image-feature-vector")),
      ("dataset", ("imagenet", "imagenet-21k")), ("language", ("en", "fr")),
      ("network-architecture", ("regnetx", "regnety"))])
  def test_tags_that_may_repeat(self, key, values):
    card = re.sub(rf"<!-- {key}: .*\n", "", MODULE)
    for value in values:
      card = with_line(card, f"<!-- {key}: {value} -->")
    assert validate.problems(card) == []

  @pytest.mark.parametrize("line", [
      "<!-- asset-path: google/text-embedding-model/1.tar.gz -->",
      "<!-- fine-tunable: false -->", "<!-- fine-tunable: true -->",
      "<!-- format: hub -->"])
  def test_tags_that_may_not_repeat(self, line):
    found = validate.problems(with_line(MODULE, line))
    assert len(found) == 1
    assert "stands 2 times, expected 1" in found[0]

  @pytest.mark.parametrize("key,value", [
      ("task", "image-classify"), ("format", "saved_model_3"),
      ("fine-tunable", "yes"), ("license", "Apache-2.0"),
      ("network-architecture", "regnety600mf"), ("dataset", "ImageNet"),
      ("language", "English"), ("interactive-visualizer", "mine"),
      ("colab", "http://example.com/colab.research.google.com/")])
  def test_values(self, key, value):
    card = re.sub(rf"<!-- {key}: .*\n", "", MODULE)
    found = validate.problems(with_line(card, f"<!-- {key}: {value} -->"))
    assert len(found) == 1
    assert found[0].startswith(f"{key} is {value!r}; expected ")

  @pytest.mark.parametrize("value,is_sound", [
      ("google/text-embedding-model/1.tar.gz", True),
      ("https://host/x.tar.gz", True),
      ("https://host/x.zip", False), ("http://host/x.tar.gz", False),
      ("https://github.com/a/b/releases/download/v1/x.tar.gz", False),
      ("https://GitHub.com/a/b/releases/download/v1/x.tar.gz", False),
      ("/abs/x.tar.gz", False), ("../x/y.tar.gz", False),
      ("file:///x.tar.gz", False)])
  def test_asset_path(self, value, is_sound):
    found = validate.problems(MODULE.replace(
        "https://path/to/text-embedding-model/model.tar.gz", value))
    assert [f.startswith("asset-path is ") for f in found] == (
        [] if is_sound else [True])

  def test_lite_wants_another_archive(self):
    found = validate.problems(LITE.replace(".tflite", ".tar.gz"))
    assert len(found) == 1
    assert "end in .tflite" in found[0]

  def test_metadata_below_a_heading(self):
    found = validate.problems(MODULE + "\n<!-- license: mit -->\n")
    assert found == ["metadata 'license' comes after a heading; expected it "
                     "before the first one"]
    assert validate.problems(
        MODULE + "\n```\n<!-- license: mit -->\n```\n") == []

  def test_fence_without_end(self):
    found = validate.problems(MODULE + "\n```\n73.5 %\n")
    assert len(found) == 1
    assert found[0].startswith("a fenced code block has no end")
    assert validate.problems(MODULE + "\n```\nx\n```\n") == []

  def test_collection_without_links(self):
    found = validate.problems(re.sub(r"- \[.*\n", "", COLLECTION))
    assert len(found) == 1
    assert found[0].startswith("a collection without a link to a model")

  def test_links_of_a_collection_must_lead_somewhere(self, tmp_path):
    card = COLLECTION.replace("https://tfhub.dev/google/a/1", "../../a/1.md")
    page = tmp_path / "collections/image-models/1.md"
    found = validate.problems(card, path=page)
    assert len(found) == 1
    assert "'../../a/1.md' leads nowhere" in found[0]
    (tmp_path / "a").mkdir()
    page.parent.mkdir(parents=True)
    (tmp_path / "a/1.md").write_text("")
    assert validate.problems(card, path=page) == []

  @pytest.mark.parametrize("card", [
      "", "\n", "\n\n\n", "#", "# Module", "<!--", "<!-- : -->", "|", "||",
      "```", "`" * 7, "\\", "\x00\ud800", "# Module a/b/1", "\u0661 %",
      "# Module a/b/1\n", "# Module a/b/1\nx\n<!-- a:b:c --> -->", "&#x;",
      "| Top-1, measured |", "9" * 5000, "1,,,2...3", "1e999 5e-999999"])
  def test_odd_text_gives_problems_and_never_raises(self, card):
    m = model_cards_test.manifest()
    assert validate.problems(card)
    assert validate.problems(card, m, model_cards_test.report(m))

  def test_damaged_manifest_gives_a_problem(self):
    m = model_cards_test.manifest()
    card = render.module_card(m, None)
    del m["parameters"]
    assert "'parameters'" in validate.problems(card, m)[0]
    assert validate.problems(card, {})


class TestLinksOfModules:

  def test_must_lead_to_files(self, tmp_path):
    card, m, r = case("figures")
    path = tmp_path / "4.md"
    found = validate.problems(card, m, r, path)
    assert [f.split(";")[0] for f in found] == [
        f"the link to {link!r} leads nowhere"
        for link in model_cards_test.links(m)]
    (tmp_path / "4.evaluations").mkdir()
    for link in model_cards_test.links(m):
      (tmp_path / link).write_bytes(b"")
    assert validate.problems(card, m, r, path) == []
    (tmp_path / model_cards_test.links(m)[1]).unlink()
    assert len(validate.problems(card, m, r, path)) == 1

  @pytest.mark.parametrize("link", [
      "3.evaluations/imagenet2012-validation.html", "x.png",
      "4.evaluations/imagenet2012-validation.parquet", "../secret",
      "4.evaluations/imagenet2012-test.html", "/etc/passwd", "//host/x.png"])
  def test_only_files_of_this_evaluation(self, link):
    card, m, r = case("figures")
    found = validate.problems(f"{card}\n![A picture]({link})\n", m, r)
    assert any(f.startswith(f"the link to {link!r} leads to a file that is "
                            "not published") for f in found)

  def test_none_without_an_evaluation(self):
    card, m, _ = case("no report")
    found = validate.problems(
        card + "\n[Page](4.evaluations/imagenet2012-validation.html)\n", m)
    assert any("expected none" in f for f in found)

  @pytest.mark.parametrize("text", [
      "[Anywhere](https://example.org/x.png)", "[Below](#limits)",
      "[Write](mailto:a@b.example)", r"\[no link\](x.png)", "`[code](x.png)`",
      "```\n[fenced](x.png)\n```"])
  def test_what_is_no_file(self, text, tmp_path):
    assert validate.problems(f"{MODULE}\n{text}\n",
                             path=tmp_path / "1.md") == []

  def test_names_with_odd_characters_are_quoted(self, tmp_path):
    m = model_cards_test.manifest()
    r = model_cards_test.with_figures(m)
    r["dataset"] |= {"name": "my data/(50 %)", "split": "../../a b"}
    export_dir = tmp_path / "4"
    name = "my data-(50 %)-..-..-a b.html"
    (tmp_path / "4.evaluations").mkdir()
    (tmp_path / "4.evaluations" / name).write_bytes(b"")
    links = render.evaluation_links(export_dir, r)
    assert links == [
        "4.evaluations/my%20data-%2850%20%25%29-..-..-a%20b.html"]
    card = render.module_card(m, r, links)
    assert validate.problems(card, m, r, tmp_path / "4.md") == []


def case(name):
  kind, is_demo, status = {
      "classifier": ("classifier", False, "passed"),
      "demo extractor": ("feature_extractor", True, "failed"),
      "figures": ("classifier", False, "figures"),
      "no report": ("classifier", False, None)}[name]
  m = model_cards_test.manifest(kind, is_demo=is_demo)
  if status == "figures":
    r = model_cards_test.with_figures(m)
    return render.module_card(m, r, model_cards_test.links(m)), m, r
  r = model_cards_test.report(m, status) if status else None
  return render.module_card(m, r), m, r


NAMES = ("classifier", "demo extractor", "figures", "no report")


def altered(card):
  """Yields `card` with one number altered, for each outside fenced code."""
  is_code, start = False, 0
  for line in card.split("\n"):
    is_code ^= line.startswith("```")
    # References: addresses and arXiv numbers are not traced.
    if not is_code and "arXiv:" not in line:
      for match in re.finditer(r"\d+(?:[.,]\d+)*", line):
        digits = match[0]
        for new in (digits[:-1] + str((int(digits[-1]) + 1) % 10),
                    str((int(digits[0]) + 3) % 10) + digits[1:]):
          yield (f"{digits} -> {new} in {line}",
                 card[:start + match.start()] + new
                 + card[start + match.end():])
    start += len(line) + 1


class TestNumbers:

  @pytest.mark.parametrize("name", NAMES)
  def test_every_altered_number_is_found(self, name):
    card, m, r = case(name)
    assert validate.problems(card, m, r) == []
    tampered = list(altered(card))
    assert len(tampered) > 100
    missed = [what for what, text in tampered
              if not validate.problems(text, m, r)]
    assert missed == []

  @pytest.mark.parametrize("correct", [36_975, 47_500, 4_975])
  def test_a_figure_that_ends_like_the_interval(self, correct):
    """Of "73.95 %" nothing is the phrase "95 %", of "95.00 %" neither."""
    m = model_cards_test.manifest()
    r = model_cards_test.report(m)
    value = correct / 500
    r["metrics"]["top1"] |= {"correct": correct, "value": value,
                             "low": value - 0.4, "high": value + 0.4}
    card = render.module_card(m, r)
    assert f"{value:.2f} %" in card
    assert validate.problems(card, m, r) == []

  def test_swapped_rows_are_found(self):
    card, m, r = case("classifier")
    swapped = card.replace("6,055,160", "X").replace(
        "6,084,920", "6,055,160").replace("X", "6,084,920")
    assert any(f.startswith("row 'Parameters, trainable' says 6084920")
               for f in validate.problems(swapped, m, r))

  def test_reported_figure_sold_as_measured_is_found(self):
    card, m, r = case("classifier")
    assert any("'Top-1, measured'" in f for f in validate.problems(
        card.replace("73.47 %", "73.52 %"), m, r))

  def test_measurement_without_report_is_found(self):
    card, m, _ = case("classifier")
    assert any("73.47" in f for f in validate.problems(card, m))
    _, m, r = case("no report")
    card = render.module_card(m, r)
    found = validate.problems(card + "\nTop-1 is 73.52 %.\n", m)
    assert len(found) == 1
    assert "but nothing was measured" in found[0]
    assert validate.problems(
        card + "\nThe reported top-1 is 73.52 %.\n", m) == []

  @pytest.mark.parametrize("row,missing", [
      ("Parameters, trainable", "parameters (6,055,160)"),
      ("Multiply-adds", "multiply-adds (601,227,608)"),
      ("Top-1, measured", "measured top-1 "),
      ("Top-5, measured", "measured top-5 "),
      ("Top-1, reported", "reported top-1 ")])
  def test_missing_figures_are_found(self, row, missing):
    card, m, r = case("classifier")
    found = validate.problems(re.sub(rf"\| {row} .*\n", "", card), m, r)
    assert len(found) == 1
    assert found[0].startswith(missing)

  @pytest.mark.parametrize("row,missing", [
      ("Negative log-likelihood", "negative log-likelihood (1.02468)"),
      ("Expected calibration error", "expected calibration error (3.1357)")])
  def test_missing_figures_of_an_evaluation_are_found(self, row, missing):
    card, m, r = case("figures")
    card = re.sub(rf"\| {row} .*\n|!\[.*\n", "", card)
    found = validate.problems(card, m, r)
    assert len(found) == 1
    assert found[0].startswith(missing)

  @pytest.mark.parametrize("text", [
      "Of 43 images 7 are right.", "It has 9 of 51.", "In a bin are 3,307.",
      "| bin | 3307 |", "| goldfish | 49 of 52 |"])
  def test_figures_of_classes_and_bins_stand_in_their_rows_only(self, text):
    card, m, r = case("figures")
    assert validate.problems(f"{card}\n{text}\n", m, r)

  @pytest.mark.parametrize("text", [
      "Top-1 accuracy of 95 % on all of ImageNet.",
      "```text\nTop-1: 99.9 %, 500 M parameters\n```", "```\n99.9 %\n```",
      "Top-5 accuracy on ImageNet is 100 %.", "| Top-1 (ImageNet) | 100 % |",
      "The accuracy, of course, is 100 %.", "It has a recall of 73.47 %.",
      "| Precision | 73.47 % |", "Latency is 10 ms.", "Accuracy: v99.9 %",
      "Accuracy \u2079\u2079 %", "Accuracy \u216b %",
      "<script>alert(1)</script>", "<img src=x onerror=alert(1)>",
      "<!-- nothing to see -->", "[click](javascript:alert(1))",
      "[click](&#106;avascript:alert)", "[x]: data:text/html,x",
      "![x](https://evil.example/x.png)", "![x](//evil.example/x.png)"])
  def test_claims_and_code_that_no_report_has(self, text):
    card, m, r = case("figures")
    assert validate.problems(card, m, r) == []
    assert validate.problems(
        card.replace("## Overview\n", f"## Overview\n\n{text}\n", 1), m, r)

  # By the rule itself: other rules may refuse the same for other reasons.
  @pytest.mark.parametrize("target", [
      "javascript:alert(1)", "&#106;avascript:alert(1)",
      "javascript&colon;alert(1)", "java\x01script:alert(1)", "data:text/html,x",
      "JavaScript:alert(1)", "vbscript:x", "file:///etc/passwd"])
  def test_links_that_a_browser_would_run(self, target):
    for text in (f"[x]({target})", f"[x]: {target}", f"[x]: <{target}>"):
      assert safety.link_problems(text), text
    assert not safety.link_problems("[x](https://h/a:b) [y](1.md) [z](#a:b)")

  @pytest.mark.parametrize("target", [
      "https://evil.example/x.png", "//evil.example/x.png",
      "<//evil.example/x.png>", "data:image/png;base64,AAAA"])
  def test_pictures_from_elsewhere(self, target):
    assert safety.problems(f"![x]({target})")
    assert not safety.problems("![x](1.evaluations/x.png)")

  @pytest.mark.parametrize("title", [
      "Changes", "Factors", "Ethical considerations"])
  def test_missing_sections_are_found(self, title):
    card, m, r = case("figures")
    found = validate.problems(re.sub(
        rf"## {title}\n.*?(?=\n## |\Z)", "", card, flags=re.DOTALL), m, r)
    assert len(found) == 1 and f"on {title.lower()}" in found[0]

  def test_what_is_out_of_scope_must_be_said(self):
    card, m, r = case("figures")
    found = validate.problems(card.replace("Out of scope:", "No:"), m, r)
    assert len(found) == 1 and "out of scope" in found[0]

  def test_missing_hashes_and_latency_are_found(self):
    _, m, r = case("figures")
    r["archive"] = {"sha256": "a7" * 32, "bytes": 12345}
    r["latency"] = {"median_ms": 12.5, "low_ms": 11.25, "high_ms": 14.75,
                    "calls": 50, "image_size_px": 224}
    card = render.module_card(m, r, model_cards_test.links(m))
    assert validate.problems(card, m, r) == []
    for row, told in (("Archive, SHA-256", "of the archive"),
                      ("Export, SHA-256", "of the export"),
                      ("Weights, SHA-256", "of the weights"),
                      ("Backbone, SHA-256", "of the backbone"),
                      ("Latency of one image", "latency (12.5, 11.25")):
      found = validate.problems(re.sub(rf"\| {row} .*\n", "", card), m, r)
      assert len(found) == 1 and told in found[0]

  def test_swapped_figures_are_found(self):
    card, m, r = case("figures")
    for row, other in (("Mean confidence", "73.45 %"),
                       ("Mean top-1 of classes", "70.84 % over 998"),
                       ("Negative log-likelihood", "3.1357 nats"),
                       ("Expected calibration error", "1.02 % in 15")):
      changed = re.sub(rf"(\| {row} +\| +)\S+ \S+( over 998| in 15)?",
                       rf"\g<1>{other}", card)
      assert changed != card
      assert any(f.startswith(f"row {row!r} says ")
                 for f in validate.problems(changed, m, r))

  def test_rows_of_classes_swapped(self):
    card, m, r = case("figures")
    card = card.replace("7 of 43", "X").replace("9 of 51", "7 of 43").replace(
        "X", "9 of 51")
    found = validate.problems(card, m, r)
    assert any(f.startswith("row 'tench' says 9, 51, ") for f in found)

  def test_another_modules_card_is_found(self):
    card, m, r = case("classifier")
    m["handle"] = r["handle"] = "local/other/4"
    assert any("the manifest says 'local/other/4'" in f
               for f in validate.problems(card, m, r))

  @pytest.mark.parametrize("old,new,key", [
      ("license: apache-2.0", "license: mit", "license"),
      ("task: image-classification", "task: image-feature-vector", "task"),
      ("dataset: imagenet-ilsvrc-2012-cls", "dataset: svhn", "dataset"),
      ("architecture: regnety", "architecture: regnetx",
       "network-architecture"),
      ("fine-tunable: true", "fine-tunable: false", "fine-tunable"),
      ("format: saved_model_2", "format: hub", "format"),
      ("asset-path: local/regnety600mf_classification/4", "asset-path: a/b/c",
       "asset-path")])
  def test_tags_are_the_manifests(self, old, new, key):
    card, m, r = case("classifier")
    found = validate.problems(card.replace(old, new, 1), m, r)
    assert len(found) == 1
    assert found[0].startswith(f"{key} is ")

  def test_archive_may_be_served_from_anywhere(self):
    card, m, r = case("classifier")
    assert validate.problems(card.replace(
        "asset-path: ", "asset-path: https://host/models/", 1), m, r) == []

  def test_failed_check_must_be_named(self):
    card, m, r = case("demo extractor")
    found = validate.problems(
        re.sub(r"\| numerics/golden .*\n", "", card), m, r)
    assert any(f.startswith("check numerics/golden is failed") for f in found)

  def test_demo_must_be_called_one(self):
    card, m, r = case("demo extractor")
    found = validate.problems(card.replace("not for use", "fit for use"), m, r)
    assert len(found) == 1
    assert "the module is a demo" in found[0]

  def test_hidden_digits_are_read(self):
    card, m, r = case("classifier")
    for hidden in ("&#57;9.5 %", "9\u200b9.5 %", "\\99.5 %"):
      assert any("99.5" in f for f in validate.problems(
          f"{card}\n{hidden}\n", m, r))


HAND_WRITTEN = """\
# Module local/regnety600mf_classification/4
A RegNetY that knows ImageNet-1k (ILSVRC 2012), written up by a person.

<!-- asset-path: https://host/local/regnety600mf_classification/4.tar.gz -->
<!-- fine-tunable: true -->
<!-- format: saved_model_2 -->
<!-- task: image-classification -->
<!-- network-architecture: regnety -->
<!-- dataset: imagenet-ilsvrc-2012-cls -->
<!-- license: apache-2.0 -->

# What it is

A network of the RegNet design space.

## How to use

`hub.load` takes it.

## Intended uses and limitations

Photographs of single objects. Out of scope: people.

## Factors and ethics

Not known.

## Versions

The only one.

## Training data and where the checkpoint is from

See the paper.

## Licence

That of Apache.

## Verification

Weights: {weights}; backbone: {backbone}; labels: {labels}; all: {export}.

## Evaluation results

It has 6.06 million parameters, about as many as a small ResNet50 has stages,
and takes 0.60 billion multiply-adds at 224x224.
Measured top-1: 73.474 % (36737 of 50000; 73.1 to 73.9).
Measured top-5: 91.5 % (45,766 of 50,000; 91.3 to 91.8).
The reported top-1 is 73.52 %.

| Setting | Figure |
|---|---|
| Crop | 224 |
"""
for _word, _hash in (("weights", "1b7c"), ("backbone", "9d03"),
                     ("labels", "77e2"), ("export", "c40d")):
  HAND_WRITTEN = HAND_WRITTEN.replace(f"{{{_word}}}", _hash * 16)


class TestHandWrittenCards:

  def test_sound_card(self):
    m = model_cards_test.manifest()
    assert validate.problems(
        HAND_WRITTEN, m, model_cards_test.report(m)) == []

  @pytest.mark.parametrize("old,new", [
      ("6.06 million", "6.16 million"), ("0.60 billion", "0.50 billion"),
      ("224x224", "224x225"), ("73.474", "74.474"), ("36737", "36738"),
      ("73.1 to", "73.2 to"), ("91.5 %", "91.6 %"), ("| 224 |", "| 288 |"),
      ("73.52", "75.52"), ("-1k", "-2k"),
      ("written up", "faster by 12 % and written up")])
  def test_wrong_figure(self, old, new):
    m = model_cards_test.manifest()
    assert validate.problems(HAND_WRITTEN.replace(old, new), m,
                             model_cards_test.report(m))
