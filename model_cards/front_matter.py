"""The YAML above a card on the Hugging Face Hub, and whether it is right.

It is what huggingface_hub's ModelCard reads: the licence, the task, the
data set, and as model-index the accuracy that was measured here; a reported
one is none of ours to claim. https://github.com/huggingface/hub-docs/blob/
main/modelcard.md lists the fields.
"""

import re
from collections.abc import Mapping
from typing import Any

from hub_export import forms

# Of the licences of tags.LICENCES, those that the Hub knows by that name.
_LICENCES = ("apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc-by-nc-4.0",
             "epl-2.0", "gpl-2.0", "gpl-3.0", "lgpl-2.1", "lgpl-3.0", "mit",
             "mpl-2.0")
_TASKS = {"classifier": "image-classification",
          "feature_extractor": "image-feature-extraction"}
# TensorFlow Hub's tags of data sets in the words of the Hugging Face Hub.
_DATASETS = {"imagenet-ilsvrc-2012-cls": "imagenet-1k",
             "imagenet-21k": "imagenet-21k", "cifar-10": "cifar10",
             "cifar-100": "cifar100", "svhn": "svhn"}
_REQUIRED = ("license", "pipeline_tag")
_BLOCK = re.compile(r"---\n(?P<yaml>.*?\n)---\n", re.DOTALL)


def metadata(m: Mapping[str, Any], r: Mapping[str, Any] | None
             ) -> dict[str, Any]:
  """Returns what the front matter has to say.

  Args:
    m: The module's manifest.
    r: The report of its checks, None if there is none.

  Raises:
    KeyError, TypeError, ValueError: if a field is missing or of another form.
  """
  licence = str(m["licence"]["id"]).lower()
  data = {"license": licence}
  if licence not in _LICENCES:
    data = {"license": "other", "license_name": licence}
  data |= {
      "pipeline_tag": _TASKS[m["kind"]],
      "tags": [*forms.by_name(m["form"]).tags,
               m["card"]["architecture"], m["family"],
               *(["demo"] if m["is_demo"] else [])]}
  dataset = _DATASETS.get(m["dataset"]["tfhub_tag"])
  if dataset:
    data["datasets"] = [dataset]
  result = _result(m, r)
  if result:
    data |= {"metrics": ["accuracy"],
             "model-index": [{"name": m["handle"].split("/")[1],
                              "results": [result]}]}
  return data


def text(data: Mapping[str, Any]) -> str:
  """Returns the block above a card, fences and an empty line included."""
  # Imported where it is used: other cards do without.
  import yaml  # pylint: disable=g-import-not-at-top
  block = yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True,
                         width=1 << 20)
  return f"---\n{block}---\n\n"


def split(card: str) -> tuple[str | None, str]:
  """Returns the YAML above a card, None if there is none, and the rest."""
  match = _BLOCK.match(card)
  if not match:
    return None, card
  return match["yaml"], card[match.end():]


def problems(block: str, m: Mapping[str, Any] | None,
             r: Mapping[str, Any] | None) -> list[str]:
  """Returns one message for each fault of the YAML above a card.

  Args:
    block: The YAML, without its fences.
    m: The manifest, if the card is held against one.
    r: The report, if there is one. Without it there may be no model-index.
  """
  import yaml  # pylint: disable=g-import-not-at-top
  try:
    data = yaml.safe_load(block)
  except (yaml.YAMLError, RecursionError, ValueError) as e:
    return [f"the front matter is no YAML ({' '.join(str(e).split())}); "
            "expected 'key: value', one a line"]
  if not isinstance(data, dict):
    return [f"the front matter is {block.strip()[:80]!r}; expected "
            "'key: value', one a line"]
  found = [f"no {key} in the front matter; expected '{key}: ...'"
           for key in _REQUIRED if key not in data]
  if data.get("license") == "other" and not data.get("license_name"):
    found.append("license is other in the front matter, without license_name; "
                 "expected the licence's name")
  if m is None:
    return found
  expected = metadata(m, r)
  for key, value in expected.items():
    seen = data.get(key)
    if key == "tags" and isinstance(seen, list):
      # A publisher's own may come beside these.
      missing = [tag for tag in value if tag not in seen]
      if missing:
        found.append(f"tags in the front matter lack {', '.join(missing)}; "
                     "add them")
    elif key in data and seen != value:
      found.append(f"{key} in the front matter is {_brief(seen)}; manifest "
                   f"and report say {_brief(value)}")
    elif key not in data and key not in _REQUIRED:
      found.append(f"no {key} in the front matter; manifest and report say "
                   f"{_brief(value)}")
  return found + [
      f"{key} in the front matter is {_brief(data[key])}; manifest and report "
      "say nothing of it. Remove it."
      for key in ("model-index", "datasets", "metrics", "license_name")
      if key in data and key not in expected]


def _result(m: Mapping[str, Any], r: Mapping[str, Any] | None
            ) -> dict[str, Any] | None:
  """Returns the measured top-1 and top-5 as a model-index has them."""
  metrics, dataset = (r or {}).get("metrics"), (r or {}).get("dataset")
  if not metrics or not dataset:
    return None
  is_own = dataset["name"] == m["dataset"]["name"]
  known = _DATASETS.get(m["dataset"]["tfhub_tag"]) if is_own else None
  return {
      # A feature extractor, too, is measured through its checkpoint's head.
      "task": {"type": "image-classification",
               "name": "Image classification"},
      "dataset": {
          "name": m["dataset"]["title"] if is_own else dataset["name"],
          "type": known or dataset["name"], "split": dataset["split"],
          "args": {"tfds": f"{dataset['name']}:{dataset['version']}",
                   "num_examples": dataset["num_examples"]}},
      "metrics": [
          {"type": "accuracy", "value": round(metrics[name]["value"], 2),
           "name": f"{title} accuracy, percent"}
          for name, title in (("top1", "Top-1"), ("top5", "Top-5"))
          if metrics.get(name) is not None]}


def _brief(value: object) -> str:
  return repr(value)[:300]
