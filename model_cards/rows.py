"""What cards show of a manifest and a report, as rows of tables.

Every number comes from the manifest or the report, or from counts of the report
by Wilson's formula. Cells are Markdown already; `context` has all that the
templates of any form of card take.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from checks import pictures
from checks import report as report_lib
from hub_export import export_dirs
from hub_export import forms
from hub_export.forms import extras
from model_cards import facts
from model_cards import markdown
from model_cards import tags
from model_cards import wording

TASKS = {"classifier": "image-classification",
         "feature_extractor": "image-feature-vector"}
_STATUSES = (report_lib.PASSED, report_lib.FAILED, report_lib.NOT_RUN)


def context(manifest: Mapping[str, Any], report: Mapping[str, Any] | None,
            links: Sequence[str] = ()) -> dict[str, Any]:
  """Returns the variables of the templates under `parts`.

  Args:
    manifest: The module's manifest, schema version 1.
    report: The report of its checks, None if there is none.
    links: To the pictures and the page of its evaluation, as far as there.

  Raises:
    KeyError, TypeError, ValueError, AttributeError: if a field is missing or
      of another form.
    HubExportError: if the handle is none.
  """
  handle = export_dirs.parse_handle(manifest["handle"])
  return {
      "m": manifest, "r": report, "handle": handle,
      "task": TASKS[manifest["kind"]],
      "is_fine_tunable": forms.is_fine_tunable(manifest),
      "format": forms.format_tag(manifest),
      "form": forms.by_name(manifest["form"]),
      "needs_extras": manifest["form"] in extras.FORMS,
      "licence_tag": _licence_tag(manifest),
      "details": _details(manifest) + _precisions(manifest, report),
      "file": _file(manifest),
      "signatures": _signatures(manifest),
      "preprocessing": _steps(manifest["preprocessing"]),
      "normalisation": _normalisation(manifest["preprocessing"]),
      "evaluation": _evaluation(report) if report else [],
      "measured": _measured(report),
      **_figures(report, links),
      "latency": _latency(report),
      "reported": _reported(manifest),
      "groups": _groups(report) if report else [],
      "open_checks": _open_checks(report) if report else [],
      "provenance": _provenance(manifest, report),
      "files": [(markdown.code(f["name"]), f"{f['bytes']:,}",
                 markdown.code(f["sha256"]))
                for f in manifest["checkpoint"]["files"]],
      "software": _labelled(manifest["software"]),
      "environment": _labelled(report["environment"]) if report else [],
      "archive": (report or {}).get("archive"),
      "previous": (report or {}).get("previous"),
      "changes": _changes(report),
  }


def _file(m: Mapping[str, Any]) -> list[tuple[str, str]]:
  """Returns what the file is of a form that has one; nothing of others."""
  rows = []
  file = facts.lone_file(m)
  if file:
    rows += [("File, bytes", f"{file['bytes']:,}"),
             ("File, SHA-256", markdown.code(file["sha256"]))]
  used = (m.get("lite") or {}).get("calibration")
  if used:
    rows += [("Calibrated on", markdown.text(used["source"])),
             ("Calibration, images", f"{used['examples']:,}")]
  return rows


def percent(value: float) -> str:
  """Returns two decimals; a bound that rounding left below 0 counts as 0."""
  return f"{value:.2f}".replace("-0.00", "0.00")


def _licence_tag(manifest: Mapping[str, Any]) -> str:
  licence = str(manifest["licence"]["id"]).lower()
  return licence if licence in tags.LICENCES else "custom"


def _details(m: Mapping[str, Any]) -> list[tuple[str, str]]:
  size_px = m["multiply_adds"]["image_size_px"]
  inputs = m["inputs"]
  low, high = (wording.value(bound) for bound in inputs["range"])
  if m["kind"] == "classifier":
    output = f"logits, float32 \\[batch, {m['outputs']['num_classes']}\\]"
  else:
    output = f"features, float32 \\[batch, {m['outputs']['feature_dim']}\\]"
  form = forms.by_name(m["form"])
  rows = [
      ("Handle", markdown.code(m["handle"])),
      ("Variant", markdown.code(m["variant"])),
      ("Kind", markdown.text(m["kind"].replace("_", " "))),
      ("Form", markdown.text(form.title)),
      *_chosen(m, form),
      ("Parameters, trainable", f"{m['parameters']['trainable']:,}" + (
          "" if form.is_fine_tunable else
          " in the checkpoint; none in this form")),
      ("Parameters, total", f"{m['parameters']['total']:,} (with the moving "
       "statistics of batch normalisation)"),
      ("Multiply-adds", f"{m['multiply_adds']['count']:,} for an image of "
       f"{size_px} x {size_px} pixels"),
      ("Input", f"{markdown.text(inputs['dtype'])} \\[batch, height, width, "
       f"3\\], {markdown.text(inputs['channel_order'])}, values in "
       f"\\[{low}, {high}\\]"),
      ("Smallest image", f"{inputs['min_size_px']} x {inputs['min_size_px']} "
       "pixels; any larger size and any batch work"),
      ("Output", output),
  ]
  for name, channels in m["outputs"].get("endpoints", {}).items():
    rows.append((f"Endpoint {markdown.text(name)}", f"{channels} channels"))
  if m["labels"]:
    rows.append(("Labels", f"{m['labels']['count']} in "
                 f"{markdown.code(m['labels']['file'])}"))
  if m["companion"]:
    rows.append(("Companion", f"{markdown.code(m['companion'])}, the other "
                 "module of the same checkpoint"))
  return rows


def _precisions(m: Mapping[str, Any], r: Mapping[str, Any] | None
                ) -> list[tuple[str, str]]:
  """Returns what a module computes in, and what the checks saw of it."""
  dtypes = m["inputs"].get("compute_dtypes")
  if not dtypes:
    return []
  rows = [("Computes in", "the dtype of its images: " + ", ".join(
      markdown.code(dtype) for dtype in dtypes) + "; float32 for what is no "
           "tensor")]
  for dtype, off in report_lib.mixed_precision(r).items():
    rows.append((f"Outputs in {markdown.text(dtype)} differ by", (
        f"{off:.4f} of their standard deviation from float32's, in root mean "
        "square" if off >= 0 else "more than can be told: they are not "
        "finite")))
  return rows


def _chosen(m: Mapping[str, Any], form: forms.Form
            ) -> list[tuple[str, str]]:
  """Returns how a form keeps its numbers, and what that may cost."""
  rows = []
  if form.option:
    rows.append((form.option.capitalize(), markdown.code(m[form.option])))
  loss = m.get("loss")
  if loss:
    rows += [("Outputs may differ by", f"{loss['outputs']} of their standard "
              "deviation from the float32 network's, in root mean square"),
             ("Accuracy may be less by", f"{loss['top1_points']} percentage "
              "points than the float32 network's, at most")]
  return rows


def _signatures(m: Mapping[str, Any]) -> list[tuple[str, str, str]]:
  if m["form"] == "lite":
    return [("`serving_default`", "`images`", "`logits`" if m["kind"] ==
             "classifier" else "`features`")]
  images, encoded = "`images`", "`image_bytes`: JPEG or PNG, \\[batch\\]"
  if not forms.by_name(m["form"]).takes_encoded:
    return [("the only one", images, "`logits`" if m["kind"] == "classifier"
             else "`features`")]
  if m["kind"] == "classifier":
    return [("`serving_default`", images, "`logits`"),
            ("`image_bytes`", encoded, "`classes`, `labels`, `probabilities` "
             "of the most probable classes, five at most"),
            ("`feature_vector`", images, "`features`")]
  return [("`serving_default`", images, "`features`"),
          ("`image_bytes`", encoded, "`features`")]


def _evaluation(r: Mapping[str, Any]) -> list[tuple[str, str]]:
  dataset = r["dataset"]
  if not dataset:
    return []
  return [
      ("Data set", f"{markdown.code(dataset['name'])}, version "
       f"{markdown.text(dataset['version'])}"),
      ("Split", markdown.code(dataset["split"])),
      ("Examples", f"{dataset['num_examples']:,}, each counted once"),
      ("Digest", markdown.code(dataset["digest"])),
  ]


def _measured(r: Mapping[str, Any] | None) -> list[tuple[str, ...]]:
  if not r or not r["metrics"]:
    return []
  return [(f"{title}, measured", f"{percent(metric['value'])} %",
           f"{percent(metric['low'])} to {percent(metric['high'])} %",
           f"{metric['correct']:,} of {metric['total']:,}")
          for title, metric in _tops(r["metrics"])]


def _figures(r: Mapping[str, Any] | None,
             links: Sequence[str]) -> dict[str, Any]:
  """Returns what the templates show of figures.Figures.to_dict, if anything."""
  metrics = (r or {}).get("metrics") or {}
  if "reliability" not in metrics:  # A report of an earlier version.
    return {"figures": [], "worst": [], "best": [], "confusions": [],
            "pictures": [], "page": None}
  classes = metrics["classes"]
  worst, best = classes["worst"], classes["best"]
  pages = [link for link in links if link.endswith(export_dirs.PAGE_SUFFIX)]
  return {
      "figures": [
          ("Mean top-1 of classes", f"{percent(classes['mean_top1'])} % over "
           f"{classes['count']:,} classes"),
          ("Negative log-likelihood", f"{metrics['nll']:.4f} nats"),
          ("Expected calibration error", f"{percent(metrics['ece'])} % in "
           f"{len(metrics['reliability'])} bins"),
          ("Mean confidence", f"{percent(metrics['mean_confidence'])} %")],
      "worst": [_class_row(c) for c in worst],
      # Where the worst are all that there are, the best would be the same.
      "best": ([_class_row(c) for c in best]
               if classes["count"] > len(worst) else []),
      "confusions": [(markdown.name(c["label_name"]),
                      markdown.name(c["predicted_name"]), f"{c['count']:,}")
                     for c in metrics["confusions"]],
      "pictures": [
          (markdown.text(alt), link) for suffix, alt in
          zip(export_dirs.PICTURE_SUFFIXES, pictures.alts(metrics))
          for link in links if link.endswith(suffix)],
      "page": pages[0] if pages else None}


def _class_row(c: Mapping[str, Any]) -> tuple[str, str, str]:
  low, high = report_lib.wilson(c["correct"], c["total"])
  return (markdown.name(c["name"]), f"{c['correct']:,} of {c['total']:,}",
          f"{percent(100 * low)} to {percent(100 * high)} %")


def _latency(r: Mapping[str, Any] | None) -> list[tuple[str, ...]]:
  latency = (r or {}).get("latency")
  if not latency:
    return []
  size_px = latency["image_size_px"]
  return [("Latency of one image", f"{latency['median_ms']:.2f} ms",
           f"{latency['low_ms']:.2f} to {latency['high_ms']:.2f} ms",
           str(latency["calls"]), f"{size_px} x {size_px}")]


def _changes(r: Mapping[str, Any] | None) -> list[tuple[str, str, str]]:
  """Returns what differs from the version before: field, before, after."""
  previous = (r or {}).get("previous")
  if not previous:
    return []
  return [(markdown.text(wording.label(change["field"])),
           markdown.text(wording.value(change["before"])),
           markdown.text(wording.value(change["after"])))
          for change in previous["changes"]]


def _reported(m: Mapping[str, Any]) -> list[tuple[str, str]]:
  if not m["reported_accuracy"]:
    return []
  return [(f"{title}, reported", f"{wording.value(value)} %")
          for title, value in _tops(m["reported_accuracy"])]


def _tops(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
  named = [("Top-1", values["top1"]), ("Top-5", values.get("top5"))]
  return [(title, value) for title, value in named if value is not None]


def _groups(r: Mapping[str, Any]) -> list[list[str]]:
  """Returns per group of checks: its name and the count of each status."""
  groups = dict.fromkeys(check["group"] for check in r["checks"])
  rows = []
  for group in groups:
    found = [c["status"] for c in r["checks"] if c["group"] == group]
    rows.append([markdown.text(group),
                 *(str(found.count(status)) for status in _STATUSES)])
  return rows


def _open_checks(r: Mapping[str, Any]) -> list[tuple[str, str, str]]:
  return [(markdown.text(f"{c['group']}/{c['name']}"),
           {"failed": "failed", "not_run": "not run"}[c["status"]],
           markdown.text(c["message"]))
          for c in r["checks"] if c["status"] != "passed"]


def _provenance(m: Mapping[str, Any],
                r: Mapping[str, Any] | None) -> list[tuple[str, str]]:
  rows = [
      ("Checkpoint", markdown.code(m["checkpoint"]["location"])),
      ("Source, format", f"{markdown.text(m['checkpoint']['source'])}, "
       f"{markdown.code(m['checkpoint']['format'])}"),
      *_channel_order(m["checkpoint"]),
      ("Weights, SHA-256", markdown.code(m["weights"]["sha256"])),
      ("Backbone, SHA-256", markdown.code(m["weights"]["backbone_sha256"])),
  ]
  if m["labels"]:
    rows.append(("Labels, SHA-256", markdown.code(m["labels"]["sha256"])))
  if r:
    rows.append(("Export, SHA-256", markdown.code(r["export_sha256"])))
    if r.get("archive"):
      rows += [("Archive, SHA-256", markdown.code(r["archive"]["sha256"])),
               ("Archive, bytes", f"{r['archive']['bytes']:,}")]
  return rows


def _channel_order(checkpoint: Mapping[str, Any]) -> list[tuple[str, str]]:
  """Returns what the checkpoint's own network takes, where it is known."""
  order = checkpoint.get("channel_order")
  if order is None:
    return []
  turned = "" if order == "RGB" else "; this module takes RGB all the same"
  return [("Channel order",
           f"{markdown.text(order)} in the checkpoint{turned}")]


def _steps(preprocessing: Mapping[str, Any]) -> list[tuple[str, str]]:
  """Returns what is done to an image outside of the network, in order."""
  inside = dict(_normalisation(preprocessing))
  rows = [row for row in _labelled(preprocessing) if row[0] not in inside]
  return sorted(rows, key=lambda row: row[0] != "resizes")


def _normalisation(preprocessing: Mapping[str, Any]) -> list[tuple[str, str]]:
  """Returns what the network itself takes off and divides by."""
  return _labelled({k: preprocessing[k] for k in ("mean", "std")
                    if k in preprocessing})


def _labelled(values: Mapping[str, Any]) -> list[tuple[str, str]]:
  """Returns rows of a record whose fields this module does not know."""
  return [(markdown.text(wording.label(key)),
           markdown.text(wording.value(value)))
          for key, value in values.items()]
