"""Checks cards: their form, their links, and where every number is from.

    ./bazelw run //model_cards:validate -- \
        exports/local/regnety600mf_digits_classification/1.md

takes pages of TensorFlow Hub's documentation (module, Lite, collection,
publisher), README.md files for the Hugging Face Hub and cards for Kaggle,
rendered or written by hand; of a directory all its *.md files. Where the module
lies beside its card, every number must be one of its manifest or its report.
"""

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib import parse

from hub_export import errors
from hub_export import export_dirs
from hub_export import forms
from hub_export import program
from model_cards import collection_rules
from model_cards import facts as facts_lib
from model_cards import front_matter
from model_cards import hub_rules
from model_cards import page
from model_cards import parents
from model_cards import peers
from model_cards import safety
from model_cards import tracing

file_links = page.file_links

# What readers look for, after "Model Cards for Model Reporting" (Mitchell et
# al., arXiv:1810.03993), and the headings under which they find it.
_SECTIONS = (
    ("how to use it", r"how to use|usage|example|getting started|get started"),
    ("intended use", r"intended|use cases|\buses\b|usage limit|scope"),
    ("training data", r"training"),
    ("evaluation data", r"evaluation|evaluated|test data"),
    ("metrics", r"metrics|results|performance|accuracy|summary"),
    ("factors", r"factor|subgroup"),
    ("ethical considerations", r"ethic"),
    ("changes", r"chang|version|history"),
    ("limits", r"limit|bias|caveat|risk"),
    ("licence", r"licen[cs]e"),
    ("provenance", r"provenance|origin|source|initiali[sz]ation|checkpoint"),
    ("how to verify it", r"verif"))
_KAGGLE_SECTIONS = (
    "Model Summary", "Usage", "System", "Implementation requirements",
    "Model Characteristics", "Model initialization", "Model stats",
    "Other details", "Data Overview", "Training data", "Demographic groups",
    "Evaluation data", "Evaluation Results", "Summary",
    "Subgroup evaluation results", "Fairness", "Usage limitations", "Ethics")
_KAGGLE_FIRST = "# Model Summary"
_PARENT = re.compile(r"^<!-- parent-model: .* -->$", re.MULTILINE)


