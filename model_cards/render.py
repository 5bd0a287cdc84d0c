"""Cards and collection pages, from manifests and reports to Markdown.

A card has the form of TensorFlow Hub's documentation pages and the sections
of "Model Cards for Model Reporting" (Mitchell et al., arXiv:1810.03993). Every
number on it comes from the manifest or the report; `validate` holds it to
that. `module_card`, `collection_page` and `publisher_page` are pure;
`write_cards` does the reading and writing.
"""

import contextlib
import fcntl
import functools
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib import parse

from absl import logging
import jinja2

from hub_export import errors
from hub_export import export_dirs
from hub_export import peer as peer_lib
from model_cards import markdown
from model_cards import parents
from model_cards import peers
from model_cards import plots
from model_cards import rows
from model_cards import usage
from model_cards import wording

# A manifest and its report, None where the module was not checked yet.
Entry = tuple[Mapping[str, Any], Mapping[str, Any] | None]

_TEMPLATES = pathlib.Path(__file__).parent / "templates"


def module_card(manifest: Mapping[str, Any],
                report: Mapping[str, Any] | None,
                links: Sequence[str] = (), parent_version: int = 1) -> str:
  """Returns the card of one module's version, as Markdown.

  Args:
    manifest: The module's manifest, schema version 1.
    report: The report of its checks, schema version 1; None if there is none,
      and then the card holds no measured number.
    links: Those of `export_dirs.evaluation_links` whose files are there; a
      report that has only top-1 and top-5 does without them.
    parent_version: Of the main form that a Lite form belongs to.

  Raises:
    HubExportError: if a field is missing, the handle is no handle, or the
      report is that of another module.
  """
  with missing_fields("manifest or report"):
    handle = export_dirs.parse_handle(manifest["handle"])
    template = ("lite_card.md.j2" if manifest["form"] == "lite" else
                "module.md.j2")
    return render(template, manifest, report, links, usage.hub(handle),
                  parent_version=parent_version)


def render(template: str, manifest: Mapping[str, Any],
           report: Mapping[str, Any] | None, links: Sequence[str],
           use: usage.Usage, **more: Any) -> str:
  """Returns a card from one of the templates; see `module_card`.

  Args:
    template: Name of a file in `templates`.
    manifest: The module's manifest.
    report: Of the checks of this module, or None.
    links: To the pictures and the page of its evaluation.
    use: How it is loaded from where the card will be read.
    **more: What else this template takes.

  Raises:
    HubExportError: if the report is that of another module.
    Others: for a missing field, what `missing_fields` turns into one.
  """
  if report is not None and report["handle"] != manifest["handle"]:
    raise errors.HubExportError(
        f"the report is that of {report['handle']!r}, not of "
        f"{manifest['handle']}; run the checks of this module")
  return _environment().get_template(template).render(
      use=use, **more, **rows.context(manifest, report, links))


def card_of(export_dir: pathlib.Path, manifest: Mapping[str, Any],
            report: Mapping[str, Any] | None) -> str:
  """Returns the card of an export, with what lies beside it; `module_card`."""
  version = 1
  if manifest["form"] == "lite":
    with missing_fields("manifest"):
      version = parents.version(export_dir, manifest)
  return module_card(manifest, report, evaluation_links(export_dir, report),
                     version)


