"""What manifest and report say, in the forms in which a card may show it.

The card is read as a stranger would read it: text that stands word for word in
manifest or report is taken out, and every number left must be one of theirs,
in one of the formattings of `plain_forms` and `scaled_forms`, or part of one of
the phrases in `_NAMES`. In table rows with a known label, the numbers must be
that very row's. Digits behind a letter are a name ("ResNet50"): free in prose,
but in tables and between backticks a name must be known too.
"""

from __future__ import annotations

import functools
import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from checks import report as report_lib
from hub_export import export_dirs
from model_cards import page

# Digits that are part of a name or of a fixed phrase, not figures.
_NAMES = re.compile(
    r"top-[15]\b|(?<![\d.,])95 %(?= (?:Wilson|confidence|interval))|\[0, 1\]|\bwidth, 3\]|\bSHA-256\b|"
    r"\bfloat32\b|\bu?int8\b|\bKeras 3\b|\bTF_ENABLE_ONEDNN_OPTS=0|\bsaved_model_2\b|"
    r"arXiv:\d{4}\.\d{4,5}|https?://[^\s)>]+", re.IGNORECASE)
_HEX = re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{16,}\b")
_NUMBER = re.compile(
    r"(?P<name>[A-Za-z]-|[A-Z]=|[A-Za-z_])?"
    r"(?P<sign>(?<![\w)])[-\N{MINUS SIGN}])?"
    r"(?P<digits>\d+(?:[.,]\d+)*(?:e[+-]?\d+)?)"
    r"(?P<unit>\s?(?:million|billion|[MG])(?![A-Za-z]))?")
# Behind a number that is a figure, and no part of a name.
_UNIT = re.compile(r"\s?(?:%|percent\b|ms\b)")
# A number or version, and nothing else.
_BARE = re.compile(r"\d+([.,]\d+)*")
_STATUSES = (report_lib.PASSED, report_lib.FAILED, report_lib.NOT_RUN)
UNITS = {"million": "M", "M": "M", "billion": "G", "G": "G"}
TITLES = {"top1": "Top-1", "top5": "Top-5"}


def of(manifest: Mapping[str, Any], report: Mapping[str, Any] | None
       ) -> Facts:
  """Returns the facts of a manifest and a report, those just asked for again.

  Raises:
    KeyError, TypeError, ValueError, AttributeError: if a field is missing or
      of another form.
  """
  return _of(json.dumps(manifest), json.dumps(report))


@functools.lru_cache(maxsize=8)
def _of(manifest: str, report: str) -> Facts:
  return Facts(json.loads(manifest), json.loads(report))


