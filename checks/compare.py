r"""Compares two evaluations on the same examples, pairwise.

  bazel run //checks:compare -- \
      exports/local/regnety600mf_classification/1 \
      exports/local/regnety600mf_classification/2

A and B are exports that were checked, each the directory of one module's
version, or files of predictions (.parquet). It prints how many examples each
is right on, McNemar's exact test, and the predictions that differ.

Exit status: 0 if they could be compared, whatever came out, 1 if not, 2 on
wrong usage.
"""

import csv
import io
import pathlib
import shlex
from collections.abc import Sequence

from absl import flags

from checks import comparison
from checks import known_sets
from checks import predictions
from hub_export import errors
from hub_export import export_dirs
from hub_export import program

_DATASET = flags.DEFINE_string(
    "dataset", None,
    "TFDS name of the data set whose evaluations are compared; by default that "
    "of each export's manifest.")
_SPLIT = flags.DEFINE_string(
    "split", None, "Its split; by default that of each export's manifest.")
_FLIPS = flags.DEFINE_integer(
    "flips", 20, "How many differing predictions to print, those of the "
    "largest margin first.", lower_bound=0)
_OUTPUT = flags.DEFINE_string(
    "output", None, "CSV file to write all differing predictions to.")

_SUFFIX = ".parquet"
_NAME_WIDTH = 28  # Characters of a class name in a table.


def table(compared: comparison.Comparison) -> str:
  """Returns the comparison as lines, with McNemar's test."""
  a, b = (rate.to_dict() for rate in compared.top1)
  low, high = compared.interval
  total = compared.total
  width = len(f"{total:,}")

  def share(count: int) -> str:
    return f"{count:>{width},}  {100 * count / total:6.2f} %"

  unlabelled = compared.num_examples - total
  lines = [f"{total:,} examples" + (
      f", and {unlabelled:,} without a label" if unlabelled else ""), ""]
  lines += [
      f"top-1 of {name}     {rate['value']:6.2f} %  ({rate['low']:.2f} to "
      f"{rate['high']:.2f})" for name, rate in (("A", a), ("B", b))]
  lines += [
      f"B less A       {compared.difference:+6.2f} points, standard error "
      f"{compared.error:.2f}, 95 % interval {low:+.2f} to {high:+.2f}", "",
      f"both right     {share(compared.both_right)}",
      f"only A right   {share(compared.only_a)}",
      f"only B right   {share(compared.only_b)}",
      f"both wrong     {share(compared.both_wrong)}", "",
      "McNemar's exact test, two-sided: p = "
      f"{comparison.spoken_p(compared.p_value)}",
      comparison.sentence(compared), "",
      f"{len(compared.flips):,} of {compared.num_examples:,} predictions "
      "differ."]
  return "\n".join(lines)


