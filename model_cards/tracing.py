"""Whether every number of a card is one of the manifest's or the report's.

Addresses and arXiv numbers are not read. Of fenced code, the handles and the
shapes are.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from model_cards import facts as facts_lib
from model_cards import page


def number_problems(text: str, facts: facts_lib.Facts) -> list[str]:
  """Returns what is wrong with the numbers of a page without fenced code."""
  found = []
  for line in text.split("\n"):
    cells = page.cells(line)
    allowed = facts.rows.get(cells[0].lower()) if len(cells) > 1 else None
    found += _word_problems(cells, facts)
    if allowed is None:
      found += _phrase_problems(line, facts)
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
        found.append(f"{number!r} in {page.squeeze(line)[:80]!r} is no value "
                     "of manifest or report; expected every number to be one "
                     "of theirs. Correct or remove it.")
  return found


def code_problems(code: str, manifest: Mapping[str, Any],
                  facts: facts_lib.Facts) -> list[str]:
  """Returns what is wrong with handles and shapes in fenced code.

  Args:
    code: The lines between fences.
    manifest: The module's.
    facts: What manifest and report say.
  """
  handle = manifest["handle"]
  model, _, version = handle.rpartition("/")
  found = [
      f"{match[0]!r} in a code block is another version; expected {handle!r}"
      for match in re.finditer(
          rf"(?<![\w-]){re.escape(model)}/(\d+)", code) if match[1] != version]
  for match in re.finditer(r"\[batch, (?:height, width, )?(\d+)\]", code):
    if int(match[1]) not in facts.shapes:
      found.append(f"{match[0]!r} in a code block is no shape of this module; "
                   f"expected {_spoken([sorted(facts.shapes)])}")
  return found


def _word_problems(cells: Sequence[str], facts: facts_lib.Facts) -> list[str]:
  """Returns whether a row's hashes and names are those of its label."""
  expected = facts.words.get(cells[0].lower()) if len(cells) > 1 else None
  seen = " ".join(cells[1:])
  if expected is None or any(
      all(word in seen for word in words) for words in expected):
    return []
  return [f"row {cells[0]!r} says {seen[:100]!r}; manifest and report say "
          + " or ".join(", ".join(sorted(words)) for words in expected)]


def _phrase_problems(line: str, facts: facts_lib.Facts) -> list[str]:
  """Returns whether "mean confidence 70.84 %" is the mean confidence."""
  text = facts.without_names(line).replace("|", " ")
  found = []
  for pattern, allowed in facts.phrases.items():
    for match in re.finditer(
        # The sentence's next number, but for "top-5", "stage1", "224x224".
        rf"{pattern}[^\d.;]{{0,60}}?(?<![\w-])(?!\d+ ?x ?\d)(?P<digits>\d+(?:[.,]\d+)*)"
        r"(?: ?(?P<unit>million|billion|[MG])\b)?", text, re.IGNORECASE):
      number = facts_lib.normal(match["digits"])
      if match["unit"]:
        number += f" {facts_lib.UNITS[match['unit']]}"
      if number not in allowed:
        found.append(f"{match[0]!r} is not what manifest and report say of it")
  return found


def _same(seen: Sequence[str], values: Sequence[Any]) -> bool:
  expected = [form for value in values for form in facts_lib.row_forms(value)]
  return len(seen) == len(expected) and all(
      number in forms for number, forms in zip(seen, expected))


def missing_problems(text: str, facts: facts_lib.Facts, m: Mapping[str, Any],
                      r: Mapping[str, Any] | None) -> list[str]:
  lines = [(line, {number for number, _ in facts.numbers(line)})
           for line in text.split("\n")]
  found = []

  def require(what: str, pattern: str, *values: int | float) -> None:
    if not any(re.search(pattern, line, re.IGNORECASE) and all(
        numbers & (facts_lib.plain_forms(v)
                   | facts_lib.shown(facts_lib.scaled_forms(v), line))
        for v in values) for line, numbers in lines):
      found.append(f"{what} ({_spoken([values])}) not on the card; expected a "
                   "line that names it with its figures")

  require("parameters", r"\bparameters\b", m["parameters"]["trainable"])
  require("multiply-adds", r"multiply-adds|\bMACs\b|\bFLOPs\b",
          m["multiply_adds"]["count"])
  metrics = (r or {}).get("metrics") or {}
  for name, title in facts_lib.TITLES.items():
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
  if (r or {}).get("latency"):
    require("latency", r"\blatency\b", r["latency"]["median_ms"],
            r["latency"]["low_ms"], r["latency"]["high_ms"])
  if m["reported_accuracy"]:
    require("reported top-1", r"top-1\b.*\breported\b|\breported\b.*top-1\b",
            m["reported_accuracy"]["top1"])
  if not metrics:
    found += [f"{page.squeeze(line)[:80]!r} gives an accuracy, but nothing was "
              "measured; mark it as reported or remove it"
              for line, numbers in lines if numbers
              and re.search(r"top-[15]\b", line, re.IGNORECASE)
              and not re.search(r"\breported\b", line)]
  whole = page.squeeze(text)
  for what, sha256 in (
      ("weights", m["weights"]["sha256"]),
      ("backbone", m["weights"]["backbone_sha256"]),
      ("labels", (m["labels"] or {}).get("sha256")),
      ("export", (r or {}).get("export_sha256")),
      ("archive", ((r or {}).get("archive") or {}).get("sha256"))):
    if sha256 and sha256 not in whole:
      found.append(f"the SHA-256 of the {what} is not on the card; expected "
                   f"{sha256}")
  for check in (r or {}).get("checks", ()):
    name = f"{check['group']}/{check['name']}"
    if check["status"] != "passed" and page.squeeze(name) not in whole:
      found.append(f"check {name} is {check['status'].replace('_', ' ')} and "
                   "not on the card; expected it to be named")
  if m["is_demo"] and not re.search(r"\bdemo\b.*\bnot for use\b", whole,
                                    re.IGNORECASE):
    found.append("the module is a demo and the card does not say so; expected "
                 "'a demo' and 'not for use'")
  return found


def _spoken(allowed: Sequence[Sequence[Any]]) -> str:
  return " or ".join(", ".join(f"{v:,}" if isinstance(v, int) else str(v)
                               for v in values) or "none"
                     for values in allowed)