class Facts:
  """What manifest and report say, in the forms that a card may show."""

  def __init__(self, manifest: Mapping[str, Any],
               report: Mapping[str, Any] | None):
    leaves = [*_leaves(manifest), *_leaves(_without_lists(report or {}))]
    # Cards escape their text, but not between backticks.
    words = {form for v in (*leaves, *_leaves((report or {}).get("metrics")),
                            *_leaves((report or {}).get("previous")),
                            *evaluation_links(manifest, report))
             if isinstance(v, str)
             for form in (page.squeeze(v), page.visible(v))}
    self.hex_words = {w for word in words for w in _HEX.findall(word)}
    # Longest first, so that no part is taken out of a longer one.
    literals = sorted({w for w in words if re.search(r"\d", w)
                       and not _BARE.fullmatch(w)}, key=lambda w: -len(w))
    self._literals = re.compile("|".join(
        rf"(?<![\w.-]){re.escape(w)}(?![\w-]|[.,]\d)" for w in literals)
        or r"(?!)")
    self._characters = {c for word in words for c in word}
    self.plain, self.scaled = set(), set()
    for value in leaves:
      if isinstance(value, str):
        # "2.21.0": a version is a number to a reader.
        self.plain |= {normal(value)} if _BARE.fullmatch(value) else set()
      elif not isinstance(value, bool) and value is not None:
        self.plain |= plain_forms(value)
        self.scaled |= scaled_forms(value)
    self.rows = _rows(manifest, report)
    self.words = _words(manifest, report)
    self.phrases = _phrases(manifest, report)
    self.shapes = {*manifest["outputs"].get("endpoints", {}).values(),
                   *(v for k, v in manifest["outputs"].items()
                     if k != "endpoints")}
    self._found: dict[str, list[tuple[str, bool]]] = {}

  def numbers(self, line: str) -> list[tuple[str, bool]]:
    """Returns each number that no name explains, and whether it is known.

    What stands word for word in manifest or report is left out.

    Args:
      line: A line of Markdown, or a cell of a table.
    """
    if line not in self._found:
      is_row = bool(page.cells(line))
      self._found[line] = [
          number for i, part in enumerate(
              [line] if is_row else page.INLINE_CODE.split(line))
          for number in self._numbers(part, is_strict=is_row or i % 2 == 1)]
    return self._found[line]

  def without_names(self, line: str) -> str:
    """Returns a line as it reads, without what manifest or report say so."""
    return _NAMES.sub(lambda match: match[0] if match[0].lower().startswith(
        "top-") else " ", self._literals.sub(" ", page.squeeze(line)))

  def _numbers(self, text: str, is_strict: bool) -> Iterator[tuple[str, bool]]:
    rest = self._literals.sub(" ", page.squeeze(text))
    rest = _NAMES.sub(" ", rest)
    for c in rest:
      # Superscript, Roman or circled; what a name has is not looked at.
      if c.isnumeric() and not c.isascii() and c not in self._characters:
        yield c, False
    for match in _HEX.finditer(rest):
      yield match[0], any(word.startswith(match[0])
                          for word in self.hex_words)
    for match in _NUMBER.finditer(_HEX.sub(" ", rest)):
      name, unit = match["name"] or "", match["unit"]
      if re.fullmatch(r"[A-Za-z_]", name) and not (
          name in "xX" and re.search(r"\d\s?$", rest[:match.start()])):
        # A name: "stage1", "ResNet50"; but 224x224 is two figures.
        if is_strict or _UNIT.match(rest[match.end():]):
          yield match[0], False
        continue
      if name.endswith(("-", "=")):
        yield match[0], False  # "ImageNet-2k": a name that nobody gave.
        continue
      sign = "-" if match["sign"] else ""
      digits = sign + normal(match["digits"])
      if unit:
        yield match[0], f"{digits} {UNITS[unit.strip()]}" in self.scaled
      else:
        yield digits, digits in self.plain


def evaluation_links(m: Mapping[str, Any],
                     r: Mapping[str, Any] | None) -> tuple[str, ...]:
  """Returns the links to the pictures and page of the report's evaluation."""
  if not r or not r["dataset"]:
    return ()
  return export_dirs.evaluation_links(
      m["handle"].rpartition("/")[2], r["dataset"]["name"],
      r["dataset"]["split"])


def normal(digits: str) -> str:
  """Returns a number without separators of thousands and closing zeros."""
  if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", digits):
    digits = digits.replace(",", "")
  if re.fullmatch(r"\d+\.\d+", digits):
    digits = digits.rstrip("0").rstrip(".")
  return digits


def plain_forms(value: int | float) -> set[str]:
  """Returns a number exactly, and rounded to one to four decimals."""
  forms = {repr(value)}
  if isinstance(value, float):
    forms |= {f"{value:.{decimals}f}" for decimals in range(1, 5)}
    if value.is_integer():
      forms.add(str(int(value)))
    elif 0 < abs(value) < 0.1:
      # "0.0" says nothing of 0.04. Two decimals are what metrics have, and
      # the bound of an interval may well be 0.00.
      forms = {f for f in forms if float(f)} | {f"{value:.2f}"}
  return {("-" if float(f) < 0 else "") + normal(f.lstrip("-"))
          for f in forms}


def scaled_forms(value: int | float) -> set[str]:
  """Returns a big count in millions and billions, one or two decimals."""
  return {f"{normal(f'{value / scale:.{decimals}f}')} {unit}"
          for scale, unit in ((1e6, "M"), (1e9, "G"))
          if abs(value) >= scale / 10 for decimals in (1, 2)}


def row_forms(value: Any) -> list[set[str]]:
  """Returns, per number that a value shows in a row, its allowed forms."""
  if isinstance(value, bool) or value is None:
    return []
  if isinstance(value, str):
    # Other words are taken out before numbers are looked for.
    return [{normal(value)}] if _BARE.fullmatch(value) else []
  if isinstance(value, Mapping):
    return [f for k, v in value.items() for f in
            (*row_forms(str(k).replace("_", " ")), *row_forms(v))]
  if isinstance(value, (list, tuple)):
    return [f for v in value for f in row_forms(v)]
  return [plain_forms(value)]


def shown(scaled: set[str], line: str) -> set[str]:
  """Returns the spellings in `line` of a count in millions or billions."""
  return {match[0] for match in _NUMBER.finditer(page.squeeze(line))
          if match["unit"] and f"{normal(match['digits'])} "
          f"{UNITS[match['unit'].strip()]}" in scaled}


