"""Tables, JSON and pictures of what was measured."""

import io
import json
import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import targets
from hub_export import batch
from hub_export import export_dirs
from hub_export import program

OURS, THEIRS = "#3182bd", "#bdbdbd"  # Colours.
_WIDTH = 80
_GAP = 0.6  # Between groups of bars, in bars.


def spread(found: Mapping[str, float], digits: int = 2) -> str:
  """Returns a median and its quartiles: "5.41 (5.30 to 5.62)"."""
  return (f"{found['median']:.{digits}f} ({found['low']:.{digits}f} to "
          f"{found['high']:.{digits}f})")


def figures_table(found: Mapping[str, Any], unit: str) -> str:
  """Returns a contest's figures as lines: for each batch, who took how long.

  Args:
    found: "batches", as `contest_program.run` gives them.
    unit: What a figure is of: "image" or "step".
  """
  parts = []
  for size, held in found["batches"].items():
    fastest = min(f["wall_ms"]["median"] for f in held["figures"].values())
    rows = [(f"Batch {size}", f"ms/{unit}, quartiles", f"CPU ms/{unit}",
             "x fastest")]
    for name, figures in sorted(held["figures"].items(),
                                key=lambda kv: kv[1]["wall_ms"]["median"]):
      median = figures["wall_ms"]["median"]
      rows.append((name, spread(figures["wall_ms"]),
                   f"{figures['cpu_ms']['median']:.2f}",
                   f"{median / fastest:.2f}"))
    parts.append(f"{batch.table(rows)}\n{quietness(held)}")
  return "\n\n".join(parts)


def quietness(held: Mapping[str, Any]) -> str:
  """Returns how quiet the machine was, as a line."""
  state = "quiet" if held["is_quiet"] else (
      "NOT quiet: measure again when nothing else runs")
  return (f"{held['rounds']} rounds, {held['thrown_away']} more thrown away; "
          f"others used up to {held['others']:.1%} of the machine: {state}")


def ratios_tables(found: Mapping[str, Any]) -> str:
  """Returns ratios of ours to others as lines, a table for each batch size;
  "" where there are none. Quartiles stand in the JSON file."""
  parts = []
  for size, held in found["batches"].items():
    peers = list(next(iter(held["ratios"].values()), ()))
    if peers:
      rows = [(f"Batch {size}, ours to", *peers)]
      rows += [(name, *(
          f"{_three_digits(ratio['wall']['median'])}, "
          f"{_three_digits(ratio['cpu']['median'])}"
          for ratio in ratios.values()))
               for name, ratios in held["ratios"].items()]
      parts.append(batch.table(rows))
  return "\n\n".join(["Ratios, below 1 where ours is faster: wall time, CPU "
                      "time", *parts]) if parts else ""


def targets_table(found: Sequence[Mapping[str, Any]]) -> str:
  """Returns targets and whether they were reached, as lines; "" for none.

  Args:
    found: As `contest_program.targets` gives them.
  """
  if not found:
    return ""
  rows = [("Targets, wall time", "batch", "at most", "measured, quartiles",
           "reached", "CPU time")]
  for target in found:
    measured = ("not measured", "", "") if target["wall"] is None else (
        spread(target["wall"], 3), "yes" if target["holds"] else "NO",
        f"{target['cpu']['median']:.3f}")
    rows.append((f"{target['ours']} : {target['theirs']}",
                 str(target["batch"]), f"{target['limit']:g}", *measured))
  return batch.table(rows)


def verdicts_table(verdicts: Sequence[targets.Verdict]) -> str:
  """Returns targets and whether they were reached, as lines."""
  return batch.table([("Measured", "target"),
                      *((v.what, str(v)) for v in verdicts)])


def missing_table(missing: Sequence[Mapping[str, str]]) -> str:
  """Returns who did not take part and what to do, as lines; "" for nobody."""
  if not missing:
    return ""
  lines = ["Did not take part:"]
  for each in missing:
    text = f"{each['name']}: {each['reason']}"
    for line in text.splitlines():
      lines += textwrap.wrap(
          line, _WIDTH, initial_indent="  ", subsequent_indent="    ",
          break_long_words=False, break_on_hyphens=False)
    if each["install"]:
      lines.append(f"    run this: {each['install']}")
  return "\n".join(lines)


def write(name: str, found: Mapping[str, Any], png: bytes,
          output_dir: pathlib.Path | None) -> None:
  """Writes <name>.json and <name>.png, and says so; nothing without a place."""
  if output_dir is None:
    return
  export_dirs.write_file(output_dir / f"{name}.json",
                         json.dumps(found, indent=2) + "\n")
  export_dirs.write_file(output_dir / f"{name}.png", png)
  print(f"\n{program.shown_path(output_dir)}: {name}.json, {name}.png")


