"""Tests of collections: pictures, peers, and the tracing of their numbers."""

import dataclasses
import copy
import re

import pytest

from hub_export.regnet import peers as regnet_peers
from model_cards import collection_rules
from model_cards import markdown
from model_cards import peers
from model_cards import plots
from model_cards import render
from model_cards import validate
from tests import model_cards_test

def entry(variant="regnety_600mf", top1=73.474, latency_ms=14.207,
          **changes):
  """Returns manifest and report of a measured classifier."""
  m = model_cards_test.manifest() | {"variant": variant} | changes
  m["handle"] = f"local/{variant.replace('_', '')}_classification/4"
  r = model_cards_test.report(m)
  r["metrics"]["top1"] |= {"value": top1, "low": top1 - 0.39,
                           "high": top1 + 0.38}
  r["latency"] = {"median_ms": latency_ms, "low_ms": latency_ms - 0.296,
                  "high_ms": latency_ms + 2.311, "calls": 50,
                  "image_size_px": 224}
  return m, r


def entries():
  """Two measured classifiers, one that is not, and a demo."""
  bare = model_cards_test.manifest("feature_extractor")
  demo = model_cards_test.manifest(is_demo=True)
  return [entry(),
          entry("regnety_200mf", 70.18, 7.125,
                multiply_adds={"count": 199519076, "image_size_px": 224},
                parameters={"trainable": 3162996, "total": 3180000}),
          (bare, None), (demo, None)]


class TestPeers:

  def test_are_the_best_of_each_source(self):
    """From the catalog's table, by hand; multiply-adds are pycls' own."""
    found = {(p.variant, p.source): p for p in regnet_peers.reported()}
    pycls = found["regnety_600mf", "pycls"]
    assert (pycls.name, pycls.top1, pycls.multiply_adds) == (
        "pycls:RegNetY-600MF", 75.46, 601227608)
    timm = found["regnety_3.2gf", "timm"]
    assert (timm.name, timm.top1, timm.image_size_px) == (
        "timm:regnety_032.ra_in1k", 82.724, 288)
    # The area of 288 x 288 is 1.65 times that of 224 x 224.
    assert 1.64 < timm.multiply_adds / found[
        "regnety_3.2gf", "pycls"].multiply_adds < 1.66
    # torchvision's 800MF has wider stages than pycls'.
    assert found["regnety_800mf", "torchvision"].multiply_adds > found[
        "regnety_800mf", "pycls"].multiply_adds

  def test_none_has_a_restricted_licence(self):
    # Published under CC-BY-NC-4.0 or SEER's terms only.
    assert {p.variant for p in peers.of("regnet")}.isdisjoint(
        {"regnety_64gf", "regnety_128gf", "regnety_256gf"})

  def test_unknown_families_have_none(self):
    assert peers.of("resnet") == ()


class TestPlots:

  def test_points_are_the_measured_classifiers(self):
    found = plots.plots(entries(), peers.of("regnet"))
    assert [p.name for p in found] == [
        ".imagenet2012-validation.multiply_adds.png",
        ".imagenet2012-validation.latency.png"]
    assert [(p.name, p.top1, p.low, p.high, p.multiply_adds)
            for p in found[0].points] == [
                ("600mf", 73.474, 73.474 - 0.39, 73.474 + 0.38, 601227608),
                ("200mf", 70.18, 70.18 - 0.39, 70.18 + 0.38, 199519076)]
    assert {p.architecture for p in found[0].peers} == {"regnety"}
    assert found[1].peers == ()

  def test_other_sizes_cost_by_their_area(self):
    m, r = entry()
    m["preprocessing"]["crop_px"] = 448
    assert plots.plots([(m, r)], peers.of("regnet"))[0].points[
        0].multiply_adds == 4 * 601227608

  def test_data_sets_are_not_mixed(self):
    other = entry("regnety_400mf")
    other[1]["dataset"]["name"] = "imagenet_v2/topimages"
    another = copy.deepcopy(other)
    found = plots.plots([entry(), other, another], peers.of("regnet"))
    assert [(p.name, len(p.points), bool(p.peers)) for p in found] == [
        (".imagenet2012-validation.multiply_adds.png", 1, True),
        (".imagenet_v2-topimages-validation.multiply_adds.png", 2, False),
        (".imagenet_v2-topimages-validation.latency.png", 2, False)]

  def test_a_single_point_is_no_picture(self):
    assert plots.plots([entry()], ()) == []
    assert plots.plots(entries()[2:], peers.of("regnet")) == []

  def test_pictures_are_the_same_every_time_and_unlike(self):
    first, second = plots.plots(entries(), peers.of("regnet"))
    assert first.png() == first.png()
    assert first.png().startswith(b"\x89PNG") and first.png() != second.png()

  def test_a_demo_is_called_one(self):
    m, r = entry()
    assert plots.plots([(m | {"is_demo": True}, r)], peers.of("regnet"))[
        0].points[0].name.endswith(", demo")

  def test_forms_are_told_apart(self):
    m, r = entry()
    other = m | {"form": "serving", "precision": "bf16"}
    points = plots.plots([(m, r), (other, r)], ())[0].points
    assert [p.name for p in points] == ["600mf", "600mf, serving bf16"]

  def test_architectures_are_series_of_their_own(self):
    from matplotlib import figure  # pylint: disable=g-import-not-at-top
    plot = plots.plots(entries(), peers.of("regnet"))[0]
    one, two = plot.points[0], dataclasses.replace(
        plot.points[0], architecture="regnetx")
    axes = plots._draw_multiply_adds(
        dataclasses.replace(plot, points=(one, two)), figure.Figure())
    assert {"regnetx, measured here", "regnety, measured here"} <= set(
        axes.get_legend_handles_labels()[1])
    assert {text.get_text() for text in axes.texts} == {
        f"regnetx {one.name}", f"regnety {one.name}"}

  def test_what_is_drawn(self, monkeypatch):
    """The positions of the points, read off the axes."""
    from matplotlib import figure as figure_lib  # pylint: disable=g-import-not-at-top
    first, second = plots.plots(entries(), peers.of("regnet"))

    def drawn(draw, plot, label):
      axes = draw(plot, figure_lib.Figure())
      handles, labels = axes.get_legend_handles_labels()
      handle = handles[labels.index(label)]
      line = handle[0] if isinstance(handle, tuple) else handle
      return [tuple(map(float, xy)) for xy in line.get_xydata()]

    # pylint: disable=protected-access
    assert drawn(plots._draw_multiply_adds, first, "measured here") == [
        (0.601227608, 73.474), (0.199519076, 70.18)]
    assert (0.601227608, 75.46) in drawn(
        plots._draw_multiply_adds, first, "pycls, reported")
    assert drawn(plots._draw_latency, second, "Some CPU @ 2.60GHz") == [
        (14.207, 73.474), (7.125, 70.18)]