def _leaves(value: object) -> Iterator[object]:
  """Yields every value and every key of a JSON document."""
  if isinstance(value, Mapping):
    for key, inner in value.items():
      yield key
      yield str(key).replace("_", " ")
      yield from _leaves(inner)
  elif isinstance(value, (list, tuple)):
    for inner in value:
      yield from _leaves(inner)
  else:
    yield value


def _without_lists(report: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a report without what is said of classes, bins and the past.

  There are so many numbers that nearly any would be one of theirs; they may
  stand in their own rows only.
  """
  metrics = report.get("metrics") or {}
  kept = {k: v for k, v in metrics.items()
          if k not in ("reliability", "confusions")}
  if "classes" in kept:
    kept["classes"] = {k: v for k, v in kept["classes"].items()
                       if k not in ("worst", "best")}
  return {k: v for k, v in report.items() if k != "previous"} | {
      "metrics": kept}


def lone_file(m: Mapping[str, Any]) -> Mapping[str, Any] | None:
  """Returns "bytes" and "sha256" of the file that a module consists of.

  None if it has several, or if nothing is known of them.
  """
  files = m.get("files") or [f for f in [m.get("lite")] if f and "sha256" in f]
  return files[0] if len(files) == 1 else None


def _rows(m: Mapping[str, Any],
          r: Mapping[str, Any] | None) -> dict[str, list[Sequence[Any]]]:
  """Returns the values that rows must show, by lower-case label.

  A label that several tables use has several possible sequences of values.
  """
  rows: dict[str, list[Sequence[Any]]] = {}

  def add(label: str, *values: Any) -> None:
    rows.setdefault(page.squeeze(label).lower(), []).append(values)

  size_px = m["multiply_adds"]["image_size_px"]
  add("Parameters, trainable", m["parameters"]["trainable"])
  add("Parameters, total", m["parameters"]["total"])
  add("Multiply-adds", m["multiply_adds"]["count"], size_px, size_px)
  if m.get("loss"):
    add("Outputs may differ by", m["loss"]["outputs"])
    add("Accuracy may be less by", m["loss"]["top1_points"])
  # "[0, 1]" is a phrase; any other range is two figures.
  if [float(bound) for bound in m["inputs"]["range"]] != [0.0, 1.0]:
    add("Input", *m["inputs"]["range"])
  else:
    add("Input")
  file = lone_file(m)
  if file:
    add("File, bytes", file["bytes"])
  # A conversion by hand tells of none.
  if m.get("lite") and m["lite"].get("calibration"):
    add("Calibration, images", m["lite"]["calibration"]["examples"])
  for dtype, off in report_lib.mixed_precision(r).items():
    add(f"Outputs in {dtype} differ by", *([off] if off >= 0 else []))
  add("Smallest image", *[m["inputs"]["min_size_px"]] * 2)
  outputs = m["outputs"]
  add("Output", outputs.get("num_classes", outputs.get("feature_dim")))
  for name, channels in outputs.get("endpoints", {}).items():
    add(f"Endpoint {name}", channels)
  if m["labels"]:
    add("Labels", m["labels"]["count"])
  reported = m["reported_accuracy"]
  if reported:
    add("Top-1, reported", reported["top1"])
    if reported.get("top5") is not None:
      add("Top-5, reported", reported["top5"])
    add("Tolerance", reported["tolerance"])
  for file in m["checkpoint"]["files"]:
    add(f"`{file['name']}`", file["bytes"])
  for record in (m["preprocessing"], m["software"],
                 r["environment"] if r else {}):
    for key, value in record.items():
      add(key.replace("_", " "), value)
  if r:
    _report_rows(r, add)
  return rows


def _report_rows(r: Mapping[str, Any], add: Any) -> None:
  for group in dict.fromkeys(check["group"] for check in r["checks"]):
    found = [c["status"] for c in r["checks"] if c["group"] == group]
    add(group, *(found.count(status) for status in _STATUSES))
  if r["dataset"]:
    add("Examples", r["dataset"]["num_examples"])
  metrics = r["metrics"] or {}
  for name, title in TITLES.items():
    metric = metrics.get(name)
    if metric is not None:
      add(f"{title}, measured", metric["value"], metric["low"],
          metric["high"], metric["correct"], metric["total"])
  if "reliability" in metrics:
    _figure_rows(metrics, add)
  # Reports of earlier versions have none of these.
  latency = r.get("latency")
  if latency:
    add("Latency of one image", latency["median_ms"], latency["low_ms"],
        latency["high_ms"], latency["calls"], *[latency["image_size_px"]] * 2)
  if r.get("archive"):
    add("Archive, bytes", r["archive"]["bytes"])
  for change in (r.get("previous") or {}).get("changes", ()):
    add(change["field"].replace("_", " "), change["before"], change["after"])


def _figure_rows(metrics: Mapping[str, Any], add: Any) -> None:
  classes = metrics["classes"]
  add("Mean top-1 of classes", classes["mean_top1"], classes["count"])
  add("Negative log-likelihood", metrics["nll"])
  add("Expected calibration error", metrics["ece"],
      len(metrics["reliability"]))
  add("Mean confidence", metrics["mean_confidence"])
  for c in (*classes["worst"], *classes["best"]):
    low, high = report_lib.wilson(c["correct"], c["total"])
    add(_escaped(c["name"]), c["correct"], c["total"], 100 * low, 100 * high)
  for c in metrics["confusions"]:
    add(_escaped(c["label_name"]), c["predicted_name"], c["count"])


def _escaped(name: str) -> str:
  """Returns a name so that `page.squeeze` gives it back."""
  return html.escape(name.replace("\\", "\\\\"))


def _words(m: Mapping[str, Any],
           r: Mapping[str, Any] | None) -> dict[str, list[set[str]]]:
  """Returns the words that rows must show, by lower-case label.

  As in `_rows`, a label may have several possible sets.
  """
  words: dict[str, list[set[str]]] = {}

  def add(label: str, *expected: object) -> None:
    words.setdefault(page.squeeze(label).lower(), []).append(
        {page.visible(str(word)) for word in expected})

  add("Handle", m["handle"])
  add("Variant", m["variant"])
  add("Checkpoint", m["checkpoint"]["location"])
  add("Weights, SHA-256", m["weights"]["sha256"])
  add("Backbone, SHA-256", m["weights"]["backbone_sha256"])
  if m["labels"]:
    add("Labels, SHA-256", m["labels"]["sha256"])
  file = lone_file(m)
  if file:
    add("File, SHA-256", file["sha256"])
  if m["companion"]:
    add("Companion", m["companion"])
  for file in m["checkpoint"]["files"]:
    add(f"`{file['name']}`", file["sha256"])
  if r:
    add("Export, SHA-256", r["export_sha256"])
    if r.get("archive"):
      add("Archive, SHA-256", r["archive"]["sha256"])
    if r["dataset"]:
      add("Data set", r["dataset"]["name"], r["dataset"]["version"])
      add("Split", r["dataset"]["split"])
      add("Digest", r["dataset"]["digest"])
  return words


def _phrases(m: Mapping[str, Any], r: Mapping[str, Any] | None
             ) -> dict[str, set[str]]:
  """Returns what may follow a figure's name in prose, by a pattern for it."""
  metrics = (r or {}).get("metrics") or {}
  reported = m["reported_accuracy"] or {}
  values: dict[str, list[Any]] = {
      r"\bparameters": [*m["parameters"].values()],
      r"\b(?:multiply-adds|MACs|FLOPs)": [m["multiply_adds"]["count"]],
      r"\b(?:log-likelihood|NLL)": [metrics.get("nll")],
      r"\b(?:calibration error|ECE)": [metrics.get("ece")],
      r"\bmean confidence": [metrics.get("mean_confidence")]}
  for name, title in TITLES.items():
    found = metrics.get(name) or {}
    values[rf"\b{title}"] = [
        reported.get(name), *(found.get(key) for key in
                              ("value", "low", "high", "correct"))]
  if "classes" in metrics:
    values[r"\bTop-1"].append(metrics["classes"]["mean_top1"])
  values[r"(?<!-1 )(?<!-5 )\baccuracy"] = (
      values[r"\bTop-1"] + values[r"\bTop-5"] + [reported.get("tolerance")])
  latency = (r or {}).get("latency") or {}
  values[r"\blatency"] = [latency.get(key) for key in (
      "median_ms", "low_ms", "high_ms", "calls", "image_size_px")]
  # Nothing of these is ever measured here.
  values[r"\b(?:recall|precision|F1|AUC|mAP)\b"] = []
  return {pattern: {form for value in found if value is not None
                    for form in plain_forms(value) | scaled_forms(value)}
          for pattern, found in values.items()}
