"""Tests of the HTML page: what it tells, and that it is harmless and whole."""

import base64
import copy
import dataclasses
import hashlib
import html.parser
import json
import re

import pytest

from checks import figures
from checks import html_report
from checks import pictures
from hub_export import errors
from tests import model_cards_test
from tests import tiny_predictions

_NAMES = [f"class {i}" for i in range(12)]
# Elements without an end.
_VOID = ("meta", "img", "input", "wbr", "link", "br")


class _Page(html.parser.HTMLParser):
  """The elements and texts of a page; its tags have to be balanced."""

  def __init__(self, text):
    super().__init__()
    self.elements = []  # (tag, attributes).
    self.texts = {}     # Tag to the texts directly in it.
    self._open = []
    self.feed(text)
    self.close()
    assert not self._open

  def handle_starttag(self, tag, attrs):
    assert len({key for key, _ in attrs}) == len(attrs)
    self.elements.append((tag, dict(attrs)))
    if tag not in _VOID:
      self._open.append(tag)

  def handle_endtag(self, tag):
    assert self._open.pop() == tag

  def handle_data(self, data):
    if self._open:
      self.texts.setdefault(self._open[-1], []).append(data)

  def all(self, tag):
    return [attributes for found, attributes in self.elements if found == tag]

  @property
  def text(self):
    return " ".join(" ".join(
        part for tag, parts in self.texts.items()
        if tag not in ("style", "script") for part in parts).split())


@pytest.fixture(scope="module", name="drawn")
def _drawn(tmp_path_factory):
  predictions = tiny_predictions.random(150, 12, seed=4)
  found = figures.figures(predictions, _NAMES)
  return predictions, found, pictures.write(
      found, tmp_path_factory.mktemp("drawn") / "x")


def _records(found, status="passed", **changes):
  manifest = model_cards_test.manifest(**changes)
  report = model_cards_test.report(manifest, status)
  report["metrics"] = found.to_dict()
  report["dataset"] |= {"num_examples": 150, "title": "ImageNet <v1>"}
  return report, manifest


def _page(drawn, status="passed", **changes):
  predictions, found, shown = drawn
  report, manifest = _records(found, status, **changes)
  return html_report.page(report, manifest, found, predictions, shown)


