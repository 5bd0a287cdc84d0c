"""Pictures of a collection: accuracy against multiply-adds and latency.

One of each per data set and split, since accuracies on different examples are
not to be compared. What was measured here has its 95 % Wilson interval; what
others reported stands beside it in other colours, where it is of the same
split.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from checks import pictures
from hub_export import forms
from hub_export import peer as peer_lib

if TYPE_CHECKING:
  from matplotlib import axes as axes_lib
  from matplotlib import figure as figure_lib

MULTIPLY_ADDS_SUFFIX = ".multiply_adds.png"
LATENCY_SUFFIX = ".latency.png"
_MEASURED = "measured here"
# Of Okabe and Ito; a marker each, for those who see colours differently.
_PEER_STYLES = (("#0072B2", "o"), ("#009E73", "s"), ("#CC79A7", "^"),
                ("#E69F00", "D"), ("#56B4E9", "v"))
_COLOURS = (pictures.ORANGE, "#000000")  # Of what was measured.
_MOST_NAMED = 14  # Points with a name; more would cover each other.


@dataclasses.dataclass(frozen=True)
class Point:
  """A module's measured accuracy and what it costs."""
  name: str             # "600mf".
  architecture: str
  dataset: str
  split: str
  multiply_adds: float  # For one image of the size it was measured at.
  top1: float           # Percent, with the bounds of its interval.
  low: float
  high: float
  latency: Mapping[str, Any] | None  # As reports have it.
  processor: str


@dataclasses.dataclass(frozen=True)
class Plot:
  """A picture of a collection, not drawn yet."""
  name: str                        # Of its file, after the page's version.
  title: str
  alt: str
  points: tuple[Point, ...]
  peers: tuple[peer_lib.Peer, ...]

  def png(self) -> bytes:
    """Draws it; the same points give the same bytes."""
    draw = (_draw_latency if self.name.endswith(LATENCY_SUFFIX)
            else _draw_multiply_adds)
    return pictures.png(self.title, lambda figure: draw(self, figure))


def plots(entries: Sequence[tuple[Mapping[str, Any],
                                  Mapping[str, Any] | None]],
          peers: Sequence[peer_lib.Peer]) -> list[Plot]:
  """Returns the pictures of a collection, in the order of their names.

  Only classifiers are drawn: a feature extractor is as accurate as the
  classifier of its checkpoint. A picture of a single point says nothing and
  is left out.

  Args:
    entries: Manifest and report of each module.
    peers: What others reported; those of the architectures and the split that
      were measured are drawn.
  """
  points = [_point(m, r) for m, r in entries
            if r and r["metrics"] and r["dataset"]
            and m["kind"] == "classifier"]
  found = []
  for dataset, split in sorted({(p.dataset, p.split) for p in points}):
    mine = tuple(p for p in points if (p.dataset, p.split) == (dataset, split))
    architectures = {p.architecture for p in mine}
    theirs = tuple(
        p for p in peers if (p.dataset, p.split) == (dataset, split)
        and p.architecture in architectures)
    title = f", {' and '.join(sorted(architectures))}"
    stem = "." + re.sub(r"[^\w.-]", "-", f"{dataset}-{split}")
    if len(mine) + len(theirs) > 1:
      found.append(Plot(
          stem + MULTIPLY_ADDS_SUFFIX, f"Accuracy against multiply-adds{title}",
          f"Top-1 on {dataset}, split {split}, against multiply-adds per "
          "image: the measured modules with their intervals"
          + (", and what others reported." if theirs else "."), mine, theirs))
    timed = tuple(p for p in mine if p.latency)
    if len(timed) > 1:
      found.append(Plot(
          stem + LATENCY_SUFFIX, f"Accuracy against latency{title}",
          f"Top-1 on {dataset}, split {split}, against the time for one "
          "image, as measured where the checks ran.", timed, ()))
  return found


def _point(m: Mapping[str, Any], r: Mapping[str, Any]) -> Point:
  top1 = r["metrics"]["top1"]
  counted_px = m["multiply_adds"]["image_size_px"]
  fed_px = m["preprocessing"]["crop_px"]
  return Point(
      # "600mf": the architecture stands in the title.
      name=m["variant"].removeprefix(f"{m['card']['architecture']}_") + (
          "" if m["form"] == "main" else f", {forms.label(m)}") + (
              ", demo" if m["is_demo"] else ""),
      architecture=m["card"]["architecture"],
      dataset=r["dataset"]["name"], split=r["dataset"]["split"],
      # All but the last layer's grow with the area of the image.
      multiply_adds=m["multiply_adds"]["count"] * (fed_px / counted_px) ** 2,
      top1=top1["value"], low=top1["low"], high=top1["high"],
      latency=r.get("latency"),
      processor=str(r["environment"].get("processor", "unknown")))


