r"""Lists the published checkpoints that can be exported.

  bazel run //hub_export:catalog
  bazel run //hub_export:catalog -- --variant=600mf
  bazel run //hub_export:catalog -- --name='timm:*in12k*' --min_top1=85
  bazel run //hub_export:catalog -- --name=timm:regnety_006.pycls_in1k

Each line is a checkpoint at one image size, with the accuracy that was reported
for it on ImageNet-1k's validation split; nothing is downloaded. A star marks
the most accurate checkpoint of its variant among those whose licence does not
restrict their use. The name in the first column is what
//hub_export:export takes as --checkpoint. If one checkpoint is left, all that
is known of it is shown.

Exit status: 0 done, 1 nothing matches, 2 wrong usage.
"""

import csv
import dataclasses
import io
import json
import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from absl import flags

from hub_export import errors
from hub_export import program
from hub_export.regnet import catalog
from hub_export.regnet import variants

_LICENCES = sorted({e.licence_name for e in catalog.ENTRIES})

_VARIANT = flags.DEFINE_string(
    "variant", None,
    "Only these architectures: a name such as 600mf, regnetx_1.6gf or "
    "RegNetY006, a pattern such as 'regnety_*gf', or several with commas.")
_NAME = flags.DEFINE_string(
    "name", None,
    "Only checkpoints of this name, or of names like this pattern, such as "
    "'timm:*pycls*'.")
_SOURCE = flags.DEFINE_enum(
    "source", None, list(catalog.SOURCES), "Only those of one publisher.")
_MIN_TOP1 = flags.DEFINE_float(
    "min_top1", None, "Only those with this reported top-1 or more, in "
    "percent.", 0, 100)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", None, "Only those evaluated at this image size, in pixels.",
    1)
_LICENCE = flags.DEFINE_enum(
    "licence", None, _LICENCES, "Only those under this licence.")
_CACHED = flags.DEFINE_bool(
    "cached", False, "Only those that have been downloaded already.")
_DETAILS = flags.DEFINE_bool(
    "details", False, "Show all that is known of each.")
_FORMAT = flags.DEFINE_enum(
    "format", "table", ["table", "csv", "json"],
    "table is to be read; csv and json are for programs.")

# The most dispensable first: what a narrow terminal goes without.
_DISPENSABLE = ("hash", "classes", "variant", "top-5", "licence")
_Row = tuple[catalog.Entry, catalog.Evaluation]


def main(_: Sequence[str]) -> int:
  rows = _chosen()
  try:
    print(_shown(rows), flush=True)
  except BrokenPipeError:  # Such as of `| head`: it has seen enough.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  return 0


def _chosen() -> list[_Row]:
  """Returns what the flags leave, by variant, the most accurate first.

  Raises:
    HubExportError: if nothing is left.
    UsageError: if there is no such variant.
  """
  wanted = variants.matching(_VARIANT.value or variants.ALL)
  order = {v.name: i for i, v in enumerate(wanted)}
  entries = catalog.matching(_NAME.value or "*")
  cache = program.cache_dir() if _CACHED.value else None
  rows = [
      (entry, evaluation) for entry in entries
      for evaluation in entry.evaluations
      if entry.variant in order
      and _SOURCE.value in (None, entry.source)
      and _LICENCE.value in (None, entry.licence_name)
      and _IMAGE_SIZE.value in (None, evaluation.image_size)
      and (_MIN_TOP1.value is None or _top1(evaluation) >= _MIN_TOP1.value)
      and (cache is None or catalog.is_cached(entry, cache))]
  if not rows:
    given = " ".join(f"--{f.name}={f.value}" for f in (
        _VARIANT, _NAME, _SOURCE, _LICENCE, _IMAGE_SIZE, _MIN_TOP1)
                     if f.value is not None)
    given += " --cached" if _CACHED.value else ""
    raise errors.HubExportError(
        f"no checkpoint of the catalog matches {given.strip()}. Leave one of "
        "them out; without any, all are listed.")
  return sorted(rows, key=lambda row: (
      order[row[0].variant], -_top1(row[1]), row[1].image_size, row[0].name))


def _top1(evaluation: catalog.Evaluation) -> float:
  """Returns the reported top-1, -1 where there is none."""
  return evaluation.accuracy.top1 if evaluation.accuracy else -1.0


