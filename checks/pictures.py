"""Pictures of an evaluation's figures for the card and the HTML page, as PNG.

They are made to be read 640 pixels wide, in the colours of Okabe and Ito that
people who see colours differently tell apart, and come out in the same bytes
for the same figures (of one version of matplotlib).

matplotlib is imported where something is drawn.
"""

from __future__ import annotations

import dataclasses
import io
import pathlib
import unicodedata
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from hub_export import export_dirs

if TYPE_CHECKING:
  from checks import figures as figures_lib
  from matplotlib import axes as axes_lib
  from matplotlib import figure as figure_lib
  from matplotlib import ticker as ticker_lib

BLUE, ORANGE = "#0072B2", "#D55E00"
INK, FAINT = "#262626", "#8C8C8C"
_SIZE_INCHES = (6.4, 4.4)
_DPI = 200  # Twice the 640 pixels that they are shown at.
_NAME_WIDTH = 30  # Characters of a class name beside its bar.
_CLASS_BINS = 20


@dataclasses.dataclass(frozen=True)
class Picture:
  """A picture that lies on disk."""
  path: pathlib.Path
  title: str
  alt: str  # What it shows, for those who do not see it.


def titles() -> tuple[str, ...]:
  """Returns the titles, in the order of export_dirs.PICTURE_SUFFIXES."""
  return ("Reliability diagram", "Accuracy by class", "Worst classes")


def alts(metrics: Mapping[str, Any]) -> tuple[str, ...]:
  """Returns what each picture shows, in the order of `titles`.

  Args:
    metrics: As figures.Figures.to_dict gives them.
  """
  classes = metrics["classes"]
  return (
      "Reliability diagram: accuracy against confidence in bins of equal "
      f"width. Expected calibration error {metrics['ece']:.2f} %, mean "
      f"confidence {metrics['mean_confidence']:.2f} %, top-1 "
      f"{metrics['top1']['value']:.2f} %.",
      "Histogram: how many classes have which top-1. "
      f"{classes['count']:,} classes, mean {classes['mean_top1']:.2f} %.",
      "Bars: the classes with the lowest top-1, as in the table of worst "
      "classes.")


def write(figures: figures_lib.Figures, stem: pathlib.Path) -> list[Picture]:
  """Draws and writes the pictures, each whole or not at all.

  Args:
    figures: What is drawn.
    stem: Path without a suffix; each of export_dirs.PICTURE_SUFFIXES is
      appended, as in export_dirs.evaluation_path(..., "").

  Returns:
    The pictures, in that order.

  Raises:
    WriteError: if one cannot be written.
  """
  found = []
  for suffix, title, alt, draw in zip(
      export_dirs.PICTURE_SUFFIXES, titles(), alts(figures.to_dict()),
      (_reliability, _classes, _worst), strict=True):
    path = stem.with_name(stem.name + suffix)
    export_dirs.write_file(path, png(
        title, lambda picture, draw=draw: draw(figures, picture)))
    found.append(Picture(path, title, alt))
  return found


def png(title: str, draw: Callable[[figure_lib.Figure], axes_lib.Axes]
        ) -> bytes:
  """Returns a picture that no setting of the user's has a hand in.

  Args:
    title: What stands above it.
    draw: Draws on the empty figure; returns the axes that bear the title.
  """
  # pylint: disable=g-import-not-at-top,redefined-outer-name
  import matplotlib
  from matplotlib.backends import backend_agg
  from matplotlib import figure as figure_lib

  with matplotlib.rc_context(), warnings.catch_warnings():
    matplotlib.rcdefaults()
    matplotlib.rcParams.update({
        "font.size": 10.5, "axes.titlesize": 12, "axes.titlelocation": "left",
        "axes.titleweight": "bold", "axes.spines.top": False,
        "axes.spines.right": False, "axes.edgecolor": FAINT,
        "axes.labelcolor": INK, "axes.titlecolor": INK, "text.color": INK,
        "xtick.color": INK, "ytick.color": INK})
    # A class name in a script that the font lacks comes out as boxes.
    warnings.filterwarnings("ignore", message="Glyph .* missing from")
    picture = figure_lib.Figure(
        figsize=_SIZE_INCHES, dpi=_DPI, layout="constrained")
    backend_agg.FigureCanvasAgg(picture)
    draw(picture).set_title(title, pad=8)
    buffer = io.BytesIO()
    # Without the version of matplotlib, which PNGs otherwise name.
    picture.savefig(buffer, format="png", metadata={"Software": None})
  return buffer.getvalue()