def _draw_multiply_adds(plot: Plot, figure: figure_lib.Figure
                        ) -> axes_lib.Axes:
  axes = figure.subplots()
  for i, source in enumerate(dict.fromkeys(p.source for p in plot.peers)):
    colour, marker = _PEER_STYLES[i % len(_PEER_STYLES)]
    theirs = [p for p in plot.peers if p.source == source]
    axes.plot([p.multiply_adds / 1e9 for p in theirs],
              [p.top1 for p in theirs], linestyle="none", marker=marker,
              markersize=5, color=colour, alpha=0.75, markeredgewidth=0,
              label=f"{source}, reported")
  architectures = sorted({p.architecture for p in plot.points})
  for i, architecture in enumerate(architectures):
    mine = [p for p in plot.points if p.architecture == architecture]
    _draw_points(
        axes, plot, mine, [p.multiply_adds / 1e9 for p in mine], _COLOURS[i % 2],
        _MEASURED if len(architectures) == 1 else
        f"{architecture}, {_MEASURED}")
  _finish(figure, axes, plot, "Multiply-adds per image (billions)")
  return axes


def _draw_latency(plot: Plot, figure: figure_lib.Figure) -> axes_lib.Axes:
  axes = figure.subplots()
  # Times of different machines are not to be compared.
  processors = list(dict.fromkeys(p.processor for p in plot.points))
  for i, processor in enumerate(processors):
    mine = [p for p in plot.points if p.processor == processor]
    colour = ([pictures.ORANGE] + [c for c, _ in _PEER_STYLES])[
        i % (1 + len(_PEER_STYLES))]
    times = [p.latency["median_ms"] for p in mine]
    axes.errorbar(
        times, [p.top1 for p in mine],
        xerr=[[max(0, t - p.latency["low_ms"]) for t, p in zip(times, mine)],
              [max(0, p.latency["high_ms"] - t) for t, p in zip(times, mine)]],
        fmt="none", ecolor=colour, elinewidth=1)
    _draw_points(axes, plot, mine, times, colour, processor[:40])
  _finish(figure, axes, plot, "Time for one image (milliseconds)")
  return axes


def _draw_points(axes: axes_lib.Axes, plot: Plot, points: Sequence[Point],
                 costs: Sequence[float], colour: str, label: str) -> None:
  """Draws some points of a picture with intervals; names them if all are few.
  """
  axes.errorbar(
      costs, [p.top1 for p in points],
      yerr=[[max(0, p.top1 - p.low) for p in points],
            [max(0, p.high - p.top1) for p in points]],
      # Small, so that a narrow interval is not hidden behind it.
      fmt="o", markersize=4, color=colour, ecolor=colour, elinewidth=1.5,
      capsize=3, capthick=1.5, markeredgewidth=0, label=label, zorder=3)
  if len(plot.points) <= _MOST_NAMED:
    is_mixed = len({p.architecture for p in plot.points}) > 1
    for point, cost in zip(points, costs):
      # Above to the left there are fewest other points.
      name = (f"{point.architecture} " if is_mixed else "") + point.name
      axes.annotate(name, (cost, point.top1), xytext=(-6, 5),
                    textcoords="offset points", ha="right", fontsize=9,
                    color=pictures.INK, zorder=4, parse_math=False)


def _finish(figure: figure_lib.Figure, axes: axes_lib.Axes, plot: Plot,
            cost: str) -> None:
  """Labels the axes, a logarithmic one in plain numbers, and the series."""
  from matplotlib import ticker  # pylint: disable=g-import-not-at-top
  axes.set_xscale("log")
  axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
  axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
  axes.xaxis.set_minor_formatter(ticker.NullFormatter())
  axes.yaxis.set_major_locator(ticker.MaxNLocator(7, steps=(1, 2, 5, 10)))
  axes.margins(x=0.15, y=0.1)
  dataset = f"{plot.points[0].dataset}, {plot.points[0].split}"
  axes.set(xlabel=cost, ylabel=f"Top-1 on {dataset} (%)")
  axes.grid(color="#E5E5E5", linewidth=0.8)
  axes.set_axisbelow(True)
  figure.legend(loc="outside lower center", ncols=3, frameon=False,
                fontsize=9.5)
