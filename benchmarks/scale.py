r"""Measures how time, memory and size grow with a network's size.

  bazel run //benchmarks:scale
  bazel run //benchmarks:scale -- --variants=200mf,1.6gf,8gf --slow_rounds=1

For each variant: an export of both modules, and inference with what it wrote,
each in a fresh process. An exponent p of figure ~ size ** p is fitted: above 1
it grows faster than linearly. Inference takes multiply-adds, of which larger
networks have more per parameter, so that its time is held against these; all
else is held against the parameters. What is there before anything is exported
or loaded, TensorFlow itself, is taken off memory.

It may take an hour in full. With --work_dir the figures of each variant are kept
there, and another run with the same flags, on the same machine and of the same
exporter, goes on with the next one. Weights are not kept: they are large.

Exit status: 0 done, 1 something about the input or the machine, 2 wrong usage.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
import statistics
import tempfile
import time
from typing import Any

from absl import flags

from benchmarks import contest
from benchmarks import machine
from benchmarks import options
from benchmarks import preparation
from benchmarks import processes
from benchmarks import results
from benchmarks import targets
from hub_export import batch
from hub_export import errors
from hub_export import export_dirs
from hub_export import program
from hub_export.regnet import variants as variants_lib

flags.adopt_module_key_flags(options)
_VARIANTS = flags.DEFINE_list(
    "variants", ["200mf", "400mf", "600mf", "800mf", "1.6gf", "3.2gf", "4gf",
                 "6.4gf", "8gf", "12gf", "16gf", "32gf"],
    "Which networks; --variant and --checkpoint count nothing here.")
_SECONDS = flags.DEFINE_float(
    "seconds", 2.0, "How long each batch size is called again and again.", 0)

BATCH_SIZES = (1, 8)
_SIZES = {"parameters": "parameters", "multiply_adds": "multiply-adds"}
# Title, unit, and what it is held against.
FIGURES = {
    "export": ("export CPU", "s", "parameters"),
    "export_memory": ("export memory", "MB", "parameters"),
    "disk": ("classifier on disk", "MB", "parameters"),
    "batch_1": ("batch 1 CPU", "ms/image", "multiply_adds"),
    "batch_8": ("batch 8 CPU", "ms/image", "multiply_adds"),
    "infer_memory": ("inference memory", "MB", "parameters"),
}


def main(_: Sequence[str]) -> int:
  names = sorted({variants_lib.by_name(name).name
                  for name in _VARIANTS.value}, key=_parameters)
  if len(names) < 2:
    raise errors.UsageError(
        f"--variants={','.join(_VARIANTS.value)}: expected two or more, such "
        "as 200mf,1.6gf")
  setting, described = options.slow_setting(), machine.describe()
  rows, quiet = [], []
  for number, name in enumerate(names, 1):
    _say(f"[{number}/{len(names)}] {variants_lib.title(name)}")
    row, how_quiet = kept_or_measured(
        name, setting, options.IMAGE_SIZE.value, _SECONDS.value, described)
    _say("  " + ", ".join(f"{title} {row[key]:.4g} {unit}"
                          for key, (title, unit, _) in FIGURES.items()))
    rows.append(row)
    quiet.append(how_quiet)
  found = {"machine": described, "variants": rows,
           "exponents": exponents(rows),
           "rounds": sum(q["rounds"] for q in quiet),
           "thrown_away": sum(q["thrown_away"] for q in quiet),
           "others": max(q["others"] for q in quiet),
           "is_quiet": all(q["is_quiet"] for q in quiet)}
  print(f"\n{machine.line(found['machine'])}\n\n{table(found)}\n"
        f"{results.quietness(found)}")
  results.write("scale", found, picture(found), options.output_dir())
  return 0


def kept_or_measured(name: str, setting: options.Setting, size_px: int,
                     seconds: float, described: Mapping[str, Any]
                     ) -> tuple[dict[str, Any], dict[str, Any]]:
  """As `measured`; what an earlier run with a --work_dir has kept, if any."""
  if not options.WORK_DIR.value:
    return measured(name, setting, size_px, seconds)
  task = {"setting": dataclasses.asdict(setting), "size_px": size_px,
          "seconds": seconds, "checkpoint": None,
          "machine": {k: v for k, v in described.items() if k != "load"}}
  path = program.user_path(options.WORK_DIR.value) / (
      f"scale-{name}-{preparation.key(task)}.json")
  if path.exists():
    _say(f"  kept from an earlier run in {program.shown_path(path)}")
  else:
    export_dirs.write_file(path, json.dumps(
        measured(name, setting, size_px, seconds)))
  row, quiet = json.loads(path.read_text())
  return row, quiet


def measured(name: str, setting: options.Setting, size_px: int, seconds: float
             ) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the figures of one variant, medians, and how quiet it was."""
  start = time.monotonic()
  with preparation.prepared(
      name, None, size_px, max(BATCH_SIZES), 0, None, (), (),
      lambda text: None) as prepared:
    def held(number: int) -> tuple[dict[str, float], float]:
      _say(f"  {time.monotonic() - start:.0f} s: round {number + 1} of "
           f"{setting.rounds}" + (
               ", others disturbed" if number >= setting.rounds else ""))
      return one_round(prepared, setting.threads, seconds)
    rounds, quiet = processes.quiet_rounds(
        held, setting.rounds, setting.spare_rounds, setting.max_others)
    facts = prepared.facts
  return {"variant": name, "parameters": facts["parameters"],
          "multiply_adds": facts["multiply_adds"],
          **{key: statistics.median(r[key] for r in rounds)
             for key in FIGURES}}, quiet