def problems(card: str, manifest: Mapping[str, Any] | None = None,
             report: Mapping[str, Any] | None = None,
             path: pathlib.Path | None = None) -> list[str]:
  """Returns one message for each fault of a card; none if it is sound.

  Args:
    card: The page, in Markdown: of a module, a Lite model, a collection or a
      publisher on TensorFlow Hub, or for Hugging Face (begins with YAML) or
      Kaggle (begins with "# Model Summary").
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


def file_problems(path: pathlib.Path) -> tuple[list[str], str]:
  """Returns what is wrong with a page on disk, and what it was held against.

  The module of a card lies beside it as a directory of its version's name,
  that of a Lite page one directory up; those of a collection lie where its
  links lead.

  Raises:
    HubExportError: if the page, or a manifest or report, cannot be read.
  """
  card = _read(path)
  kind = hub_rules.read(card)[0].kind
  if kind == "Collection":
    found = problems(card, path=path)
    entries = [entry for entry in (
        _entry(path.parent / parse.unquote(link))
        for link in page.file_links(card) if link.endswith(".md")) if entry]
    if entries:
      found += collection_rules.problems(
          card, entries, peers.of(entries[0][0]["family"]))
    return found, _spoken([m["handle"] for m, _ in entries])
  entry = _entry(path) or _only_entry(path, card)
  if kind == "Publisher" or not entry:
    return problems(card, path=path), _spoken([])
  manifest, report = entry
  found = problems(card, manifest, report, path)
  if report and (kind != "Lite" or forms.page(manifest) == "Lite"):
    found += _report_problems(path, manifest, report)
  return found, _spoken([manifest["handle"]])


def _read(path: pathlib.Path) -> str:
  try:
    return path.read_text("utf-8")
  except (OSError, UnicodeDecodeError) as e:
    raise errors.HubExportError(
        f"{path} cannot be read ({e}); expected a page in Markdown and UTF-8"
        ) from e


def _entry(path: pathlib.Path) -> collection_rules.Entry | None:
  """Returns manifest and report of the module that a card lies beside."""
  return _module(path.with_suffix(""))


def _only_entry(path: pathlib.Path, card: str
                ) -> collection_rules.Entry | None:
  """Returns those of the module that the card names, in its directory or up.

  For README.md, and pages of Lite models.
  """
  for export_dir in sorted([*path.parent.glob("[0-9]*"),
                            *path.parent.parent.glob("[0-9]*")]):
    found = _module(export_dir)
    if found and found[0]["handle"] in card:
      return found
  return None


def _module(export_dir: pathlib.Path) -> collection_rules.Entry | None:
  if not (export_dir / export_dirs.MANIFEST).is_file():
    return None
  report = export_dirs.report_path(export_dir)
  try:
    return export_dirs.read_manifest(export_dir), (
        json.loads(report.read_text("utf-8")) if report.exists() else None)
  except (OSError, ValueError, RecursionError) as e:
    raise errors.HubExportError(
        f"{report} cannot be read ({e}); expected the JSON report of an "
        "export's checks. Run the checks again.") from e


def _report_problems(path: pathlib.Path, manifest: Mapping[str, Any],
                     report: Mapping[str, Any]) -> list[str]:
  """Returns whether the report beside a card is that of its module."""
  if report.get("handle") != manifest["handle"]:
    return [f"the report beside {path} is that of {report.get('handle')!r}; "
            f"expected that of {manifest['handle']!r}"]
  return []


def _spoken(handles: Sequence[str]) -> str:
  if not handles:
    return "form only: no module lies beside it to trace the numbers to"
  return f"numbers traced to {', '.join(handles)}"


def _problems(card: str, manifest: Mapping[str, Any] | None,
              report: Mapping[str, Any] | None,
              path: pathlib.Path | None) -> list[str]:
  block, rest = front_matter.split(card)
  if block is not None:
    found = front_matter.problems(block, manifest, report)
    found += _form_problems(rest, manifest, report, path)
    return found + _body_problems(rest, manifest, report)
  if card.startswith(_KAGGLE_FIRST):
    found = _form_problems(card, manifest, report, path)
    headings = [section.title for section in page.sections(card)]
    found += [f"no section {title!r}, which Kaggle's model card has; add it"
              for title in _KAGGLE_SECTIONS if title not in headings]
    return found + _body_problems(card, manifest, report)
  head, found = hub_rules.read(card)
  is_conversion = manifest is not None and forms.page(manifest) != "Module"
  if head.kind == "Collection":
    found += hub_rules.link_problems(head.body, path)
    # Those to pages were just looked at.
    found += _missing_files(head.body, path, (".md",))
  elif head.kind in ("Module", "Tfjs") or (
      head.kind == "Lite" and is_conversion):
    found += _file_problems(head.body, manifest, report, path)
  if manifest is not None:
    found += hub_rules.manifest_problems(head, manifest)
  if is_conversion:
    if not found:
      found += _parent_problems(head, manifest, path)
    # Its parent's version is neither the manifest's nor the report's.
    card = _PARENT.sub("", card)
  if head.kind == "Lite" and not is_conversion:
    return found + _lite_problems(card, manifest, path)
  return found + _body_problems(card, manifest, report)


def _lite_problems(card: str, manifest: Mapping[str, Any] | None,
                   path: pathlib.Path | None) -> list[str]:
  """Returns what is wrong with the numbers of a conversion's page."""
  found = _fence_problems(card)
  if found or manifest is None or path is None:
    return found
  converted = path.with_suffix(".tflite")
  if not converted.is_file():
    return [f"there is no {converted}; expected the converted model beside "
            "its page"]
  lite = {"bytes": converted.stat().st_size,
          "sha256": export_dirs.file_sha256(converted), "calibration": None}
  plain, _ = page.without_code(card)
  facts = facts_lib.of({**manifest, "lite": lite}, None)
  found = [f"the page does not name {word}, which its .tflite file has"
           for word in (lite["sha256"], f"{lite['bytes']:,}")
           if word not in plain]
  return [*found, *tracing.number_problems(plain, facts),
          *tracing.code_problems(page.fenced(card), manifest, facts)]


def _parent_problems(head: hub_rules.Head, manifest: Mapping[str, Any],
                     path: pathlib.Path | None) -> list[str]:
  """Returns whether a card's parent, if it is there, is another's."""
  if path is None:
    return []
  parent = dict(head.metadata)["parent-model"]
  number = int(parent.rpartition("/")[2])
  if parents.is_parent(path.with_suffix(""), manifest, number) is not False:
    return []
  return [f"parent-model is {parent!r}, which is damaged or of another "
          "checkpoint; expected the main form of this one. Check the module "
          "again, which renews its card."]