class TestContent:

  @pytest.mark.parametrize("status, told", [
      ("passed", "All 4 checks passed."),
      ("failed", "1 of 4 checks failed: numerics/golden. It must not be "
       "published."),
      ("incomplete", "Nothing failed, but 1 of 4 checks could not be run: "
       "accuracy/top1."),
  ])
  def test_verdict_comes_first(self, drawn, status, told):
    page = _page(drawn, status)
    assert told in _Page(page).text
    assert page.index(told) < page.index(">Figures<")
    verdict = [a for a in _Page(page).all("section")
               if "verdict" in a.get("class", "")]
    assert [a["class"] for a in verdict] == [f"verdict {status}"]

  def test_a_group_that_was_never_run(self, drawn):
    predictions, found, shown = drawn
    report, manifest = _records(found)
    report["status"] = "incomplete"
    assert "not every group of checks was run" in html_report.page(
        report, manifest, found, predictions, shown)

  def test_figures(self, drawn):
    text = _Page(_page(drawn)).text
    record = drawn[1].to_dict()
    for value in (record["top1"]["value"], record["top1"]["low"],
                  record["top5"]["high"], record["ece"],
                  record["mean_confidence"], record["classes"]["mean_top1"]):
      assert f"{value:.2f}" in text
    assert f"{record['nll']:.4f}" in text
    assert f"{record['top1']['correct']} of 150" in text

  def test_against_the_reported(self, drawn):
    difference = drawn[1].to_dict()["top1"]["value"] - 73.52
    text = _Page(_page(drawn)).text
    assert f"{difference:+.2f} points against the reported 73.52 %" in text
    # Nothing is compared with a figure that was reported on other images.
    predictions, found, shown = drawn
    report, manifest = _records(found)
    report["dataset"]["name"] = "imagenet_v2/topimages"
    page = html_report.page(report, manifest, found, predictions, shown)
    assert "against the reported" not in page

  def test_what_was_measured_on_what(self, drawn):
    text = _Page(_page(drawn)).text
    for part in ("imagenet2012", "5.1.0", "validation", "e61a" * 16,
                 "ImageNet <v1>", "bicubic", "Some CPU @ 2.60GHz",
                 "2026-11-21T10:50:00Z", "c40d" * 16, "keras:regnety006"):
      assert part in text

  def test_every_check(self, drawn):
    text = _Page(_page(drawn, "failed")).text
    report, _ = _records(drawn[1], "failed")
    for check in report["checks"]:
      assert check["name"] in text and check["message"] in text

  def test_every_class_with_its_counts(self, drawn):
    page = _page(drawn)
    rows = re.findall(
        r'<tr><td class="number">(\d+)</td><th scope="row">(.*?)</th>'
        r'<td class="number">(\d+)</td><td class="number">(\d+)</td>'
        r'<td class="number">([\d.]+) %</td></tr>', page)
    assert [(int(i), name, int(c), int(t)) for i, name, c, t, _ in rows] == [
        (c.index, c.name, c.correct, c.total) for c in drawn[1].classes]
    assert all(f"{100 * int(c) / int(t):.2f}" == rate
               for _, _, c, t, rate in rows)

  def test_worst_classes_with_what_they_were_taken_for(self, drawn):
    found = drawn[1]
    worst = found.worst[0]
    most = [c for c in found.confusions if c.label == worst.index][0]
    assert re.search(
        rf'<th scope="row">{worst.name}</th><td class="number">'
        rf"{worst.correct} of {worst.total}</td><td>"
        rf"class {most.predicted} \({most.count}\)", _page(drawn))

  def test_most_confident_mistakes(self, drawn):
    predictions = drawn[0]
    wrong = sorted(
        (-float(predictions.probabilities[i, 0]), name, i)
        for i, name in enumerate(predictions.file_names)
        if predictions.top[i, 0] != predictions.labels[i, 0])
    files = re.findall(r'class="file">(.*?)</th>', _page(drawn))
    assert files == [name for _, name, _ in wrong[:20]]
    confidence, _, first = wrong[0]
    item = (f"<li>class {predictions.top[first, 0]} <span class=\"number\">"
            f"{-100 * confidence:.2f} %</span>")
    assert item in _page(drawn)

  def test_no_mistakes_and_no_labels(self, tmp_path):
    predictions = tiny_predictions.of([[0], [1], []], [[0], [1], [1]])
    found = figures.figures(predictions, ["a", "b"])
    shown = pictures.write(found, tmp_path / "x")
    report, manifest = _records(found)
    text = _Page(html_report.page(
        report, manifest, found, predictions, shown)).text
    assert "None: every prediction is right." in text
    assert "1 examples have no label and do not count." in text

  def test_command(self, drawn):
    assert ("./bazelw run //checks:check -- --export_dir=PATH/"
            "local/regnety600mf_classification/4 --dataset=imagenet2012 "
            "--split=validation") in _Page(_page(drawn)).text

  def test_feature_extractor_and_demo(self, drawn):
    text = _Page(_page(drawn, kind="feature_extractor", is_demo=True)).text
    assert "A demo, not for use." in text
    assert "went through the classification head" in text

  def test_a_report_that_lacks_a_field(self, drawn):
    predictions, found, shown = drawn
    report, manifest = _records(found)
    del report["dataset"]["split"]
    with pytest.raises(errors.HubExportError, match="no page can be made"):
      html_report.page(report, manifest, found, predictions, shown)

  def test_written_whole(self, drawn, tmp_path):
    predictions, found, shown = drawn
    report, manifest = _records(found)
    path = tmp_path / "1.evaluations" / "x-test.html"
    html_report.write(path, report, manifest, found, predictions, shown)
    assert path.read_text("utf-8") == _page(drawn)
    assert [p.name for p in path.parent.iterdir()] == ["x-test.html"]