def collection_page(entries: Sequence[Entry], publisher: str,
                    links: Sequence[str] = ()) -> str:
  """Returns the page that lists one family's modules, as Markdown.

  Args:
    entries: Manifest and report (or None) of each module, all of one family
      and of this publisher, one version each.
    publisher: Whose modules they are.
    links: To those pictures of `plots.plots` that are there.

  Raises:
    HubExportError: if there is no entry, they are of more than one family or
      publisher, or a field is missing.
  """
  with missing_fields("manifest or report"):
    ordered = sorted(entries, key=lambda e: (
        e[0]["multiply_adds"]["count"], e[0]["handle"]))
    families = {m["family"] for m, _ in ordered}
    publishers = {export_dirs.parse_handle(m["handle"]).publisher
                  for m, _ in ordered}
    if len(families) != 1 or publishers != {publisher}:
      raise errors.HubExportError(
          f"a collection of families {sorted(families)} and publishers "
          f"{sorted(publishers)}; expected modules of one family, all of "
          f"publisher {publisher!r}")
    manifests = [m for m, _ in ordered]
    family = families.pop()
    theirs = peers.of(family)
    return _environment().get_template("collection.md.j2").render(
        publisher=publisher, family=family,
        tasks=sorted({rows.TASKS[m["kind"]] for m in manifests}),
        architectures=sorted({m["card"]["architecture"] for m in manifests}),
        datasets=sorted({m["dataset"]["tfhub_tag"] for m in manifests
                         if m["dataset"]["tfhub_tag"]}),
        rows=[_collection_row(m, r) for m, r in ordered],
        plots=[(markdown.text(plot.alt), link)
               for plot in plots.plots(ordered, theirs)
               for link in links if link.endswith(plot.name)],
        peers=[_peer_row(p) for p in theirs
               if any(p.variant == m["variant"] and not m["is_demo"]
                      for m in manifests)],
        has_demo=any(m["is_demo"] for m in manifests))


def lite_page(manifest: Mapping[str, Any], lite: Mapping[str, Any]) -> str:
  """Returns the page of a module's conversion to TensorFlow Lite.

  It goes to `<publisher>/<name>/lite/<version>.md`, beside the .tflite file.

  Args:
    manifest: The manifest of the module that was converted.
    lite: Of the conversion: "version", an integer from 1 up; "bytes" and
      "sha256" of the .tflite file; "quantisation", how its weights are kept,
      such as "none".

  Raises:
    HubExportError: if a field is missing.
  """
  with missing_fields("manifest or conversion"):
    parent = export_dirs.parse_handle(manifest["handle"])
    handle = export_dirs.Handle(parent.publisher, parent.name,
                                int(lite["version"]))
    kind = manifest["kind"]
    output = {"classifier": "logits", "feature_extractor": "features"}[kind]
    size = manifest["outputs"][
        "num_classes" if kind == "classifier" else "feature_dim"]
    low, high = (wording.value(v) for v in manifest["inputs"]["range"])
    return _environment().get_template("lite.md.j2").render(
        m=manifest, handle=handle, output=output, size=size, details=[
            ("Converted from", markdown.code(manifest["handle"])),
            ("Variant", markdown.code(manifest["variant"])),
            ("Input", "float32 \\[batch, height, width, 3\\], RGB, values in "
             f"\\[{low}, {high}\\]"),
            ("Output", f"{output}, float32 \\[batch, {size}\\]"),
            ("Parameters, trainable",
             f"{manifest['parameters']['trainable']:,}"),
            ("Quantisation", markdown.text(lite["quantisation"])),
            ("File, bytes", f"{lite['bytes']:,}"),
            ("File, SHA-256", markdown.code(lite["sha256"]))])


def publisher_page(publisher: str) -> str:
  """Returns a publisher's page, which TensorFlow Hub wants to exist."""
  return _environment().get_template("publisher.md.j2").render(
      publisher=publisher)


def write_cards(export_dir: pathlib.Path) -> list[pathlib.Path]:
  """Writes a module's card and renews its publisher's pages.

  The card is `<version>.md` beside the export. The collection,
  `<publisher>/collections/<family>/1.md`, lists the newest version of each of
  the publisher's modules of that family. `<publisher>/<publisher>.md` is
  written once and then left alone, since it is the publisher's to edit.

  Args:
    export_dir: `<output_dir>/<publisher>/<name>/<version>`.

  Returns:
    The paths of the card and of the collection.

  Raises:
    HubExportError: if manifest or report is damaged.
    ChecksError: if the report is that of other bytes.
    WriteError: if a page cannot be written.
  """
  # Without this, ".." or a symlink would put the pages somewhere else.
  export_dir = pathlib.Path(os.path.abspath(export_dir))
  manifest = export_dirs.read_manifest(export_dir)
  report = read_report(export_dir)
  if report and report.get("export_sha256") != export_dirs.digest(export_dir):
    raise errors.ChecksError(
        f"{export_dirs.report_path(export_dir)} is the report of other bytes "
        f"than those in {export_dir}; expected export_sha256 to be their "
        "digest. Run the checks again.")
  card_path = export_dirs.card_path(export_dir)
  export_dirs.write_file(card_path, card_of(export_dir, manifest, report))
  return [card_path, write_collection(export_dir, manifest)]