def _form_problems(body: str, manifest: Mapping[str, Any] | None,
                   report: Mapping[str, Any] | None,
                   path: pathlib.Path | None) -> list[str]:
  """Returns what is wrong with the links and the name of another form."""
  found = _file_problems(body.split("\n"), manifest, report, path)
  if manifest is not None and manifest["handle"] not in body:
    found.append(f"the card does not name {manifest['handle']!r}; expected "
                 "the module's handle on it")
  return found


def _body_problems(text: str, manifest: Mapping[str, Any] | None,
                   report: Mapping[str, Any] | None) -> list[str]:
  """Returns what is wrong with the sections and numbers of any form."""
  plain, _ = page.without_code(text)
  found = _fence_problems(text) + safety.link_problems(plain)
  if manifest is None or found:
    return found
  facts = facts_lib.of(manifest, report)
  # Above the first heading is metadata, in comments.
  body = "\n".join(hub_rules.read(plain)[0].body)
  return [*_section_problems(text), *safety.problems(body),
          *tracing.number_problems(page.fenced_text(text), facts),
          *tracing.number_problems(plain, facts),
          *tracing.code_problems(page.fenced(text), manifest, facts),
          *tracing.missing_problems(plain, facts, manifest, report)]


def _fence_problems(text: str) -> list[str]:
  if page.without_code(text)[1]:
    return []
  return ["a fenced code block has no end; close it with the fence that opened "
          "it"]


def _section_problems(text: str) -> list[str]:
  """Returns which sections of a model card are missing or empty."""
  found = page.sections(text)
  missing = [
      f"no section on {what}; expected a heading such as "
      f"'## {what.capitalize()}'" for what, pattern in _SECTIONS
      if not any(re.search(pattern, s.title, re.IGNORECASE) for s in found)]
  if not re.search(r"out.of.scope", text, re.IGNORECASE):
    missing.append("nothing on what is out of scope; expected these words, with "
                   "what the module is not for")
  # A heading may have nothing below it but smaller ones.
  return missing + [
      f"section {section.title!r} is empty; say it, or that it is not known"
      for section, after in zip(found, [*found[1:], None])
      if not section.text.strip()
      and (after is None or after.level <= section.level)]


def _file_problems(body: Sequence[str], manifest: Mapping[str, Any] | None,
                   report: Mapping[str, Any] | None,
                   path: pathlib.Path | None) -> list[str]:
  """Returns what is wrong with a module's links to files beside its card."""
  links = page.file_links("\n".join(body))
  found = []
  if manifest is not None:
    known = facts_lib.evaluation_links(manifest, report)
    found += [f"the link to {link!r} leads to a file that is not published "
              f"with the module; expected {' or '.join(known) or 'none'}"
              for link in links if link not in known]
  return found + _missing_files(body, path)


def _missing_files(body: Sequence[str], path: pathlib.Path | None,
                   without: Sequence[str] = ()) -> list[str]:
  """Returns which links, but to files with some suffixes, lead nowhere."""
  if path is None:
    return []
  # A picture is shown by the very name that a link would quote.
  return [f"the link to {link!r} leads nowhere; expected a file "
          f"{path.parent / parse.unquote(link)}"
          for link in page.file_links("\n".join(body))
          if pathlib.PurePosixPath(link).suffix not in without
          and not (path.parent / parse.unquote(link)).is_file()]


def main(argv: Sequence[str]) -> int:
  status = 0
  for path in _paths(argv[1:]):
    found, against = file_problems(path)
    shown = program.shown_path(path)
    if found:
      status = 1
    print(f"{shown}: {'unsound' if found else 'sound'} ({against})")
    for problem in found:
      print(f"  {problem}")
  return status


def _paths(arguments: Sequence[str]) -> list[pathlib.Path]:
  """Returns the pages to check; those below a directory are sought.

  Raises:
    UsageError: if there is no page.
  """
  found = []
  for argument in arguments:
    path = program.user_path(argument)
    pages = sorted(p for p in path.rglob("*.md") if p.is_file()
                   ) if path.is_dir() else [path]
    if not pages or not pages[0].exists():
      raise errors.UsageError(
          f"{path} is no page and has none below it; expected *.md files")
    found += pages
  return found


if __name__ == "__main__":
  program.run(main, ("FILE...",))
