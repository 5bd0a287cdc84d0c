"""JSON of manifests and reports in words, for cards and other pages."""

from collections.abc import Mapping


def label(key: str) -> str:
  """Returns a key as people write it."""
  return key.replace("_", " ")


def value(field: object) -> str:
  """Returns a JSON value in words: nothing is rounded."""
  if field is None:
    return "none"
  if isinstance(field, bool):
    return "yes" if field else "no"
  if isinstance(field, float):
    return repr(int(field) if field.is_integer() else field)
  if isinstance(field, Mapping):
    return "; ".join(f"{label(k)}: {value(v)}" for k, v in field.items())
  if isinstance(field, (list, tuple)):
    separator = ", then " if any(
        isinstance(v, Mapping) for v in field) else ", "
    return separator.join(value(v) for v in field) or "none"
  return str(field)