def one_round(prepared: preparation.Prepared, threads: int, seconds: float
              ) -> tuple[dict[str, float], float]:
  """Returns each of FIGURES once, and what others used meanwhile."""
  with tempfile.TemporaryDirectory(prefix="regnety_hub_") as directory:
    made = processes.fresh(
        threads, do="export", checkpoint=prepared.checkpoint,
        variant=prepared.facts["variant"], output_dir=directory)
    path = preparation.find_export(
        preparation.export_paths(pathlib.Path(directory)), {"form": "main"})
    used = processes.fresh(
        threads, do="infer", path=str(path), seconds=seconds,
        images=str(prepared.directory / "images.npy"),
        batch_sizes=BATCH_SIZES)
  disk = next(size for name, size in made["disk_bytes"].items()
              if name.endswith("classification"))
  return {
      "export": made["export"]["cpu"],
      "export_memory": (made["peak_bytes"] - made["imported_bytes"]) / 1e6,
      "disk": disk / 1e6,
      **{f"batch_{size}": 1e3 * used["batches"][str(size)]["cpu"]
         for size in BATCH_SIZES},
      "infer_memory": (used["peak_bytes"] - used["imported_bytes"]) / 1e6,
  }, max(made["others"], used["others"])


def exponents(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Returns {figure: {"fits": {"parameters", "multiply_adds", "larger"},
  "verdict"}}.

  The verdict is of the fit against what the figure is held against; "larger" is
  the same fit of the larger half alone, where there are six or more. What each
  network takes whatever its size hides the growth of the others in the whole.

  Args:
    rows: Of the smallest network first.
  """
  found = {}
  for key, (title, _, against) in FIGURES.items():
    fits = {size: contest.exponent([row[size] for row in rows],
                                   [row[key] for row in rows])
            for size in _SIZES}
    if len(rows) >= 6:
      half = rows[len(rows) // 2:]
      fits["larger"] = contest.exponent([row[against] for row in half],
                                        [row[key] for row in half])
    found[key] = {"fits": fits, "verdict": targets.Verdict(
        title, targets.EXPONENT, fits[against]["exponent"]).to_dict()}
  return found


def table(found: Mapping[str, Any]) -> str:
  """Returns all figures and exponents as lines for people."""
  rows = [("Variant", "parameters", "multiply-adds",
           *(f"{title} {unit}" for title, unit, _ in FIGURES.values()))]
  for row in found["variants"]:
    rows.append((variants_lib.title(row["variant"]),
                 f"{row['parameters'] / 1e6:.1f} M",
                 f"{row['multiply_adds'] / 1e9:.2f} G",
                 *(f"{row[key]:.4g}" for key in FIGURES)))
  fits = [("Exponent of", *(f"to {name}" for name in _SIZES.values()),
           "held against", "its larger half", "target")]
  for key, exponent in found["exponents"].items():
    verdict = exponent["verdict"]
    fits.append((FIGURES[key][0], *(_fit(exponent["fits"][size])
                                    for size in _SIZES),
                 _SIZES[FIGURES[key][2]],
                 _fit(exponent["fits"].get("larger")), str(targets.Verdict(
                     "", verdict["limit"], verdict["found"]))))
  faster = [FIGURES[key][0] for key, e in found["exponents"].items()
            if not e["verdict"]["holds"] or _is_clearly_more(
                e["fits"].get("larger"), e["verdict"]["limit"])]
  return (f"{batch.table(rows)}\n\n{batch.table(fits)}\n\n" + (
      f"Faster than linearly grows: {', '.join(faster)}" if faster else
      "Nothing grows faster than linearly: time of inference in multiply-adds, "
      "all else in parameters."))


def picture(found: Mapping[str, Any]) -> bytes:
  """Returns a PNG: each figure against what it is held against."""
  panels = [{
      "title": title, "y_label": unit,
      "x_label": f"{_SIZES[against]}, millions",
      "note": "exponent " + _fit(found["exponents"][key]["fits"][against]),
      "x": [row[against] / 1e6 for row in found["variants"]],
      "y": [row[key] for row in found["variants"]],
  } for key, (title, unit, against) in FIGURES.items()]
  return results.lines_picture(panels, "Growth with the network")


def _fit(fit: Mapping[str, float] | None) -> str:
  return f"{fit['exponent']:.2f} +- {fit['error']:.2f}" if fit else ""


def _is_clearly_more(fit: Mapping[str, float] | None, limit: float) -> bool:
  """Returns whether an exponent is above a limit by two standard errors."""
  return bool(fit) and fit["exponent"] - 2 * fit["error"] > limit


def _say(text: str) -> None:
  print(text, flush=True)


def _parameters(name: str) -> int:
  arch = variants_lib.architectures(variants_lib.by_name(name), "keras")[0]
  return variants_lib.parameter_counts(arch, preparation.NUM_CLASSES)[1]


if __name__ == "__main__":
  program.run(main)
