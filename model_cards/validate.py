"""Whether a card is sound: TensorFlow Hub's rules, and where numbers are from.

The rules are those of tensorflow/tfhub.dev's documentation validator. For the
numbers, the card is read as a stranger would read it: text that stands
word for word in manifest or report is taken out, and every number left must
be one of theirs, in one of the formattings of `_plain_forms` and
`_scaled_forms`, or part of one of the phrases in `_NAMES`. In table rows with
a known label, the numbers must be that very row's. Digits behind a letter are
a name ("ResNet50"): free in prose, but in tables and between backticks a name
must be known too. Addresses, arXiv numbers and fenced code are not read.
"""

import html
import pathlib
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib import parse

from hub_export import export_dirs
from model_cards import tags

_PUBLISHER = r"[a-z\d-]+"
_NAME = r"[\w.-]+(?:/[\w.-]+)*"
_FIRST_LINE = re.compile(
    rf"# (?:(?P<kind>Module|Lite|Collection) (?P<handle>{_PUBLISHER}/{_NAME}"
    rf"/\d+)|(?P<publisher>Publisher) {_PUBLISHER})", re.ASCII)
_METADATA = re.compile(r"<!--(?P<key>[\w\s-]+):(?P<value>.+)-->", re.ASCII)
_HUB_URL = re.compile(r"https://tfhub\.dev/[a-z\d-]+/[\w.-]+")
_LINK = re.compile(r"(?<!\\)\]\((?P<target>[^)\s]+)\)")

# Digits that are part of a name or of a fixed phrase, not figures.
_NAMES = re.compile(
    r"top-[15]\b|(?<![\d.,])95 %(?= |$)|\[0, 1\]|\bwidth, 3\]|\bSHA-256\b|"
    r"\bfloat32\b|\bKeras 3\b|\bTF_ENABLE_ONEDNN_OPTS=0|\bsaved_model_2\b|"
    r"arXiv:\d{4}\.\d{4,5}|https?://[^\s)>]+", re.IGNORECASE)
_HEX = re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{16,}\b")
_NUMBER = re.compile(
    r"(?P<name>[A-Za-z]-|[A-Z]=|[A-Za-z_])?"
    r"(?P<sign>(?<![\w)])[-\N{MINUS SIGN}])?"
    r"(?P<digits>\d+(?:[.,]\d+)*(?:e[+-]?\d+)?)"
    r"(?P<unit>\s?(?:million|billion|[MG])(?![A-Za-z]))?")
_INLINE_CODE = re.compile(r"(?<!\\)(`[^`]*`)")
# A number or version, and nothing else.
_BARE = re.compile(r"\d+([.,]\d+)*")
_STATUSES = ("passed", "failed", "not_run")


def problems(card: str, manifest: Mapping[str, Any] | None = None,
             report: Mapping[str, Any] | None = None,
             path: pathlib.Path | None = None) -> list[str]:
  """Returns one message for each fault of a card; none if it is sound.

  Args:
    card: The page, in Markdown: of a module, a Lite model, a collection or a
      publisher, written by hand or rendered.
    manifest: If given, the module whose card it is to be.
    report: The report of that module's checks, if there is one. Without it
      the card may hold no measured number.
    path: Where the page lies. If given, the relative links of a collection or
      module must lead to files.
  """
  try:
    return _problems(card, manifest, report, path)
  except (KeyError, TypeError, AttributeError, ValueError,
          ArithmeticError) as e:
    # A damaged manifest or report; odd text alone never gets here.
    return [f"manifest or report lacks a field or has it in another form "
            f"({type(e).__name__}: {e}); expected schema version 1. Export or "
            "check the module again."]