def contest_picture(found: Mapping[str, Any], title: str, unit: str,
                    machine_line: str) -> bytes:
  """Returns a PNG: a column for each batch size, a bar for each contestant.

  Args:
    found: As `contest_program.run` gives it.
    title: Of all.
    unit: What a figure is of: "image" or "step".
    machine_line: Where the figures come from; stands below.
  """
  batches = found["batches"]
  places, ends = rows_by_group(found)
  drawn, all_axes = _figure(len(batches), 1.8 + 0.24 * max(places.values()))
  for axes, (size, held) in zip(all_axes, batches.items(), strict=True):
    for name, figures in held["figures"].items():
      wall, row = figures["wall_ms"], places[name]
      axes.barh(row, wall["median"], height=0.75, color=_colour(found, name))
      axes.plot([wall["low"], wall["high"]], [row, row], "k-", linewidth=1)
      axes.text(max(wall["high"], wall["median"]), row,
                f" {_three_digits(wall['median'])}", va="center", fontsize=8)
    for end in ends[:-1]:
      axes.axhline(end, color="#dddddd", linewidth=0.8)
    axes.set_yticks(list(places.values()),
                    list(places) if axes is all_axes[0] else [], fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_ylim(ends[-1], -0.5 - _GAP / 2)
    # Room for the figure beside the longest bar.
    axes.set_xlim(0, 1.22 * max(f["wall_ms"]["high"]
                                for f in held["figures"].values()))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(f"ms per {unit}", fontsize=8)
    axes.set_title(f"batch {size}" + ("" if held["is_quiet"]
                                      else " (machine not quiet)"), fontsize=9)
  drawn.suptitle(title, fontsize=11)
  drawn.legend(
      handles=[_patch(OURS, "this project"), _patch(THEIRS, "others")],
      fontsize=8, frameon=False, ncols=2, loc="outside upper right")
  drawn.supxlabel(textwrap.fill(
      f"Medians, and quartiles as lines. {machine_line}",
      65 * max(2, len(batches))), fontsize=7)
  return _png(drawn)


def rows_by_group(found: Mapping[str, Any]
                  ) -> tuple[dict[str, float], list[float]]:
  """Returns where each contestant's bar is, group below group.

  Args:
    found: "groups", in the order to be drawn, and "batches".

  Returns:
    Name -> row, for whoever has a figure; and where each group ends.
  """
  drawn = {name for held in found["batches"].values()
           for name in held["figures"]}
  places, ends, row, last = {}, [], 0.0, None
  for name, group in found["groups"].items():
    if name in drawn:
      if last not in (None, group):
        ends.append(row - 0.5 + _GAP / 2)
        row += _GAP
      places[name], last = row, group
      row += 1
  return places, [*ends, row - 0.5 + _GAP / 2]


def lines_picture(panels: Sequence[Mapping[str, Any]], title: str) -> bytes:
  """Returns a PNG of panels with both axes logarithmic, a line each.

  Args:
    panels: Each {"title", "x_label", "y_label", "x": [...], "y": [...],
      "note"}.
    title: Of all.
  """
  from matplotlib import ticker  # pylint: disable=g-import-not-at-top
  rows = -(-len(panels) // 3)
  drawn, all_axes = _figure(3, 3 * rows, rows)
  for axes, panel in zip(all_axes, panels):
    axes.loglog(panel["x"], panel["y"], "o-", color=OURS, markersize=3)
    first_x, first_y = panel["x"][0], panel["y"][0]
    axes.loglog(panel["x"], [first_y * x / first_x for x in panel["x"]], ":",
                color="black", linewidth=1, label="linear")
    axes.set_xlabel(panel["x_label"], fontsize=8)
    axes.set_ylabel(panel["y_label"], fontsize=8)
    axes.tick_params(labelsize=8)
    for axis in (axes.xaxis, axes.yaxis):
      axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
      axis.set_major_formatter("{x:g}")
      axis.set_minor_locator(ticker.NullLocator())
    axes.set_title(f"{panel['title']}\n{panel['note']}", fontsize=8)
    axes.legend(fontsize=7, frameon=False)
  for axes in all_axes[len(panels):]:
    axes.set_visible(False)
  drawn.suptitle(title, fontsize=10)
  return _png(drawn)


def bars_picture(rows: Sequence[tuple[str, float, bool]], title: str,
                 label: str) -> bytes:
  """Returns a PNG: a bar for each (name, value, whether it is ours)."""
  drawn, (axes,) = _figure(1, 1.2 + 0.3 * len(rows))
  for row, (_, value, is_ours) in enumerate(rows):
    axes.barh(row, value, color=OURS if is_ours else THEIRS)
    axes.text(value, row, f" {value:.3g}", va="center", fontsize=8)
  axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=8)
  axes.invert_yaxis()
  axes.margins(x=0.15)
  axes.set_xlabel(label, fontsize=8)
  drawn.suptitle(title, fontsize=10)
  return _png(drawn)


def _figure(columns: int, height: float, rows: int = 1
            ) -> tuple[Any, Sequence[Any]]:
  """Returns a figure of so many inches, and all its axes, row by row."""
  from matplotlib import figure  # pylint: disable=g-import-not-at-top
  drawn = figure.Figure(figsize=(max(7, 3.6 * columns), max(height, 3)),
                        layout="constrained")
  return drawn, drawn.subplots(rows, columns, squeeze=False).ravel()


def _colour(found: Mapping[str, Any], name: str) -> str:
  return THEIRS if found["groups"][name] == "peers" else OURS


def _patch(colour: str, label: str) -> Any:
  from matplotlib import patches  # pylint: disable=g-import-not-at-top
  return patches.Patch(color=colour, label=label)


def _three_digits(value: float) -> str:
  """Returns such as 0.123, 1.20, 12.3 or 1234."""
  return f"{value:#.3g}" if value < 99.95 else f"{value:.0f}"


def _png(drawn: Any) -> bytes:
  buffer = io.BytesIO()
  drawn.savefig(buffer, format="png", dpi=120)
  return buffer.getvalue()
