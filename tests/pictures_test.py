"""Tests of the pictures: what they show, their size, and their bytes."""

import os
import pathlib
import stat
import subprocess
import sys
import warnings

import matplotlib
from matplotlib import figure as figure_lib
import numpy as np
from PIL import Image
import pytest

from checks import figures
from checks import pictures
from hub_export import errors
from hub_export import export_dirs
from tests import tiny_predictions

_ROOT = pathlib.Path(__file__).absolute().parents[1]


def _figures(names=None, seed=0, n=300):
  classes = len(names) if names else 12
  return figures.figures(tiny_predictions.random(n, classes, seed),
                         names or [f"class {i}" for i in range(classes)])


@pytest.fixture(scope="module", name="written")
def _written(tmp_path_factory):
  stem = tmp_path_factory.mktemp("pictures") / "pets-test"
  return stem, pictures.write(_figures(), stem)


def _axes(monkeypatch, drawn):
  """Returns the axes of each picture that `pictures.write` would save."""
  found = []
  monkeypatch.setattr(
      figure_lib.Figure, "savefig",
      lambda self, *args, **kwargs: found.append(self.axes))
  monkeypatch.setattr(export_dirs, "write_file", lambda *args: None)
  pictures.write(drawn, pathlib.Path("unused"))
  return found


class TestFiles:

  def test_names_titles_and_alternative_texts(self, written):
    stem, found = written
    assert [p.path.name for p in found] == [
        "pets-test.reliability.png", "pets-test.classes.png",
        "pets-test.worst.png"]
    assert [p.path for p in found] == [
        stem.with_name(stem.name + s) for s in export_dirs.PICTURE_SUFFIXES]
    assert [p.title for p in found] == list(pictures.titles())
    record = _figures().to_dict()
    assert f"{record['ece']:.2f} %" in found[0].alt
    assert f"{record['top1']['value']:.2f} %" in found[0].alt
    assert "12 classes" in found[1].alt

  def test_size(self, written):
    for picture in written[1]:
      with Image.open(picture.path) as image:
        assert image.format == "PNG"
        assert image.size == (1280, 880)
      assert picture.path.stat().st_size < 120_000
      assert stat.S_IMODE(picture.path.stat().st_mode) == 0o644

  def test_nothing_tells_of_software_or_time(self, written):
    for picture in written[1]:
      with Image.open(picture.path) as image:
        assert set(image.info) <= {"dpi"}

  def test_the_same_bytes_in_another_process(self, written, tmp_path):
    # With settings of the user's that would change everything.
    (tmp_path / "matplotlibrc").write_text(
        "font.size: 30\naxes.facecolor: red\nsavefig.dpi: 50\n"
        "axes.grid: True\n")
    subprocess.run(
        [sys.executable, "-c",
         "import pathlib\nfrom checks import pictures\n"
         "from tests import pictures_test\n"
         "pictures.write(pictures_test._figures(), pathlib.Path('out'))"],
        cwd=tmp_path, check=True, env=os.environ | {
            "MATPLOTLIBRC": str(tmp_path),
            "PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path])})
    for picture, suffix in zip(written[1], export_dirs.PICTURE_SUFFIXES):
      assert (tmp_path / f"out{suffix}").read_bytes() == (
          picture.path.read_bytes())

  def test_other_figures_give_other_pictures(self, written, tmp_path):
    for old, new in zip(written[1], pictures.write(
        _figures(seed=1), tmp_path / "x")):
      assert old.path.read_bytes() != new.path.read_bytes()

  def test_settings_are_left_alone(self, written, tmp_path):
    del written  # matplotlib is imported.
    with matplotlib.rc_context({"font.size": 7}):
      pictures.write(_figures(n=20), tmp_path / "x")
      assert matplotlib.rcParams["font.size"] == 7

  def test_cannot_be_written(self, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.WriteError, match="file/x.reliability.png"):
      pictures.write(_figures(n=20), tmp_path / "file" / "x")

  def test_matplotlib_is_not_needed_before(self):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c",
         "from checks import pictures; pictures.titles()"], cwd=_ROOT,
        check=True, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    imported = {line.rsplit("|", 1)[-1].strip()
                for line in done.stderr.splitlines()}
    assert "checks.pictures" in imported
    assert not imported & {"matplotlib", "numpy", "tensorflow"}


class TestDrawn:

  def test_reliability(self, monkeypatch):
    drawn = _figures()
    top, bottom = _axes(monkeypatch, drawn)[0]
    bins = [b for b in drawn.bins if b.count]
    assert 5 < len(bins) < 15  # Empty ones are left out.
    assert [p.get_height() for p in top.patches] == [b.accuracy for b in bins]
    assert [p.get_x() for p in top.patches] == [b.low for b in bins]
    assert [p.get_height() for p in bottom.patches] == [b.count for b in bins]
    confidence = top.lines[1]
    np.testing.assert_array_equal(
        confidence.get_xdata(), [b.confidence for b in bins])

  def test_classes(self, monkeypatch):
    # Right: 0 of 1, 1 of 1, 1 of 2 and 19 of 20; twenty bins of 5 %.
    labels = [0, 1, 2, 2] + [3] * 20
    top = [3, 1, 2, 0] + [3] * 19 + [0]
    drawn = figures.figures(tiny_predictions.of(
        [[c] for c in labels], [[c] for c in top]), ["a", "b", "c", "d"])
    axes, = _axes(monkeypatch, drawn)[1]
    heights = [p.get_height() for p in axes.patches]
    assert {i: h for i, h in enumerate(heights) if h} == {0: 1, 10: 1, 19: 2}
    assert len(heights) == 20
    assert axes.lines[0].get_xdata()[0] == pytest.approx(
        100 * (0 + 1 + 0.5 + 0.95) / 4)

  def test_worst(self, monkeypatch):
    drawn = _figures()
    axes, = _axes(monkeypatch, drawn)[2]
    assert [p.get_width() for p in axes.patches] == [
        100 * c.correct / c.total for c in drawn.worst]
    assert [t.get_text() for t in axes.texts] == [
        f"{c.correct} of {c.total}" for c in drawn.worst]
    assert [t.get_text() for t in axes.get_yticklabels()] == [
        c.name for c in drawn.worst]
    assert axes.yaxis_inverted()  # The worst at the top.


@pytest.mark.parametrize("names", [
    ["$\\frac{$", "$$", "a$b$c"], ["x" * 500, "two\nlines", "\x00\x1b[31m"],
    ["\u4f60\u597d", "\u202eabc", "\U0001f600"], ["", " ", "<b>&amp;"]])
def test_names_are_only_text(tmp_path, names):
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    found = pictures.write(_figures(names, n=60), tmp_path / "x")
  with Image.open(found[2].path) as image:
    assert image.size == (1280, 880)


def test_of_a_single_example(tmp_path):
  for top in (0, 1):
    drawn = figures.figures(tiny_predictions.of([[0]], [[top]]), ["a", "b"])
    assert len(pictures.write(drawn, tmp_path / str(top))) == 3