def file_links(card: str) -> list[str]:
  """Returns the relative links of a page, each once, as they stand there."""
  text, _ = _without_code(card)
  text = _INLINE_CODE.sub(" ", text)
  return list(dict.fromkeys(
      match["target"] for match in _LINK.finditer(text)
      if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:|#", match["target"])))


def _problems(card: str, manifest: Mapping[str, Any] | None,
              report: Mapping[str, Any] | None,
              path: pathlib.Path | None) -> list[str]:
  lines = card.split("\n")
  # The validator of tfhub.dev drops this entity, too.
  first = _FIRST_LINE.fullmatch(lines[0].replace("&zwnj;", ""))
  found = []
  if not first:
    found.append(
        f"line 1 is {lines[0][:80]!r}; expected '# Module "
        "publisher/name/version' (or Lite, or Collection), or '# Publisher "
        "publisher', the publisher in lower-case letters, digits and hyphens")
  metadata, body = _read_head(lines, found)
  if first:
    kind = first["kind"] or first["publisher"]
    found += _tag_problems(kind, metadata)
    if kind == "Collection":
      found += _link_problems(body, path)
    elif kind == "Module":
      found += _file_problems(body, manifest, report, path)
  text, is_closed = _without_code(card)
  if not is_closed:
    found.append("a fenced code block has no end; close it with the fence "
                 "that opened it")
  if manifest is not None:
    found += _manifest_tag_problems(first, metadata, manifest)
    if is_closed:
      facts = _Facts(manifest, report)
      found += _number_problems(text, facts)
      found += _missing_problems(text, facts, manifest, report)
  return found


# ----- TensorFlow Hub's rules


def _read_head(lines: Sequence[str],
               found: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
  """Returns the metadata (key, value) and the lines from the first heading."""
  index = 2 if len(lines) > 1 and not lines[1].strip() else 1
  start = index
  while (index < len(lines) and lines[index].strip()
         and not lines[index].startswith(("<!--", "#"))):
    index += 1
  if index == start:
    found.append("no description; expected one paragraph below line 1")
  metadata = []
  while index < len(lines) and not lines[index].startswith("#"):
    line = lines[index].rstrip("\r")
    match = _METADATA.fullmatch(line)
    if match:
      metadata.append((match["key"].strip(), match["value"].strip()))
    elif line.strip() and not line.startswith("[![Icon URL]]"):
      found.append(
          f"line {index + 1} is {line[:80]!r}; expected only metadata "
          "('<!-- key: value -->', one a line) between the description and "
          "the first heading. Move it below a heading.")
    index += 1
  body = list(lines[index:])
  late, _ = _without_code("\n".join(body))
  for line in late.split("\n"):
    match = _METADATA.fullmatch(line.rstrip("\r"))
    if match:
      found.append(f"metadata {match['key'].strip()!r} comes after a heading; "
                   "expected it before the first one")
  return metadata, body


def _tag_problems(kind: str, metadata: Sequence[tuple[str, str]]) -> list[str]:
  found = []
  keys = [key for key, _ in metadata]
  known = tags.REQUIRED[kind] + tags.OPTIONAL[kind]
  for key in tags.REQUIRED[kind]:
    if key not in keys:
      found.append(f"no {key} tag; expected '<!-- {key}: ... -->' on a page "
                   f"of kind {kind}")
  for key in dict.fromkeys(keys):
    if key not in known:
      found.append(f"tag {key!r} is unknown on a page of kind {kind}; expected "
                   f"one of {', '.join(known) or 'none at all'}. Remove it.")
    elif keys.count(key) > 1 and key not in tags.REPEATABLE:
      found.append(f"tag {key!r} stands {keys.count(key)} times, expected 1; "
                   f"only {', '.join(tags.REPEATABLE)} may repeat")
  for key, value in metadata:
    if key in tags.ALLOWED and value not in tags.ALLOWED[key]:
      found.append(f"{key} is {value[:80]!r}; expected one of "
                   f"{', '.join(tags.ALLOWED[key])}")
    elif key == "asset-path":
      found += _asset_path_problems(value, tags.ASSET_SUFFIXES.get(kind, ""))
    elif key == "parent-model" and not re.fullmatch(
        rf"{_PUBLISHER}/{_NAME}", value, re.ASCII):
      found.append(f"parent-model is {value[:80]!r}; expected the handle of "
                   "the module that it was converted from")
    elif key == "language" and not re.fullmatch(r"[a-z]{2,3}(-\w+)?|other|"
                                                "multilingual", value):
      found.append(f"language is {value[:80]!r}; expected a code such as en")
    elif key == "colab" and not value.startswith(
        "https://colab.research.google.com/"):
      found.append(f"colab is {value[:80]!r}; expected an address on "
                   "https://colab.research.google.com/")
  return found


def _asset_path_problems(value: str, suffix: str) -> list[str]:
  found = []
  if not value.endswith(suffix):
    found.append(f"asset-path is {value[:80]!r}; expected it to end in "
                 f"{suffix}")
  if re.match(r"https?://(www\.)?github\.com/", value):
    found.append(f"asset-path is {value[:80]!r}; expected a host that lets "
                 "crawlers download, which github.com does not")
  # Relative: the archive below the root that the module is published to.
  relative = re.fullmatch(rf"{_PUBLISHER}/{_NAME}", value, re.ASCII)
  if not re.match(r"https://[\w.-]+/\S+$", value) and (
      not relative or ".." in value.split("/")):
    found.append(f"asset-path is {value[:80]!r}; expected an https:// address "
                 "or the archive's path below the root that it is published "
                 f"to, publisher/name/version{suffix}")
  return found


def _link_problems(body: Sequence[str],
                   path: pathlib.Path | None) -> list[str]:
  """Returns what is wrong with a collection's links to its models."""
  text, _ = _without_code("\n".join(body))
  pages = [match["target"] for match in _LINK.finditer(text)
           if match["target"].endswith(".md")
           and not re.match(r"[a-z]+:", match["target"])]
  if not pages and not _HUB_URL.search(text):
    return ["a collection without a link to a model; expected at least one, "
            "such as [publisher/name/1](../../name/1.md)"]
  if path is None:
    return []
  return [f"the link to {page!r} leads nowhere; expected a page at "
          f"{path.parent / page}" for page in dict.fromkeys(pages)
          if not (path.parent / page).is_file()]


def _file_problems(body: Sequence[str], manifest: Mapping[str, Any] | None,
                   report: Mapping[str, Any] | None,
                   path: pathlib.Path | None) -> list[str]:
  """Returns what is wrong with a module's links to files beside its card."""
  links = file_links("\n".join(body))
  found = []
  if manifest is not None:
    known = _evaluation_links(manifest, report)
    found += [f"the link to {link!r} leads to a file that is not published "
              f"with the module; expected {' or '.join(known) or 'none'}"
              for link in links if link not in known]
  if path is not None:
    # A picture is shown by the very name that a link would quote.
    found += [f"the link to {link!r} leads nowhere; expected a file "
              f"{path.parent / parse.unquote(link)}" for link in links
              if not (path.parent / parse.unquote(link)).is_file()]
  return found


def _evaluation_links(m: Mapping[str, Any],
                      r: Mapping[str, Any] | None) -> tuple[str, ...]:
  """Returns the links to the pictures and page of the report's evaluation."""
  if not r or not r["dataset"]:
    return ()
  return export_dirs.evaluation_links(
      m["handle"].rpartition("/")[2], r["dataset"]["name"],
      r["dataset"]["split"])


def _without_code(card: str) -> tuple[str, bool]:
  """Returns the card without fenced code, and whether every fence closes."""
  kept, fence = [], ""
  for line in card.split("\n"):
    mark = re.match(r" {0,3}(`{3,}|~{3,})(.*)$", line)
    if fence:
      if mark and mark[1].startswith(fence) and not mark[2].strip():
        fence = ""
    elif mark and not (mark[1][0] == "`" and "`" in mark[2]):
      fence = mark[1]
    else:
      kept.append(line)
  return "\n".join(kept), not fence


def _manifest_tag_problems(first: re.Match[str] | None,
                           metadata: Sequence[tuple[str, str]],
                           manifest: Mapping[str, Any]) -> list[str]:
  handle = manifest["handle"]
  if not first or not first["handle"]:
    return [] if not first else ["the card is no card of a module; expected "
                                 f"'# Module {handle}'"]
  if first["kind"] == "Lite":
    expected = {}  # Its handle and archive are its own.
  else:
    licence = str(manifest["licence"]["id"]).lower()
    dataset = manifest["dataset"]["tfhub_tag"]
    expected = {
        "format": ["saved_model_2"],
        "fine-tunable": ["true"],
        "task": [{"classifier": "image-classification",
                  "feature_extractor": "image-feature-vector"}[
                      manifest["kind"]]],
        "network-architecture": [manifest["card"]["architecture"]],
        "dataset": [dataset] if dataset else [],
        "license": [licence if licence in tags.LICENCES else "custom"],
    }
  found = []
  if first["kind"] == "Collection" or (
      expected and first["handle"] != handle):
    found.append(f"the handle is {first['handle']!r}; the manifest says "
                 f"{handle!r}")
  for key, values in expected.items():
    seen = [value for k, value in metadata if k == key]
    if seen != values:
      found.append(f"{key} is {', '.join(seen) or 'not given'}; the manifest "
                   f"says {', '.join(values) or 'none'}")
  for key, value in metadata:
    if (key == "asset-path" and expected
        and not f"/{value}".endswith(f"/{handle}.tar.gz")):
      found.append(f"asset-path is {value[:80]!r}; the manifest says "
                   f"{handle}.tar.gz")
  return found


# ----- Numbers


class _Facts:
  """What manifest and report say, in the forms that a card may show."""

  def __init__(self, manifest: Mapping[str, Any],
               report: Mapping[str, Any] | None):
    leaves = [*_leaves(manifest), *_leaves(_without_lists(report or {}))]
    # Cards escape their text, but not between backticks.
    words = {form for v in (*leaves, *_leaves((report or {}).get("metrics")),
                            *_evaluation_links(manifest, report))
             if isinstance(v, str) for form in (_squeeze(v), _visible(v))}
    self.hex_words = {w for word in words for w in _HEX.findall(word)}
    # Longest first, so that no part is taken out of a longer one.
    literals = sorted({w for w in words if re.search(r"\d", w)
                       and not _BARE.fullmatch(w)}, key=lambda w: -len(w))
    self._literals = re.compile("|".join(
        rf"(?<![\w.-]){re.escape(w)}(?![\w-]|[.,]\d)" for w in literals)
        or r"(?!)")
    self.plain, self.scaled = set(), set()
    for value in leaves:
      if isinstance(value, str):
        # "2.21.0": a version is a number to a reader.
        self.plain |= {_normal(value)} if _BARE.fullmatch(value) else set()
      elif not isinstance(value, bool) and value is not None:
        self.plain |= _plain_forms(value)
        self.scaled |= _scaled_forms(value)
    self.rows = _rows(manifest, report)
    self._found: dict[str, list[tuple[str, bool]]] = {}

  def numbers(self, line: str) -> list[tuple[str, bool]]:
    """Returns each number that no name explains, and whether it is known.

    What stands word for word in manifest or report is left out.

    Args:
      line: A line of Markdown, or a cell of a table.
    """
    if line not in self._found:
      is_row = bool(_cells(line))
      self._found[line] = [
          number for i, part in enumerate(
              [line] if is_row else _INLINE_CODE.split(line))
          for number in self._numbers(part, is_strict=is_row or i % 2 == 1)]
    return self._found[line]

  def _numbers(self, text: str, is_strict: bool) -> Iterator[tuple[str, bool]]:
    rest = self._literals.sub(" ", _squeeze(text))
    rest = _NAMES.sub(" ", rest)
    for match in _HEX.finditer(rest):
      yield match[0], any(word.startswith(match[0])
                          for word in self.hex_words)
    for match in _NUMBER.finditer(_HEX.sub(" ", rest)):
      name, unit = match["name"] or "", match["unit"]
      if re.fullmatch(r"[A-Za-z_]", name) and not (
          name in "xX" and re.search(r"\d\s?$", rest[:match.start()])):
        # A name: "stage1", "ResNet50"; but 224x224 is two figures.
        if is_strict:
          yield match[0], False
        continue
      if name.endswith(("-", "=")):
        yield match[0], False  # "ImageNet-2k": a name that nobody gave.
        continue
      sign = "-" if match["sign"] else ""
      digits = sign + _normal(match["digits"])
      if unit:
        yield match[0], f"{digits} {_UNITS[unit.strip()]}" in self.scaled
      else:
        yield digits, digits in self.plain


_UNITS = {"million": "M", "M": "M", "billion": "G", "G": "G"}


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
  """Returns a report without what is said of single classes and bins.

  There are so many numbers that nearly any would be one of theirs; they may
  stand in their own rows only.
  """
  metrics = report.get("metrics") or {}
  kept = {k: v for k, v in metrics.items()
          if k not in ("reliability", "confusions")}
  if "classes" in kept:
    kept["classes"] = {k: v for k, v in kept["classes"].items()
                       if k not in ("worst", "best")}
  return {**report, "metrics": kept}


def _squeeze(text: str) -> str:
  """Returns Markdown as it reads: no escapes, entities and line breaks."""
  return _visible(re.sub(r"\\([!-/:-@\[-`{-~])", r"\1",
                         html.unescape(text)))


def _visible(text: str) -> str:
  """Returns `text` on one line, without invisible characters.

  Backticks become quotes, as they must between backticks.
  """
  text = " ".join(text.split()).replace("`", "'")
  return "".join(c for c in text if unicodedata.category(c) not in
                 ("Cc", "Cf", "Co", "Cs"))


def _normal(digits: str) -> str:
  """Returns a number without separators of thousands and closing zeros."""
  if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", digits):
    digits = digits.replace(",", "")
  if re.fullmatch(r"\d+\.\d+", digits):
    digits = digits.rstrip("0").rstrip(".")
  return digits


def _plain_forms(value: int | float) -> set[str]:
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
  return {("-" if float(f) < 0 else "") + _normal(f.lstrip("-"))
          for f in forms}


def _scaled_forms(value: int | float) -> set[str]:
  """Returns a big count in millions and billions, one or two decimals."""
  return {f"{_normal(f'{value / scale:.{decimals}f}')} {unit}"
          for scale, unit in ((1e6, "M"), (1e9, "G"))
          if abs(value) >= scale / 10 for decimals in (1, 2)}


def _number_problems(text: str, facts: _Facts) -> list[str]:
  found = []
  for line in text.split("\n"):
    cells = _cells(line)
    allowed = facts.rows.get(cells[0].lower()) if len(cells) > 1 else None
    if allowed is not None:
      seen = [number for number, _ in facts.numbers(
          "| " + " | ".join(cells[1:]))]
      if not any(_same(seen, values) for values in allowed):
        found.append(
            f"row {cells[0]!r} says {', '.join(seen) or 'no number'}; manifest "
            f"and report say {_spoken(allowed)}")
      continue
    for number, is_known in facts.numbers(line):
      if not is_known:
        found.append(f"{number!r} in {_squeeze(line)[:80]!r} is no value of "
                     "manifest or report; expected every number to be one of "
                     "theirs. Correct or remove it.")
  return found


def _same(seen: Sequence[str], values: Sequence[Any]) -> bool:
  expected = [form for value in values for form in _row_forms(value)]
  return len(seen) == len(expected) and all(
      number in forms for number, forms in zip(seen, expected))


def _row_forms(value: Any) -> list[set[str]]:
  """Returns, per number that a value shows in a row, its allowed forms."""
  if isinstance(value, bool) or value is None:
    return []
  if isinstance(value, str):
    # Other words are taken out before numbers are looked for.
    return [{_normal(value)}] if _BARE.fullmatch(value) else []
  if isinstance(value, Mapping):
    return [f for k, v in value.items() for f in
            (*_row_forms(str(k).replace("_", " ")), *_row_forms(v))]
  if isinstance(value, (list, tuple)):
    return [f for v in value for f in _row_forms(v)]
  return [_plain_forms(value)]


def _spoken(allowed: Sequence[Sequence[Any]]) -> str:
  return " or ".join(", ".join(f"{v:,}" if isinstance(v, int) else str(v)
                               for v in values) or "none"
                     for values in allowed)


def _cells(line: str) -> list[str]:
  """Returns the cells of a table's row, none for any other line."""
  line = line.strip()
  if not line.startswith("|"):
    return []
  return [_squeeze(cell) for cell in
          re.split(r"(?<!\\)\|", line.removesuffix("|")[1:])]


def _rows(m: Mapping[str, Any],
          r: Mapping[str, Any] | None) -> dict[str, list[Sequence[Any]]]:
  """Returns the values that rows must show, by lower-case label.

  A label that several tables use has several possible sequences of values.
  """
  rows: dict[str, list[Sequence[Any]]] = {}

  def add(label: str, *values: Any) -> None:
    rows.setdefault(_squeeze(label).lower(), []).append(values)

  size_px = m["multiply_adds"]["image_size_px"]
  add("Parameters, trainable", m["parameters"]["trainable"])
  add("Parameters, total", m["parameters"]["total"])
  add("Multiply-adds", m["multiply_adds"]["count"], size_px, size_px)
  # "[0, 1]" is a phrase; any other range is two figures.
  if [float(bound) for bound in m["inputs"]["range"]] != [0.0, 1.0]:
    add("Input", *m["inputs"]["range"])
  else:
    add("Input")
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
  for name, title in _TITLES.items():
    metric = metrics.get(name)
    if metric is not None:
      add(f"{title}, measured", metric["value"], metric["low"],
          metric["high"], metric["correct"], metric["total"])
  if "reliability" in metrics:
    _figure_rows(metrics, add)


def _figure_rows(metrics: Mapping[str, Any], add: Any) -> None:
  classes = metrics["classes"]
  add("Mean top-1 of classes", classes["mean_top1"], classes["count"])
  add("Negative log-likelihood", metrics["nll"])
  add("Expected calibration error", metrics["ece"],
      len(metrics["reliability"]))
  add("Mean confidence", metrics["mean_confidence"])
  for c in classes["worst"]:
    add(_escaped(c["name"]), c["correct"], c["total"])
  for c in metrics["confusions"]:
    add(_escaped(c["label_name"]), c["predicted_name"], c["count"])


def _escaped(name: str) -> str:
  """Returns a name so that `_squeeze` gives it back."""
  return html.escape(name.replace("\\", "\\\\"))


_TITLES = {"top1": "Top-1", "top5": "Top-5"}


# ----- What must be there


def _missing_problems(text: str, facts: _Facts, m: Mapping[str, Any],
                      r: Mapping[str, Any] | None) -> list[str]:
  lines = [(line, {number for number, _ in facts.numbers(line)})
           for line in text.split("\n")]
  found = []

  def require(what: str, pattern: str, *values: int | float) -> None:
    if not any(re.search(pattern, line, re.IGNORECASE) and all(
        numbers & (_plain_forms(v) | _shown(_scaled_forms(v), line))
        for v in values) for line, numbers in lines):
      found.append(f"{what} ({_spoken([values])}) not on the card; expected a "
                   "line that names it with its figures")

  require("parameters", r"\bparameters\b", m["parameters"]["trainable"])
  require("multiply-adds", r"multiply-adds|\bMACs\b|\bFLOPs\b",
          m["multiply_adds"]["count"])
  metrics = (r or {}).get("metrics") or {}
  for name, title in _TITLES.items():
    metric = metrics.get(name)
    if metric is not None:
      require(f"measured {title.lower()}",
              rf"{title}\b(?!.*\breported\b)", metric["value"],
              metric["low"], metric["high"], metric["correct"],
              metric["total"])
  if "reliability" in metrics:
    require("negative log-likelihood", r"log-likelihood|\bNLL\b",
            metrics["nll"])
    require("expected calibration error", r"calibration error|\bECE\b",
            metrics["ece"])
  if m["reported_accuracy"]:
    require("reported top-1", r"top-1\b.*\breported\b|\breported\b.*top-1\b",
            m["reported_accuracy"]["top1"])
  if not metrics:
    found += [f"{_squeeze(line)[:80]!r} gives an accuracy, but nothing was "
              "measured; mark it as reported or remove it"
              for line, numbers in lines if numbers
              and re.search(r"top-[15]\b", line, re.IGNORECASE)
              and not re.search(r"\breported\b", line)]
  whole = _squeeze(text)
  for check in (r or {}).get("checks", ()):
    name = f"{check['group']}/{check['name']}"
    if check["status"] != "passed" and _squeeze(name) not in whole:
      found.append(f"check {name} is {check['status'].replace('_', ' ')} and "
                   "not on the card; expected it to be named")
  if m["is_demo"] and not re.search(r"\bdemo\b.*\bnot for use\b", whole,
                                    re.IGNORECASE):
    found.append("the module is a demo and the card does not say so; expected "
                 "'a demo' and 'not for use'")
  return found


def _shown(scaled: set[str], line: str) -> set[str]:
  """Returns the spellings in `line` of a count in millions or billions."""
  return {match[0] for match in _NUMBER.finditer(_squeeze(line))
          if match["unit"] and f"{_normal(match['digits'])} "
          f"{_UNITS[match['unit'].strip()]}" in scaled}