def write_collection(export_dir: pathlib.Path, manifest: Mapping[str, Any]
                     ) -> pathlib.Path:
  """Renews the pages of an export's publisher; returns the collection's path.

  What is as it should be is not written again.

  Args:
    export_dir: `<root>/<publisher>/<name>/<version>`, an absolute path, where
      exports or published modules lie.
    manifest: The export's.

  Raises:
    HubExportError: if manifest or report of a module there is damaged.
    WriteError: if a page cannot be written.
  """
  publisher = export_dirs.parse_handle(manifest["handle"]).publisher
  publisher_dir = export_dir.parent.parent
  collection, page = pages(export_dir, manifest)
  if not page.exists():
    export_dirs.write_file(page, publisher_page(publisher))
  with _locked(collection.parent):
    entries = _family(publisher_dir, manifest)
    links = _write_plots(collection, entries, manifest["family"])
    _renew(collection, collection_page(entries, publisher, links).encode())
  return collection


def pages(export_dir: pathlib.Path, manifest: Mapping[str, Any]
          ) -> tuple[pathlib.Path, pathlib.Path]:
  """Returns where `write_collection` has the collection and the publisher."""
  publisher = export_dirs.parse_handle(manifest["handle"]).publisher
  publisher_dir = export_dir.parent.parent
  family = markdown.tag(manifest["family"])
  return (publisher_dir / "collections" / family / "1.md",
          publisher_dir / f"{publisher}.md")


def _renew(path: pathlib.Path, content: bytes) -> None:
  if not path.is_file() or path.read_bytes() != content:
    export_dirs.write_file(path, content)


def _write_plots(collection: pathlib.Path, entries: Sequence[Entry],
                 family: str) -> list[str]:
  """Draws a collection's pictures beside its page; returns the links to them.

  Those of an earlier page that are no more are removed.
  """
  made = plots.plots(sorted(entries, key=lambda e: e[0]["handle"]),
                     peers.of(family))
  names = [collection.stem + plot.name for plot in made]
  for name, plot in zip(names, made):
    _renew(collection.with_name(name), plot.png())
  for suffix in (plots.MULTIPLY_ADDS_SUFFIX, plots.LATENCY_SUFFIX):
    for old in collection.parent.glob(f"{collection.stem}.*{suffix}"):
      if old.name not in names:
        old.unlink(missing_ok=True)
  return [parse.quote(name) for name in names]


def evaluation_links(export_dir: pathlib.Path,
                     report: Mapping[str, Any] | None) -> list[str]:
  """Returns the links for `module_card`: to what lies beside the export.

  Raises:
    HubExportError: if the report's data set lacks a field.
  """
  with missing_fields("report"):
    dataset = report["dataset"] if report else None
    if not dataset:
      return []
    links = export_dirs.evaluation_links(
        export_dir.name, dataset["name"], dataset["split"])
    return [link for link in links
            if export_dirs.linked_path(export_dir, link).is_file()]


def read_report(export_dir: pathlib.Path) -> dict[str, Any] | None:
  """Returns the report of one module's version, None if there is none.

  Raises:
    HubExportError: if the file is no report.
  """
  path = export_dirs.report_path(export_dir)
  try:
    report = json.loads(path.read_text("utf-8"))
    if not isinstance(report["handle"], str):
      raise TypeError("its handle is not a string")
    return report
  except FileNotFoundError:
    return None
  except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
    raise errors.HubExportError(
        f"{path} cannot be read ({e!r}); expected the JSON report of an "
        "export's checks. Run the checks again.") from e