class TestSelfContained:

  def test_nothing_is_loaded(self, drawn):
    page = _Page(_page(drawn))
    for _, attributes in page.elements:
      assert not set(attributes) & {"srcset", "action", "style", "background"}
      assert not attributes.get("href")
      assert attributes.get("src", "data:image/png;").startswith(
          "data:image/png;")
      assert not any(name.startswith("on") for name in attributes)
    assert "url(" not in page.texts["style"][0]
    assert "@import" not in page.texts["style"][0]

  def test_pictures_are_inside(self, drawn):
    images = _Page(_page(drawn)).all("img")
    assert [base64.b64decode(a["src"].partition(",")[2]) for a in images] == [
        p.path.read_bytes() for p in drawn[2]]
    assert [a["alt"] for a in images] == [p.alt for p in drawn[2]]

  def test_policy_names_the_one_script_and_style(self, drawn):
    page = _Page(_page(drawn))
    policy, = [a["content"] for a in page.all("meta")
               if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    for tag in ("style", "script"):
      assert len(page.all(tag)) == 1
      digest = base64.b64encode(hashlib.sha256(
          "".join(page.texts[tag]).encode()).digest()).decode()
      assert rules[f"{tag}-src"] == f"'sha256-{digest}'"

  def test_accessible(self, drawn):
    page = _Page(_page(drawn, "failed"))
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == len(page.all("main")) == 1
    assert len(page.all("caption")) == len(page.all("table")) > 5
    headings = {a["id"] for a in page.all("h2")}
    assert headings == {a["aria-labelledby"] for a in page.all("section")}
    assert all(a.get("scope") for a in page.all("th"))
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    # What scrolls can be reached with the keyboard, and has a name.
    scrolled = [a for a in page.all("div")
                if "scroll" in a.get("class", "").split()]
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in scrolled)
    assert any(a.get("for") == "filter" for a in page.all("label"))


_HOSTILE = [
    "<script>alert(1)</script>", "</script><script>alert(1)//",
    "\"><img src=x onerror=alert(1)>", "' onmouseover='alert(1)",
    "</style><b>", "<!--", "]]>", "{{ 7 * 7 }}", "{% raw %}", "&lt;b&gt;",
    "javascript:alert(1)", "\u202egnp.exe"]


@pytest.fixture(scope="module", name="hostile")
def _hostile(tmp_path_factory):
  """A page whose every string is hostile."""
  predictions = tiny_predictions.random(150, 12, seed=4)
  predictions = dataclasses.replace(predictions, file_names=tuple(
      f"{_HOSTILE[i % 12]}{name}"
      for i, name in enumerate(predictions.file_names)))
  found = figures.figures(predictions, _HOSTILE)
  shown = pictures.write(found, tmp_path_factory.mktemp("h") / "x")
  report, manifest = _records(found, "failed")

  def spoil(value, key=""):
    if isinstance(value, dict):
      return {k: spoil(v, k) for k, v in value.items()}
    if isinstance(value, list):
      return [spoil(v, key) for v in value]
    return (value if not isinstance(value, str) or key in (
        "status", "kind", "form") else f"{value} {'|'.join(_HOSTILE)}")

  return html_report.page(
      spoil(copy.deepcopy(report)), spoil(manifest), found, predictions,
      [dataclasses.replace(p, alt=p.alt + _HOSTILE[2]) for p in shown])


class TestHostileText:

  def test_it_adds_no_element_and_no_attribute(self, drawn, hostile):
    kinds = {(tag, *sorted(a)) for tag, a in _Page(_page(drawn)).elements}
    page = _Page(hostile)
    assert {(tag, *sorted(a)) for tag, a in page.elements} <= kinds
    assert len(page.all("script")) == len(page.all("style")) == 1
    assert len(page.all("img")) == 3

  def test_it_stands_there_as_text(self, hostile):
    text = _Page(hostile).text
    for name in _HOSTILE[:-1]:
      assert name in text
    assert "\u202e" not in hostile
    assert "gnp.exe" in text  # Without what turns its direction.

  def test_the_script_is_the_same(self, drawn, hostile):
    assert (_Page(hostile).texts["script"]
            == _Page(_page(drawn)).texts["script"])


def test_figures_of_the_report_are_json(drawn):
  report, _ = _records(drawn[1])
  assert json.loads(json.dumps(report, allow_nan=False)) == report
