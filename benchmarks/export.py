r"""Measures an export: time, memory, size on disk, and time to the help text.

  bazel run //benchmarks:export
  bazel run //benchmarks:export -- --variant=32gf --slow_rounds=1

Exports both modules in a fresh process, timed after its imports, and by the
whole program //hub_export:export with its quick checks; and asks that program
for help, through Python and through what Bazel built, where it did. The size
is that of the classifier, held against its weights'.

Exit status: 0 done, 1 something about the input or the machine, 2 wrong usage.
"""

from collections.abc import Callable, Mapping, Sequence
import os
import pathlib
import sys
import tempfile
from typing import Any

from absl import flags
import tqdm

from benchmarks import machine
from benchmarks import options
from benchmarks import preparation
from benchmarks import processes
from benchmarks import results
from benchmarks import targets
from checks import meter
from hub_export import program
from hub_export.regnet import variants

flags.adopt_module_key_flags(options)
_WHOLE = flags.DEFINE_bool(
    "whole", True, "Whether the whole program is run as well, once a round.")
_BUILT = "bazel-bin/hub_export/export"
_EXPORTER = [sys.executable, "-m", "hub_export.export"]


def main(_: Sequence[str]) -> int:
  variant = variants.by_name(options.VARIANT.value)
  setting, described = options.slow_setting(), machine.describe()
  with preparation.prepared(
      variant.name, options.CHECKPOINT.value, 32, 2, 0,
      options.WORK_DIR.value, (), (), _say) as prepared:
    facts = prepared.facts
    with tqdm.tqdm(total=setting.rounds, unit="round", leave=False,
                   disable=None) as bar:
      def held(number: int) -> tuple[dict[str, Any], float]:
        del number
        found = one_round(prepared.checkpoint, variant.name, setting.threads,
                          built_runner(), _WHOLE.value)
        bar.update()
        return found, max(found[part]["others"] for part in (
            "export", "whole") if part in found)

      help_seconds(built_runner())  # Brings its files into memory.
      rounds, quiet = processes.quiet_rounds(
          held, setting.rounds, setting.spare_rounds, setting.max_others)
  found = summary(rounds, facts["weight_bytes"]) | quiet | {
      "machine": described, "weights": dict(facts)}
  title = f"Export of both modules, {variants.title(variant.name)}"
  verdicts = [targets.Verdict(v["what"], v["limit"], v["found"], v["unit"])
              for v in found["verdicts"]]
  print(f"{title}\n{machine.line(found['machine'])}\n\n{table(found)}\n\n"
        f"{results.verdicts_table(verdicts)}\n{results.quietness(found)}")
  bars = [(name, figures["wall"]["median"], True)
          for name, figures in found["seconds"].items()]
  results.write("export", found, results.bars_picture(bars, title, "seconds"),
                options.output_dir())
  return 0


def one_round(checkpoint: str, variant: str, threads: int,
              built: pathlib.Path | None, whole: bool) -> dict[str, Any]:
  """Returns what one export takes, and one help text.

  Args:
    checkpoint: What to export.
    variant: Its name.
    threads: For TensorFlow.
    built: What Bazel built of the exporter, if it did.
    whole: Whether to run the whole program too.
  """
  with tempfile.TemporaryDirectory(prefix="regnety_hub_") as directory:
    found: dict[str, Any] = {"export": processes.fresh(
        threads, do="export", checkpoint=checkpoint, variant=variant,
        output_dir=directory)}
  if whole:
    with tempfile.TemporaryDirectory(prefix="regnety_hub_") as directory:
      found["whole"] = processes.whole_run([
          *_EXPORTER, f"--checkpoint={checkpoint}", f"--variant={variant}",
          f"--output_dir={directory}"])
  return found | {"help": help_seconds(built)}