@functools.cache  # Compiled templates are kept in it.
def _environment() -> jinja2.Environment:
  environment = jinja2.Environment(
      loader=jinja2.FileSystemLoader(_TEMPLATES),
      undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
      keep_trailing_newline=True,
      # Markdown, not HTML: every value goes through one of the filters.
      autoescape=False)
  environment.filters.update(
      text=markdown.text, paragraph=markdown.paragraph, code=markdown.code,
      tag=markdown.tag)
  environment.globals.update(table=markdown.table)
  return environment


@contextlib.contextmanager
def missing_fields(what: str) -> Iterator[None]:
  """Turns a missing or misshapen field into a HubExportError."""
  try:
    yield
  except (jinja2.UndefinedError, KeyError, TypeError, ValueError,
          AttributeError) as e:
    raise errors.HubExportError(
        f"no card can be made: {what} lacks a field or has it in another form "
        f"({type(e).__name__}: {e}); expected schema version 1. Export or "
        "check the module again.") from e


@contextlib.contextmanager
def _locked(directory: pathlib.Path) -> Iterator[None]:
  """Lets one process at a time list the modules and write the page.

  Otherwise the one that listed first could write last, and its page would
  lack the other's module.
  """
  with export_dirs.write_errors(directory):
    directory.mkdir(parents=True, exist_ok=True)
    fd = os.open(directory, os.O_RDONLY)
  try:
    # Some network file systems have no locks; the page is whole even there.
    with contextlib.suppress(OSError):
      fcntl.flock(fd, fcntl.LOCK_EX)
    yield
  finally:
    os.close(fd)


def _family(publisher_dir: pathlib.Path,
            manifest: Mapping[str, Any]) -> list[Entry]:
  """Returns the newest version of each module of `manifest`'s family."""
  entries = []
  for model_dir in sorted(publisher_dir.iterdir()):
    found = export_dirs.versions(model_dir)
    if not found:
      continue
    newest = model_dir / str(found[-1])
    try:
      other = export_dirs.read_manifest(newest)
      report = read_report(newest)
      if other["family"] != manifest["family"]:
        continue
      if report and report["handle"] != other["handle"]:
        report = None
      _collection_row(other, report)
      plots.plots([(other, report)], peers.of(other["family"]))
    except (errors.HubExportError, KeyError, TypeError, ValueError) as e:
      # A neighbour's damage is no reason to refuse this module its card.
      logging.warning("left out of the collection: %s: %s", newest, e)
      continue
    entries.append((other, report))
  return entries


def _collection_row(m: Mapping[str, Any],
                    r: Mapping[str, Any] | None) -> list[str]:
  handle = export_dirs.parse_handle(m["handle"])
  top1 = r["metrics"]["top1"] if r and r["metrics"] else None
  reported = m["reported_accuracy"]
  kind = m["kind"].replace("_", " ")
  return [
      f"[{markdown.text(handle)}](../../{handle.name}/{handle.version}.md)",
      markdown.text(f"{kind}, {m['form']}{', demo' if m['is_demo'] else ''}"),
      f"{m['parameters']['trainable']:,}",
      f"{m['multiply_adds']['count']:,}",
      (f"{rows.percent(top1['value'])} % ({rows.percent(top1['low'])} to "
       f"{rows.percent(top1['high'])})"
       if top1 else "not measured yet"),
      f"{wording.value(reported['top1'])} %" if reported else "none",
      (f"{r['latency']['median_ms']:.2f} ms" if r and r.get("latency")
       else "not measured"),
      markdown.text(m["dataset"]["title"]),
  ]


def _peer_row(p: peer_lib.Peer) -> list[str]:
  return [markdown.code(p.name), markdown.code(p.variant),
          f"{wording.value(p.top1)} %", str(p.image_size_px),
          f"{p.multiply_adds:,}", markdown.text(p.figures_from)]