def _shown(rows: Sequence[_Row]) -> str:
  """Returns the rows in the form that was asked for."""
  if _FORMAT.value == "json":
    return json.dumps([_record(e, v) for e, v in rows], indent=2)
  if _FORMAT.value == "csv":
    out = io.StringIO()
    records = [_flat(_record(e, v)) for e, v in rows]
    writer = csv.DictWriter(out, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue().rstrip("\n")
  # A pipe has no width: what reads it gets all columns.
  width = (shutil.get_terminal_size().columns
           if sys.stdout.isatty() or "COLUMNS" in os.environ else None)
  entries = list(dict.fromkeys(entry for entry, _ in rows))
  if _DETAILS.value or len(entries) == 1:
    return "\n\n".join(_details(entry, width or 80) for entry in entries)
  return f"{_table(rows, width)}\n\n{_closing(entries, width or 80)}"


def _table(rows: Sequence[_Row], width: int | None) -> str:
  """Returns a table that is at most `width` characters wide, if it can be."""
  best = {v.name: catalog.best(v) for v in variants.VARIANTS}
  table = []
  for entry, figure in rows:
    accuracy = figure.accuracy
    starred = (entry == best[entry.variant]
               and figure == max(entry.evaluations, key=_top1))
    table.append({
        "name": entry.name + (" *" if starred else ""),
        "variant": entry.variant,
        "top-1": f"{accuracy.top1:.2f}" if accuracy else "-",
        "top-5": (f"{accuracy.top5:.2f}"
                  if accuracy and accuracy.top5 is not None else "-"),
        "pixels": str(figure.image_size),
        "classes": str(entry.num_classes or "none"),
        "licence": entry.licence_name, "hash": _hash_known(entry)})
  columns = list(table[0])
  widths = {c: max(len(c), *(len(row[c]) for row in table)) for c in columns}
  for column in _DISPENSABLE:
    if width and sum(widths[c] + 2 for c in columns) - 2 > width:
      columns.remove(column)
  right = ("top-1", "top-5", "pixels", "classes")
  lines = [{c: c for c in columns}, {c: "-" * widths[c] for c in columns},
           *table]
  return "\n".join(
      "  ".join(line[c].rjust(widths[c]) if c in right else
                line[c].ljust(widths[c]) for c in columns).rstrip()
      for line in lines)


def _hash_known(entry: catalog.Entry) -> str:
  """Returns how much of the file's hash is published."""
  pin = entry.files[0].pin
  if pin is None:
    return "at first use"
  return "full" if len(pin) == 64 else f"{len(pin)} digits"


def _closing(entries: Sequence[catalog.Entry], width: int) -> str:
  """Returns what is to be said below a table."""
  names = list(dict.fromkeys(e.variant for e in entries))
  lines = [f"{len(entries)} checkpoints of {len(names)} "
           f"{'variants' if len(names) > 1 else 'variant'}. Top-1 and top-5: "
           "percent, as reported on ImageNet-1k's validation split."]
  if len(names) > 3:
    lines.append("* best of its variant among those free to use; "
                 "--name=NAME shows all of one.")
  for name in names if len(names) <= 3 else ():
    lines.append(_best_text(variants.by_name(name)))
  restricted = sorted({e.licence_name for e in entries if e.needs_acceptance})
  for licence in restricted:
    lines.append(f"{licence} has to be accepted first: "
                 f"{catalog.RESTRICTED[licence]}.")
  return "\n".join(textwrap.fill(
      line, width, subsequent_indent="  ", break_long_words=False,
      break_on_hyphens=False) for line in lines)


def _best_text(variant: variants.Variant) -> str:
  """Returns a sentence on which checkpoint of a variant is best."""
  text = f"Best {variant.name}: "
  free = catalog.best(variant)
  any_licence = catalog.best(variant, tuple(catalog.RESTRICTED))
  if free:
    text += _best_figure(free)
  if any_licence != free:
    text += (("; " if free else "none that is free to use; ")
             + f"under {any_licence.licence_name}, "
             + _best_figure(any_licence))
  return text + "."


def _best_figure(entry: catalog.Entry) -> str:
  figure = max(entry.evaluations, key=_top1)
  return f"{entry.name} with {_top1(figure):.2f} % at {figure.image_size} px"


def _details(entry: catalog.Entry, width: int) -> str:
  """Returns all that is known of a checkpoint, a line or more per fact."""
  heads = {0: "none: a backbone, of which the feature extractor is exported"}
  facts = [
      ("variant", entry.variant + {
          "": "", "torchvision": ", with the stage widths of torchvision, "
                                 "which differ from the paper's",
          "regnety": ", as the regnety project builds it"}[entry.architecture]),
      ("published by", catalog.SOURCES[entry.source].title),
      ("classes", heads.get(entry.num_classes, str(entry.num_classes))),
      ("trained on", entry.dataset or "images that are not public"),
      ("training", entry.training),
      ("licence", entry.licence)]
  for remote in entry.files:
    facts.append(("file", remote.url))
    facts.append(("SHA-256", remote.sha256 or (
        f"begins with {remote.sha256_prefix}; no more is published"
        if remote.sha256_prefix else
        "not published; that of the first download is recorded and held")))
  if entry.original:
    facts.append(("made from", entry.original))
  for figure in entry.evaluations:
    facts.append((f"at {figure.image_size} px", _figures(figure)))
    facts.append(("", _feeding(figure)))
  if entry.accuracy:
    facts.append(("figures from", entry.accuracy.source))
    facts.append(("tolerance", f"{entry.accuracy.tolerance:g} points: "
                  f"{entry.accuracy.tolerance_reason}"))
  if entry.notes:
    facts.append(("notes", entry.notes))
  cached = catalog.is_cached(entry, program.cache_dir())
  facts.append(("downloaded", "yes" if cached else "not yet"))
  command = (f"{program.command('//hub_export:export')} "
             f"--variant={entry.variant} "
             f"--checkpoint={shlex.quote(entry.name)}")
  if entry.needs_acceptance:
    command += f" --accept_license={entry.licence_name}"
  lines = [entry.name]
  for label, text in facts:
    lines += textwrap.wrap(
        text, max(width, 40), initial_indent=f"  {label:<13} ",
        subsequent_indent=" " * 16, break_long_words=False,
        break_on_hyphens=False)
  # In one piece, to be copied.
  return "\n".join([*lines, "  export it with", f"    {command}"])


def _figures(figure: catalog.Evaluation) -> str:
  """Returns the accuracies reported at one size."""
  accuracy = figure.accuracy
  if accuracy is None:
    return "no figures published"
  parts = [f"top-1 {accuracy.top1:g} %"]
  if accuracy.top5 is not None:
    parts.append(f"top-5 {accuracy.top5:g} %")
  for pair, test in ((figure.real, "with ReaL labels"),
                     (figure.v2, "on ImageNetV2")):
    if pair:
      parts.append(f"{test} {pair[0]:g} and {pair[1]:g} %")
  return "; ".join(parts)


def _feeding(figure: catalog.Evaluation) -> str:
  """Returns how images are made ready at one size."""
  steps = [
      (f"shorter side to {s.size_px}" if s.mode == "shorter" else
       f"squashed to {s.size_px} x {s.size_px}")
      + f" ({s.interpolation}{', antialiased' if s.antialias else ''})"
      + (", through a JPEG" if s.jpeg else "") for s in figure.steps]
  mean, std = (" ".join(f"{x:g}" for x in v)
               for v in (figure.mean, figure.std))
  return (f"{'; '.join(steps)}; centre {figure.image_size}; RGB in [0, 1], "
          f"mean {mean}, std {std}")


def _record(entry: catalog.Entry,
            figure: catalog.Evaluation) -> dict[str, Any]:
  """Returns a row for machines."""
  accuracy = figure.accuracy
  return {
      "name": entry.name, "variant": entry.variant, "source": entry.source,
      "architecture": entry.architecture or None,
      "num_classes": entry.num_classes, "dataset": entry.dataset,
      "image_size": figure.image_size,
      "top1": accuracy.top1 if accuracy else None,
      "top5": accuracy.top5 if accuracy else None,
      "top1_real": figure.real[0] if figure.real else None,
      "top5_real": figure.real[1] if figure.real else None,
      "top1_v2": figure.v2[0] if figure.v2 else None,
      "top5_v2": figure.v2[1] if figure.v2 else None,
      "figures_from": accuracy.source if accuracy else None,
      "tolerance": accuracy.tolerance if accuracy else None,
      "resizes": [dataclasses.asdict(s) for s in figure.steps],
      "mean": list(figure.mean), "std": list(figure.std),
      "licence": entry.licence_name,
      "needs_acceptance": entry.needs_acceptance,
      "urls": [f.url for f in entry.files],
      "sha256": [f.sha256 for f in entry.files],
      "sha256_prefix": [f.sha256_prefix for f in entry.files],
      "original": entry.original, "training": entry.training,
      "notes": entry.notes}


def _flat(record: dict[str, Any]) -> dict[str, Any]:
  """Returns the row with lists as texts, as a CSV file has it."""
  return {key: json.dumps(value) if key == "resizes" else
          " ".join(str(v or "") for v in value).strip()
          if isinstance(value, list) else value
          for key, value in record.items()}


if __name__ == "__main__":
  program.run(main)
