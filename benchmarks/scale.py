r"""Measures how time, memory and size grow with a network's size.

  bazel run //benchmarks:scale
  bazel run //benchmarks:scale -- --variants=200mf,1.6gf,8gf --slow_rounds=1

For each variant: an export of both modules, and inference with what it wrote,
each in a fresh process. Figures are held against the number of parameters, and
an exponent p of figure ~ parameters ** p is fitted: above 1 it grows faster
than linearly. Multiply-adds themselves grow faster than parameters, so that
times of inference are held against both. What is there before anything is
exported or loaded, TensorFlow itself, is taken off memory.

Exit status: 0 done, 1 something about the input or the machine, 2 wrong usage.
"""

from collections.abc import Mapping, Sequence
import pathlib
import statistics
import tempfile
from typing import Any

from absl import flags
import tqdm

from benchmarks import contest
from benchmarks import machine
from benchmarks import options
from benchmarks import preparation
from benchmarks import processes
from benchmarks import results
from benchmarks import targets
from hub_export import batch
from hub_export import program
from hub_export import errors
from hub_export.regnet import variants as variants_lib

flags.adopt_module_key_flags(options)
_VARIANTS = flags.DEFINE_list(
    "variants", ["200mf", "400mf", "600mf", "800mf", "1.6gf", "3.2gf", "4gf",
                 "6.4gf", "8gf", "12gf", "16gf", "32gf"],
    "Which networks; --variant and --checkpoint count nothing here.")
_SECONDS = flags.DEFINE_float(
    "seconds", 2.0, "How long each batch size is called again and again.", 0)

BATCH_SIZES = (1, 8)
# Title, unit, and whether it is held against multiply-adds as well.
FIGURES = {
    "export": ("export, CPU", "s", False),
    "export_memory": ("export, memory", "MB", False),
    "disk": ("classifier on disk", "MB", False),
    "batch_1": ("batch 1, CPU per image", "ms", True),
    "batch_8": ("batch 8, CPU per image", "ms", True),
    "infer_memory": ("inference, memory", "MB", False),
}


def main(_: Sequence[str]) -> int:
  names = sorted({variants_lib.by_name(name).name
                  for name in _VARIANTS.value}, key=_parameters)
  if len(names) < 2:
    raise errors.UsageError(
        f"--variants={','.join(_VARIANTS.value)}: expected two or more, such "
        "as 200mf,1.6gf")
  setting = options.slow_setting()
  rows, quiet = [], []
  with tqdm.tqdm(total=len(names), unit="variant", leave=False,
                 disable=None) as bar:
    for name in names:
      row, how_quiet = measured(name, setting, options.IMAGE_SIZE.value,
                                _SECONDS.value)
      rows.append(row)
      quiet.append(how_quiet)
      bar.update()
  found = {"machine": machine.describe(), "variants": rows,
           "exponents": exponents(rows),
           "rounds": sum(q["rounds"] for q in quiet),
           "thrown_away": sum(q["thrown_away"] for q in quiet),
           "others": max(q["others"] for q in quiet),
           "is_quiet": all(q["is_quiet"] for q in quiet)}
  print(f"{machine.line(found['machine'])}\n\n{table(found)}\n"
        f"{results.quietness(found)}")
  results.write("scale", found, picture(found), options.output_dir())
  return 0


def measured(name: str, setting: options.Setting, size_px: int, seconds: float
             ) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the figures of one variant, medians, and how quiet it was."""
  with preparation.prepared(
      name, None, size_px, max(BATCH_SIZES), 0, options.WORK_DIR.value, (), (),
      lambda text: None) as prepared:
    def held(number: int) -> tuple[dict[str, float], float]:
      del number
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
  """Returns for each figure the exponent against parameters, its error, and
  against multiply-adds where that says more; and whether it is linear."""
  found = {}
  for key, (_, _, by_work) in FIGURES.items():
    costs = [row[key] for row in rows]
    fits = {"parameters": contest.exponent(
        [row["parameters"] for row in rows], costs)}
    if by_work:
      fits["multiply_adds"] = contest.exponent(
          [row["multiply_adds"] for row in rows], costs)
    judged = fits["multiply_adds" if by_work else "parameters"]
    found[key] = {"fits": fits, "verdict": targets.Verdict(
        FIGURES[key][0], targets.EXPONENT, judged["exponent"]).to_dict()}
  return found


def table(found: Mapping[str, Any]) -> str:
  """Returns all figures and exponents as lines for people."""
  rows = [("Variant", "parameters", "multiply-adds",
           *(f"{title}, {unit}" for title, unit, _ in FIGURES.values()))]
  for row in found["variants"]:
    rows.append((variants_lib.title(row["variant"]),
                 f"{row['parameters'] / 1e6:.1f} M",
                 f"{row['multiply_adds'] / 1e9:.2f} G",
                 *(f"{row[key]:.4g}" for key in FIGURES)))
  fits = [("Exponent of", "against parameters", "against multiply-adds",
           "target")]
  for key, exponent in found["exponents"].items():
    verdict = exponent["verdict"]
    fits.append((FIGURES[key][0], *(_fit(exponent["fits"].get(of)) for of in (
        "parameters", "multiply_adds")), str(targets.Verdict(
            "", verdict["limit"], verdict["found"]))))
  faster = [FIGURES[key][0] for key, e in found["exponents"].items()
            if not e["verdict"]["holds"]]
  return (f"{batch.table(rows)}\n\n{batch.table(fits)}\n\n" + (
      f"Faster than linearly grows: {', '.join(faster)}" if faster else
      "Nothing grows faster than linearly."))


def picture(found: Mapping[str, Any]) -> bytes:
  """Returns a PNG: each figure against the parameters."""
  panels = [{
      "title": title, "y_label": unit, "note": "exponent " + _fit(
          found["exponents"][key]["fits"]["parameters"]),
      "x": [row["parameters"] for row in found["variants"]],
      "y": [row[key] for row in found["variants"]],
  } for key, (title, unit, _) in FIGURES.items()]
  return results.lines_picture(panels, "Growth with the network",
                               "parameters")


def _fit(fit: Mapping[str, float] | None) -> str:
  return f"{fit['exponent']:.2f} +- {fit['error']:.2f}" if fit else ""


def _parameters(name: str) -> int:
  arch = variants_lib.architectures(variants_lib.by_name(name), "keras")[0]
  return variants_lib.parameter_counts(arch, preparation.NUM_CLASSES)[1]


if __name__ == "__main__":
  program.run(main)
