"""TensorFlow Hub's rules for its documentation pages.

They are those of tensorflow/tfhub.dev's documentation validator.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hub_export import forms
from model_cards import page
from model_cards import tags

_PUBLISHER = r"[a-z\d-]+"
_NAME = r"(?!\.+(?:/|$))[\w.-]+(?:/(?!\.+(?:/|$))[\w.-]+)*"
_FIRST_LINE = re.compile(
    # A collection has no other version than 1.
    rf"# (?:(?P<kind>Module|Lite|Tfjs|Collection(?=.*/1$)) "
    rf"(?P<handle>{_PUBLISHER}/{_NAME}/[1-9]\d*)|(?P<publisher>Publisher) {_PUBLISHER})", re.ASCII)
_METADATA = re.compile(r"<!--(?P<key>[\w\s-]+):(?P<value>.+)-->", re.ASCII)
_HUB_URL = re.compile(r"https://tfhub\.dev/[a-z\d-]+/[\w.-]+")


@dataclasses.dataclass(frozen=True)
class Head:
  """What stands above a page's first heading."""
  kind: str | None    # One of tags.KINDS, None if line 1 is none of theirs.
  handle: str | None  # publisher/name/version; None on a publisher's page.
  metadata: tuple[tuple[str, str], ...]  # Keys and values, in order.
  body: tuple[str, ...]                  # The lines from that heading on.


def read(card: str) -> tuple[Head, list[str]]:
  """Returns a page's head, and what is wrong with its form and its tags."""
  lines = card.split("\n")
  # The validator of tfhub.dev drops this entity, too.
  first = _FIRST_LINE.fullmatch(lines[0].replace("&zwnj;", ""))
  found = []
  if not first:
    found.append(
        f"line 1 is {lines[0][:80]!r}; expected '# Module "
        "publisher/name/version' (or Lite, Tfjs or Collection), or "
        "'# Publisher publisher', the publisher in lower-case letters, digits "
        "and hyphens")
  metadata, body = _read_head(lines, found)
  kind = (first["kind"] or first["publisher"]) if first else None
  if kind:
    found += _tag_problems(kind, metadata)
  return Head(kind, first and first["handle"], tuple(metadata),
              tuple(body)), found


def link_problems(body: Sequence[str],
                   path: pathlib.Path | None) -> list[str]:
  """Returns what is wrong with a collection's links to its models."""
  text, _ = page.without_code("\n".join(body))
  pages = [link for link in page.links(text) if link.endswith(".md")
           and not re.match(r"[a-z]+:", link)]
  if not pages and not _HUB_URL.search(text):
    return ["a collection without a link to a model; expected at least one, "
            "such as [publisher/name/1](../../name/1.md)"]
  if path is None:
    return []
  return [f"the link to {target!r} leads nowhere; expected a page at "
          f"{path.parent / target}" for target in dict.fromkeys(pages)
          if not (path.parent / target).is_file()]


def manifest_problems(head: Head, manifest: Mapping[str, Any]) -> list[str]:
  """Returns how handle and tags differ from what the manifest says."""
  handle = manifest["handle"]
  metadata = head.metadata
  if not head.handle:
    return [] if not head.kind else ["the card is no card of a module; "
                                     f"expected '# Module {handle}'"]
  if forms.page(manifest) != "Module":
    return _conversion_problems(head, manifest)
  if head.kind == "Lite":
    expected = {}  # Its handle and archive are its own.
    found = [f"parent-model is {value[:80]!r}; the manifest says {handle!r}"
             for key, value in metadata
             if key == "parent-model" and value != handle]
  else:
    licence = str(manifest["licence"]["id"]).lower()
    dataset = manifest["dataset"]["tfhub_tag"]
    expected = {
        "format": [forms.format_tag(manifest)],
        "fine-tunable": [str(forms.is_fine_tunable(manifest)).lower()],
        "task": [{"classifier": "image-classification",
                  "feature_extractor": "image-feature-vector"}[
                      manifest["kind"]]],
        "network-architecture": [manifest["card"]["architecture"]],
        "dataset": [dataset] if dataset else [],
        "license": [licence if licence in tags.LICENCES else "custom"],
    }
    found = []
  if head.kind == "Collection" or (expected and head.handle != handle):
    found.append(f"the handle is {head.handle!r}; the manifest says "
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


def _conversion_problems(head: Head, manifest: Mapping[str, Any]) -> list[str]:
  """Returns how the card of a Lite or TF.js form differs from its manifest."""
  handle = manifest["handle"]
  publisher = handle.partition("/")[0]
  metadata = dict(head.metadata)
  # Which version it has is no affair of this module's manifest.
  parent = metadata.get("parent-model", "").rpartition("/")[0]
  kind = forms.page(manifest)
  # Of a Lite model TensorFlow Hub takes the one file.
  asset = (f"{handle}/{manifest['lite']['file']}" if kind == "Lite" else
           f"{handle}.tar.gz")
  return [f"{what} is {seen!r}; the manifest says {wanted!r}"
          for what, seen, wanted in (
              ("the kind of page", head.kind, kind),
              ("the handle", head.handle, handle),
              ("asset-path", metadata.get("asset-path"), asset),
              ("parent-model without its version", parent,
               f"{publisher}/{manifest['parent']}")) if seen != wanted]


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
  late, _ = page.without_code("\n".join(body))
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
        rf"{_PUBLISHER}/{_NAME}/[1-9]\d*", value, re.ASCII):
      found.append(f"parent-model is {value[:80]!r}; expected the handle of "
                   "the module that it was converted from, "
                   "publisher/name/version")
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
  if re.match(r"https?://(www\.)?github\.com/", value, re.IGNORECASE):
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
