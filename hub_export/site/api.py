"""What is published, as JSON for programs."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from hub_export.site import models as models_lib
from hub_export.site import pages

SCHEMA_VERSION = 1


def models(place: pages.Place, entries: Sequence[models_lib.Model]) -> bytes:
  """Returns the document that lists `entries`."""
  return _encode({"schema_version": SCHEMA_VERSION,
                  "models": [_summary(place, entry) for entry in entries]})


def model(place: pages.Place, entry: models_lib.Model,
          side_files: Sequence[pages.File],
          module_files: Sequence[pages.File]) -> bytes:
  """Returns the document of one version, with all of its files."""
  parent = f"{place.base_url}/{entry.handle}".rpartition("/")[0]
  return _encode({
      "schema_version": SCHEMA_VERSION, **_summary(place, entry),
      "files": [{"name": file.name, "what": file.what, "bytes": file.bytes,
                 "sha256": file.sha256, "is_as_listed": file.is_as_listed,
                 "url": f"{parent}/{file.link}"}
                for file in side_files],
      "module_files": [{"name": file.name, "bytes": file.bytes,
                        "sha256": file.sha256,
                        "is_as_listed": file.is_as_listed}
                       for file in module_files]})


def problem(text: str) -> bytes:
  """Returns the document that says what was wrong."""
  return _encode({"schema_version": SCHEMA_VERSION, "error": text})


def _summary(place: pages.Place, entry: models_lib.Model) -> dict[str, Any]:
  handle = entry.handle
  url = f"{place.base_url}/{handle}"
  return {
      "handle": str(handle), "publisher": handle.publisher,
      "name": handle.name, "version": handle.version,
      **{field.name: getattr(entry, field.name)
         for field in dataclasses.fields(entry)
         if field.name not in ("handle", "top1", "top5")},
      "top1": _accuracy(entry.top1), "top5": _accuracy(entry.top5),
      "load_url": place.load_url(entry),
      "page_url": f"{place.base_url}/{place.page(handle)}",
      "archive_url": f"{url}.tar.gz", "card_url": f"{url}.md",
      "report_url": f"{url}.checks.json",
      "api_url": f"{place.base_url}/api/v1/models/{handle}.json"}


def _accuracy(accuracy: models_lib.Accuracy | None) -> dict[str, Any] | None:
  return None if accuracy is None else dataclasses.asdict(accuracy)


def _encode(document: dict[str, Any]) -> bytes:
  # ASCII, so that no reader has to guess the encoding.
  return json.dumps(document, indent=1, allow_nan=False).encode() + b"\n"