def help_seconds(built: pathlib.Path | None) -> dict[str, float]:
  """Returns how long the exporter's help text takes, by ways of asking."""
  ways = {"python": _EXPORTER} | ({"bazel": [str(built)]} if built else {})
  return {way: processes.first_output_seconds([*command, "--help"])
          for way, command in ways.items()}


def summary(rounds: Sequence[Mapping[str, Any]], weight_bytes: int
            ) -> dict[str, Any]:
  """Returns {"seconds", "bytes", "verdicts"} of rounds as `one_round` gives.

  Args:
    rounds: At least one.
    weight_bytes: Of the classifier's weights.
  """
  def spread(values: list[float]) -> dict[str, float]:
    return vars(meter.quarters(values))

  def both(figure: Callable[[Mapping[str, Any]], Mapping[str, float]]
           ) -> dict[str, Any]:
    return {kind: spread([figure(r)[kind] for r in rounds])
            for kind in ("wall", "cpu")}
  seconds = {"imports": both(lambda r: r["export"]["imports"]),
             "export": both(lambda r: r["export"]["export"])}
  found_bytes = {
      "imported": spread([r["export"]["imported_bytes"] for r in rounds]),
      "peak": spread([r["export"]["peak_bytes"] for r in rounds]),
      "weights": weight_bytes, "disk": rounds[0]["export"]["disk_bytes"]}
  if "whole" in rounds[0]:
    seconds["whole program"] = both(lambda r: r["whole"])
    found_bytes["whole program"] = spread(
        [r["whole"]["peak_bytes"] for r in rounds])
  for way in rounds[0]["help"]:
    seconds[f"help, {way}"] = {
        "wall": spread([r["help"][way] for r in rounds])}
  classifier = next(size for name, size in found_bytes["disk"].items()
                    if name.endswith("classification"))
  verdicts = [
      targets.Verdict("export after imports", targets.EXPORT_SECONDS,
                      seconds["export"]["wall"]["median"], " s"),
      targets.Verdict("peak memory", targets.EXPORT_PEAK_BYTES / 1e6,
                      found_bytes["peak"]["median"] / 1e6, " MB"),
      *(targets.Verdict(name, targets.HELP_SECONDS,
                        figures["wall"]["median"], " s")
        for name, figures in seconds.items() if name.startswith("help")),
      targets.Verdict(
          "classifier on disk",
          (targets.DISK_RATIO * weight_bytes + targets.DISK_BYTES) / 1e6,
          classifier / 1e6, " MB")]
  return {"seconds": seconds, "bytes": found_bytes,
          "verdicts": [v.to_dict() for v in verdicts]}


def table(found: Mapping[str, Any]) -> str:
  """Returns a summary as lines for people."""
  lines = []
  for name, figures in found["seconds"].items():
    cpu = (f", {figures['cpu']['median']:.2f} s of processor time"
           if "cpu" in figures else "")
    lines.append(f"{name}: {results.spread(figures['wall'])} s{cpu}")
  memory = found["bytes"]
  lines.append(
      f"memory at its highest: {memory['peak']['median'] / 1e6:.0f} MB, after "
      f"the imports {memory['imported']['median'] / 1e6:.0f} MB")
  if "whole program" in memory:
    lines.append("all processes of the whole program together: "
                 f"{memory['whole program']['median'] / 1e6:.0f} MB")
  lines.append(f"weights: {memory['weights'] / 1e6:.2f} MB")
  lines += [f"{name} on disk: {size / 1e6:.2f} MB"
            for name, size in memory["disk"].items()]
  return "\n".join(lines)


def built_runner() -> pathlib.Path | None:
  """Returns what Bazel built of the exporter, None if it did not."""
  root = os.environ.get("BUILD_WORKSPACE_DIRECTORY") or (
      pathlib.Path(__file__).absolute().parents[1])
  path = pathlib.Path(root, _BUILT)
  return path if os.access(path, os.X_OK) else None


def _say(text: str) -> None:
  print(text, flush=True)


if __name__ == "__main__":
  program.run(main)