class TestTracing:

  def page(self):
    found = entries()
    links = ["1" + p.name for p in plots.plots(found, peers.of("regnet"))]
    return render.collection_page(found, "local", links), found

  def problems(self, page, found):
    return collection_rules.problems(page, found, peers.of("regnet"))

  def test_is_sound(self):
    page, found = self.page()
    assert validate.problems(page) == []
    assert self.problems(page, found) == []
    assert page.count(".png)") == 2
    # Of the variants that are here, and of no other; none beside a demo.
    assert "`pycls:RegNetY-200MF`" in page and "RegNetY-400MF" not in page

  def test_every_altered_number_is_found(self):
    page, found = self.page()
    missed, count = [], 0
    # Metadata, links and names of checkpoints are not figures.
    for match in re.finditer(
        r"(?<![\w:.-])\d+(?:[.,]\d+)*(?= |%|\))", page.partition("## M")[2]):
      digits = match[0]
      start = len(page.partition("## M")[0]) + 4 + match.start()
      assert page[start:start + len(digits)] == digits
      new = digits[:-1] + str((int(digits[-1]) + 1) % 10)
      altered = page[:start] + new + page[start + len(digits):]
      count += 1
      if not self.problems(altered, found):
        missed.append(page[start - 40:start + 20])
    assert count > 40
    assert missed == []

  def test_swapped_rows_are_found(self):
    page, found = self.page()
    swapped = page.replace("73.47 % (73.08 to 73.85)", "X").replace(
        "70.18 % (69.79 to 70.56)", "73.47 % (73.08 to 73.85)").replace(
            "X", "70.18 % (69.79 to 70.56)")
    assert swapped != page
    assert [f.split(" says")[0] for f in self.problems(swapped, found)] == [
        "row 'local/regnety200mf_classification/4'",
        "row 'local/regnety600mf_classification/4'"]

  def test_missing_rows_and_others_are_found(self):
    page, found = self.page()
    without = re.sub(r"\| \[local/regnety200mf.*\n", "", page)
    assert self.problems(without, found) == [
        "local/regnety200mf_classification/4 is linked to, but has no row "
        "with its figures"]
    assert any("does not link to" in f for f in self.problems(
        page.replace("| [local/regnety200mf", "| [local/regnety300mf"),
        found))

  @pytest.mark.parametrize("old,new", [
      (", demo", ""), ("classifier, main ", "feature extractor, main "),
      ("feature extractor, main", "classifier, main"),
      ("Measured: by", "Measured: 99.9 %, by"),
      ("## Pictures", "## Pictures of 12 modules")])
  def test_other_lies_are_found(self, old, new):
    page, found = self.page()
    assert old in page
    assert self.problems(page.replace(old, new, 1), found)


class TestWriting:

  def test_pictures_lie_beside_the_page_and_stale_ones_go(self, tmp_path):
    written = [model_cards_test.put(tmp_path, m, r) for m, r in
               entries()[:2]]
    directory = tmp_path / "local/collections/regnet"
    directory.mkdir(parents=True)
    (directory / "1.gone-test.latency.png").write_bytes(b"old")
    (directory / "mine.png").write_bytes(b"mine")
    page = render.write_cards(written[0])[1]
    render.write_cards(written[1])
    assert sorted(p.name for p in directory.iterdir()) == [
        "1.imagenet2012-validation.latency.png",
        "1.imagenet2012-validation.multiply_adds.png", "1.md", "mine.png"]
    assert validate.file_problems(page) == (
        [], "numbers traced to local/regnety200mf_classification/4, "
        "local/regnety600mf_classification/4")
    (directory / "1.imagenet2012-validation.latency.png").unlink()
    assert any("leads nowhere" in f for f in validate.file_problems(page)[0])


def test_names_of_strangers_stay_text():
  assert markdown.text("__init__ x_y ~~a~~") == (
      r"\_\_init\_\_ x_y \~\~a\~\~")
  assert markdown.name("https://e.x www.e.x") == r"https\://e.x www\.e.x"
