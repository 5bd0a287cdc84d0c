r"""Measures loading and the first call beside tf_keras' own SavedModel.

  bazel run //benchmarks:load
  bazel run //benchmarks:load -- --variant=32gf --slow_rounds=5

The same weights are exported by //hub_export:export and saved by tf_keras. Each
is loaded in a fresh process, in turn, after the imports: ours by hub.load,
tf_keras' by tf_keras.models.load_model and by tf.saved_model.load, which is
what hub.load calls. Then comes the first call, with one image: of the object
itself, or of its signature where tf.saved_model.load gave it. A round before
those that count brings all files into memory.

Exit status: 0 done, 1 something about the input or the machine, 2 wrong usage.
"""

from collections.abc import Mapping, Sequence
import statistics
from typing import Any

from absl import flags
import tqdm

from benchmarks import contestants
from benchmarks import machine
from benchmarks import options
from benchmarks import preparation
from benchmarks import processes
from benchmarks import results
from benchmarks import targets
from checks import meter
from hub_export import batch
from hub_export import program
from hub_export.regnet import variants

flags.adopt_module_key_flags(options)

OURS, KERAS, SAVED_MODEL = ("ours by hub.load", "tf_keras' by load_model",
                            "tf_keras' by tf.saved_model.load")
_PHASES = ("load", "first_call")


def main(_: Sequence[str]) -> int:
  variant = variants.by_name(options.VARIANT.value)
  size_px = options.IMAGE_SIZE.value
  described = machine.describe()
  with preparation.prepared(
      variant.name, options.CHECKPOINT.value, size_px, 2, 0,
      options.WORK_DIR.value, (), (), _say) as prepared:
    main_form = contestants.chosen(contestants.INFERENCE, ["main"])[0]
    ours = prepared.task(main_form, "infer", 1, size_px)["path"]
    keras = str(prepared.keras_saved_model(size_px))
    images = str(prepared.directory / "images.npy")
    tasks = {OURS: {"path": ours, "with": "hub"},
             KERAS: {"path": keras, "with": "keras"},
             SAVED_MODEL: {"path": keras, "with": "saved_model"}}
    setting = options.slow_setting()
    _say(f"Loading each in a fresh process, {setting.rounds} times and once "
         "that does not count")
    with tqdm.tqdm(total=(1 + setting.rounds) * len(tasks), unit="process",
                   leave=False, disable=None) as bar:
      def held(number: int) -> tuple[dict[str, Any], float]:
        names = list(tasks)
        found = {}
        for name in names[number % 3:] + names[:number % 3]:
          found[name] = processes.fresh(
              setting.threads, do="load", images=images, **tasks[name])
          bar.update()
        return found, max(f["others"] for f in found.values())

      held(0)  # Reads what is not in the system's cache of files yet.
      rounds, quiet = processes.quiet_rounds(
          held, setting.rounds, setting.spare_rounds, setting.max_others)
  found = summary(rounds) | quiet | {"machine": described}
  title = f"Loading, {variants.title(variant.name)}"
  print(f"{title}\n{machine.line(found['machine'])}\n\n{table(found)}\n"
        f"{results.quietness(found)}")
  results.write("load", found, results.bars_picture(
      [(f"{name}: {phase.replace('_', ' ')}",
        found["seconds"][name][phase]["wall"]["median"], name == OURS)
       for phase in _PHASES for name in tasks], title, "seconds"),
                options.output_dir())
  return 0


def summary(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Returns {"seconds", "ratios", "verdicts"} of rounds of fresh processes.

  Args:
    rounds: Each {name: what fresh.py found}.
  """
  def spread(values: list[float]) -> dict[str, float]:
    return vars(meter.quarters(values))
  seconds = {name: {phase: {
      kind: spread([r[name][phase][kind] for r in rounds])
      for kind in ("wall", "cpu")} for phase in _PHASES} for name in rounds[0]}
  ratios = {phase: {
      name: {kind: spread([r[OURS][phase][kind] / r[name][phase][kind]
                           for r in rounds]) for kind in ("wall", "cpu")}
      for name in rounds[0] if name != OURS} for phase in _PHASES}
  verdicts = []
  for phase, ratio, limit in (
      ("load", targets.LOAD_RATIO, targets.LOAD_SECONDS),
      ("first_call", targets.FIRST_CALL_RATIO, targets.FIRST_CALL_SECONDS)):
    shown = phase.replace("_", " ")
    verdicts += [targets.Verdict(f"{shown}, ratio to {name}", ratio,
                                 found["wall"]["median"])
                 for name, found in ratios[phase].items()]
    verdicts.append(targets.Verdict(
        f"{shown}, here", limit, seconds[OURS][phase]["wall"]["median"], " s"))
  return {"seconds": seconds, "ratios": ratios,
          "peak_bytes": {name: statistics.median(
              r[name]["peak_bytes"] for r in rounds) for name in rounds[0]},
          "verdicts": [v.to_dict() for v in verdicts]}


def table(found: Mapping[str, Any]) -> str:
  """Returns a summary as lines for people."""
  rows = [("After imports", "load s", "CPU s", "first call s", "CPU s",
           "peak MB")]
  for name, phases in found["seconds"].items():
    rows.append((name, *(
        cell for phase in _PHASES
        for cell in (results.spread(phases[phase]["wall"]),
                     f"{phases[phase]['cpu']['median']:.2f}")),
                 f"{found['peak_bytes'][name] / 1e6:.0f}"))
  ratios = [("Ratio of ours to", "load", "CPU", "first call", "CPU")]
  for name in found["ratios"]["load"]:
    ratios.append((name, *(
        cell for phase in _PHASES
        for cell in (results.spread(found["ratios"][phase][name]["wall"], 3),
                     f"{found['ratios'][phase][name]['cpu']['median']:.3f}"))))
  verdicts = [targets.Verdict(v["what"], v["limit"], v["found"], v["unit"])
              for v in found["verdicts"]]
  return "\n\n".join([batch.table(rows), batch.table(ratios),
                      results.verdicts_table(verdicts)])


def _say(text: str) -> None:
  print(text, flush=True)


if __name__ == "__main__":
  program.run(main)