def flips_table(flips: Sequence[comparison.Flip],
                names: Sequence[str] | None) -> str:
  """Returns one line for each flip, below a header.

  Args:
    flips: What is shown.
    names: Of the classes, in label order; None for numbers.
  """
  rows = [("file", "label", "A", "B", "right", "margins")]
  rows += [
      (_printable(f.file_name),
       ", ".join(_class(c, names) for c in f.labels) or "none",
       _class(f.a, names), _class(f.b, names), _right(f),
       f"{f.a_margin:.3f} {f.b_margin:.3f}") for f in flips]
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  return "\n".join("  ".join(
      cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
                   for row in rows)


def flips_csv(flips: Sequence[comparison.Flip],
              names: Sequence[str] | None) -> str:
  """Returns all that is known of each flip; several labels go with spaces."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow((
      "file_name", "labels", "a", "b", "a_name", "b_name", "a_right",
      "b_right", "a_margin", "b_margin", "a_probability", "b_probability"))
  for f in flips:
    writer.writerow((
        f.file_name, " ".join(map(str, f.labels)), f.a, f.b,
        names[f.a] if names else "", names[f.b] if names else "",
        int(f.a_is_right), int(f.b_is_right), f.a_margin, f.b_margin,
        f.a_probability, f.b_probability))
  return text.getvalue()


def main(argv: Sequence[str]) -> int:
  paths = [program.user_path(argument) for argument in argv[1:]]
  if all(path.suffix == _SUFFIX for path in paths) and (
      _DATASET.value or _SPLIT.value):
    raise errors.UsageError(
        "--dataset and --split choose among the evaluations of an export; "
        f"expected none of them with two {_SUFFIX} files. Leave them out.")
  files = [_file(path) for path in paths]
  a, b = (_read(file, path) for file, path in zip(files, paths))
  compared = comparison.compare(a, b)
  num_classes = 1 + max(int(found.top.max()) for found in (a, b))
  names = _class_names(files, num_classes)
  for name, file in zip("AB", files):
    print(f"{name}  {program.shown_path(file)}")
  print(f"\n{table(compared)}")
  shown = compared.flips[:_FLIPS.value]
  if shown:
    print(f"\n{flips_table(shown, names)}")
  if _OUTPUT.value:
    output = program.user_path(_OUTPUT.value)
    export_dirs.write_file(output, flips_csv(compared.flips, names))
    print(f"\nflips  {program.shown_path(output)}")
  return 0


def _file(path: pathlib.Path) -> pathlib.Path:
  """Returns the file of predictions that an argument means."""
  if path.suffix == _SUFFIX:
    return path
  manifest = export_dirs.read_manifest(path)
  dataset = known_sets.stored_name(
      _DATASET.value or manifest["dataset"]["name"])
  split = _SPLIT.value or manifest["dataset"]["split"]
  if not split:
    raise errors.UsageError(
        f"the manifest of {path} names no split; name data set and split with "
        "--dataset and --split")
  return export_dirs.evaluation_path(path, dataset, split, _SUFFIX)


def _read(file: pathlib.Path, path: pathlib.Path) -> predictions.Predictions:
  try:
    return predictions.read(file)[0]
  except FileNotFoundError:
    chosen = [f"--{flag.name}={flag.value}" for flag in (_DATASET, _SPLIT)
              if flag.value]
    arguments = shlex.join([f"--export_dir={program.shown_path(path)}", *chosen])
    advice = ("Name a file of predictions." if path == file else
              f"Evaluate it: {program.command('//checks:evaluate')} {arguments}"
              if chosen else
              f"Evaluate it: {program.command('//checks:check')} {arguments}")
    raise errors.ChecksError(
        f"there are no predictions {file}; expected those of an evaluation. "
        f"{advice}") from None


def _class_names(files: Sequence[pathlib.Path], num_classes: int
                 ) -> tuple[str, ...] | None:
  """Returns the class names of the first export that has them, or None.

  The labels are alike, or there would be no comparison. A feature extractor
  has none of its own.
  """
  for file in files:
    directory = file.parent
    export_dir = directory.with_name(
        directory.name.removesuffix(export_dirs.EVALUATIONS_SUFFIX))
    try:
      names = (export_dir / export_dirs.LABELS).read_text("utf-8").splitlines()
    except (OSError, ValueError):
      continue
    if len(names) >= num_classes:
      return tuple(names)
  return None


def _class(index: int, names: Sequence[str] | None) -> str:
  if not names:
    return str(index)
  name = _printable(names[index])
  return (name if len(name) <= _NAME_WIDTH
          else name[:_NAME_WIDTH - 3].rstrip() + "...")


def _printable(text: str) -> str:
  """Returns `text` without what would move a terminal's cursor."""
  return "".join(c if c.isprintable() else "?" for c in text)


def _right(flip: comparison.Flip) -> str:
  if not flip.labels:
    return "no label"
  return {(True, True): "both", (True, False): "A", (False, True): "B",
          (False, False): "neither"}[flip.a_is_right, flip.b_is_right]


if __name__ == "__main__":
  program.run(main, arguments=("A", "B"))