def _reliability(figures: figures_lib.Figures, picture: figure_lib.Figure
                 ) -> axes_lib.Axes:
  """Draws accuracy over confidence, and below how many examples there are."""
  axes, counts = picture.subplots(
      2, 1, sharex=True, gridspec_kw={"height_ratios": [4, 1]})
  bins = [b for b in figures.bins if b.count]
  width = figures.bins[0].high - figures.bins[0].low
  bars = axes.bar([b.low for b in bins], [b.accuracy for b in bins],
                  0.88 * width, align="edge", color=BLUE)
  ideal, = axes.plot([0, 100], [0, 100], color=INK, linewidth=1.2,
                     linestyle="--")
  marks, = axes.plot(
      [b.confidence for b in bins], [b.confidence for b in bins],
      linestyle="none", marker="D", markersize=5.5, color=ORANGE,
      markeredgecolor="white", markeredgewidth=0.8, clip_on=False)
  axes.set(xlim=(0, 100), ylim=(0, 100), ylabel="Top-1 (%)")
  # Outside of the axes, where no bar can be behind it.
  picture.legend([bars, marks, ideal],
                 ["accuracy", "mean confidence", "perfect calibration"],
                 loc="outside lower center", ncols=3, frameon=False)
  counts.bar([b.low for b in bins], [b.count for b in bins], 0.88 * width,
             align="edge", color=FAINT)
  counts.set(xlabel="Confidence: probability of the predicted class (%)",
             ylabel="Images")
  counts.set_yticks([0, max(b.count for b in bins)])
  counts.yaxis.set_major_formatter(_thousands())
  picture.align_ylabels()
  return axes


def _classes(figures: figures_lib.Figures, picture: figure_lib.Figure
             ) -> axes_lib.Axes:
  """Draws the histogram of the classes' top-1."""
  from matplotlib import ticker  # pylint: disable=g-import-not-at-top
  axes = picture.subplots()
  heights = [0] * _CLASS_BINS
  for found in figures.classes:
    # In integers: where a rate falls on an edge it is in the upper bin, that
    # of all right in the last one.
    heights[min(_CLASS_BINS - 1,
                _CLASS_BINS * found.correct // found.total)] += 1
  width = 100 / _CLASS_BINS
  axes.bar([width * i for i in range(_CLASS_BINS)], heights, 0.88 * width,
           align="edge", color=BLUE)
  mean = figures.mean_class_top1
  axes.axvline(mean, color=ORANGE, linewidth=2)
  # Beside the line where there is room, above the bars.
  axes.annotate(
      f"mean {mean:.2f} %", (mean, 1), xycoords=("data", "axes fraction"),
      xytext=(-6 if mean > 50 else 6, -4), textcoords="offset points",
      ha="right" if mean > 50 else "left", va="top", color=ORANGE)
  axes.set(xlim=(0, 100), ylim=(0, 1.15 * max(heights)),
           xlabel="Top-1 of a class (%)",
           ylabel=f"Classes, {len(figures.classes):,} in all")
  axes.yaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
  axes.yaxis.set_major_formatter(_thousands())
  return axes


def _worst(figures: figures_lib.Figures, picture: figure_lib.Figure
           ) -> axes_lib.Axes:
  """Draws bars of the classes with the lowest top-1."""
  axes = picture.subplots()
  found = figures.worst
  rates = [100 * c.correct / c.total for c in found]
  axes.barh(range(len(found)), rates, 0.7, color=BLUE)
  # In a column, which no line runs through.
  for i, c in enumerate(found):
    axes.text(102, i, f"{c.correct:,} of {c.total:,}", va="center")
  # A dollar sign in a name is no formula.
  axes.set_yticks(range(len(found)), [_short(c.name) for c in found],
                  parse_math=False)
  axes.tick_params(axis="y", length=0)
  axes.invert_yaxis()
  mean = figures.mean_class_top1
  axes.axvline(mean, color=ORANGE, linewidth=1.5, label="mean of all classes")
  axes.set(xlim=(0, 100), xlabel="Top-1 of the class (%)")
  axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False,
              borderpad=0.2)
  return axes


def _thousands() -> ticker_lib.Formatter:
  from matplotlib import ticker  # pylint: disable=g-import-not-at-top
  return ticker.StrMethodFormatter("{x:,.0f}")


def _short(name: str) -> str:
  """Returns a class name on one line, without invisible characters."""
  name = "".join(c for c in " ".join(name.split())
                 if not unicodedata.category(c).startswith("C"))
  return (name if len(name) <= _NAME_WIDTH
          else name[:_NAME_WIDTH - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}")
