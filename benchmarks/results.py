"""Tables, JSON and pictures of what was measured."""

import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import targets
from hub_export import batch
from hub_export import export_dirs
from hub_export import program

OURS, THEIRS = "#3182bd", "#bdbdbd"  # Colours.


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


def ratios_table(found: Mapping[str, Any]) -> str:
  """Returns ratios of ours to others with their verdicts, as lines."""
  rows = [("Ratio", "batch", "wall, quartiles", "CPU", "target")]
  for size, held in found["batches"].items():
    for pair, ratio in held["ratios"].items():
      verdict = ratio.get("verdict")
      rows.append((
          pair, size, spread(ratio["wall"], 3),
          f"{ratio['cpu']['median']:.3f}",
          str(targets.Verdict(pair, verdict["limit"], verdict["found"]))
          if verdict else ""))
  return batch.table(rows)


def verdicts_table(verdicts: Sequence[targets.Verdict]) -> str:
  """Returns targets and whether they were reached, as lines."""
  return batch.table([("Measured", "target"),
                      *((v.what, str(v)) for v in verdicts)])


def missing_table(missing: Sequence[Mapping[str, str]]) -> str:
  """Returns who did not take part and what to do, as lines; "" for nobody."""
  if not missing:
    return ""
  return "Did not take part:\n" + "\n".join(
      # All of a long one stands in the JSON file.
      f"  {m['name']}: {m['reason'].splitlines()[0][:300]}"
      + (f"; install: {m['install']}" if m["install"] else "")
      for m in missing)


def write(name: str, found: Mapping[str, Any], png: bytes,
          output_dir: pathlib.Path | None) -> None:
  """Writes <name>.json and <name>.png, and says so; nothing without a place."""
  if output_dir is None:
    return
  export_dirs.write_file(output_dir / f"{name}.json",
                         json.dumps(found, indent=2) + "\n")
  export_dirs.write_file(output_dir / f"{name}.png", png)
  print(f"\n{program.shown_path(output_dir)}: {name}.json, {name}.png")


def contest_picture(found: Mapping[str, Any], title: str, unit: str) -> bytes:
  """Returns a PNG: for each batch a bar for each contestant, with quartiles."""
  batches = found["batches"]
  most = max(len(held["figures"]) for held in batches.values())
  drawn, all_axes = _figure(len(batches), 1.2 + 0.3 * most)
  for axes, (size, held) in zip(all_axes, batches.items(), strict=True):
    ordered = sorted(held["figures"].items(),
                     key=lambda kv: kv[1]["wall_ms"]["median"])
    for row, (name, figures) in enumerate(ordered):
      wall = figures["wall_ms"]
      axes.barh(row, wall["median"],
                color=OURS if name in found["ours"] else THEIRS)
      axes.plot([wall["low"], wall["high"]], [row, row], "k-", linewidth=1)
      axes.text(wall["high"], row, f" {wall['median']:.2f}", va="center",
                fontsize=8)
    axes.set_yticks(range(len(ordered)), [name for name, _ in ordered],
                    fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlabel(f"ms per {unit}", fontsize=8)
    axes.set_title(f"batch {size}" + ("" if held["is_quiet"]
                                      else " (not quiet)"), fontsize=9)
  drawn.suptitle(f"{title} (blue: this project)", fontsize=10)
  return _png(drawn)


def lines_picture(panels: Sequence[Mapping[str, Any]], title: str,
                  x_label: str) -> bytes:
  """Returns a PNG of panels with both axes logarithmic, a line each.

  Args:
    panels: Each {"title", "y_label", "x": [...], "y": [...], "note"}.
    title: Of all.
    x_label: Of each panel's axis below.
  """
  drawn, all_axes = _figure(len(panels), 3.2)
  for axes, panel in zip(all_axes, panels, strict=True):
    axes.loglog(panel["x"], panel["y"], "o-", color=OURS, markersize=3)
    first_x, first_y = panel["x"][0], panel["y"][0]
    axes.loglog(panel["x"], [first_y * x / first_x for x in panel["x"]], ":",
                color="black", linewidth=1, label="linear")
    axes.set_xlabel(x_label, fontsize=8)
    axes.set_ylabel(panel["y_label"], fontsize=8)
    axes.set_title(f"{panel['title']}\n{panel['note']}", fontsize=8)
    axes.legend(fontsize=7)
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


def _figure(columns: int, height: float) -> tuple[Any, Sequence[Any]]:
  from matplotlib import figure  # pylint: disable=g-import-not-at-top
  drawn = figure.Figure(figsize=(max(7, 4 * columns), height),
                        layout="constrained")
  return drawn, drawn.subplots(1, columns, squeeze=False)[0]


def _png(drawn: Any) -> bytes:
  buffer = io.BytesIO()
  drawn.savefig(buffer, format="png", dpi=120)
  return buffer.getvalue()
