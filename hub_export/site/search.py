"""Finding and ordering models: what a visitor types, and what is meant."""

import functools
import re
from collections.abc import Callable, Sequence

from hub_export.site import models as models_lib

KINDS = {"classifier": "classifier", "feature_extractor": "feature extractor"}
_NOT_WORD = re.compile(r"[^a-z0-9]+")


@functools.lru_cache(maxsize=10_000)
def text(model: models_lib.Model) -> str:
  """Returns all that a model can be found by, in the form of `words`."""
  fields = (str(model.handle), model.title, model.description,
            KINDS.get(model.kind, model.kind), model.variant, model.family,
            model.dataset, model.dataset_title, model.licence, model.form,
            "demo" if model.is_demo else "")
  # As one word and in its parts: "regnety_600mf" is found by "RegNetY-600MF"
  # and by "600mf".
  parts = [part for field in fields if field for part in field.split()]
  return " ".join(dict.fromkeys(filter(None, map(_plain, parts))))


def words(query: str) -> list[str]:
  """Returns the words of a query without case, hyphens and the like."""
  return list(filter(None, map(_plain, query.split())))


def matching(models: Sequence[models_lib.Model], query: str,
             kind: str | None = None) -> list[models_lib.Model]:
  """Returns the models in which every word of `query` occurs.

  Args:
    models: Among these.
    query: As typed; an empty one finds all.
    kind: One of KINDS, or None for all.
  """
  wanted = words(query)
  return [model for model in models
          if kind in (None, model.kind)
          and all(word in text(model) for word in wanted)]


def _plain(word: str) -> str:
  return _NOT_WORD.sub("", word.lower())


# By what a list can be ordered: largest first, or as a word says.
ORDERS: dict[str, tuple[str, Callable[[models_lib.Model], float | None]]] = {
    "top1": ("highest top-1",
             lambda m: -m.top1.value if m.top1 else None),
    "parameters": ("fewest parameters", lambda m: m.parameters),
    "multiply_adds": ("fewest multiply-adds", lambda m: m.multiply_adds),
    "size": ("smallest download", lambda m: m.archive_bytes),
}


def ordered(models: Sequence[models_lib.Model], order: str | None
            ) -> list[models_lib.Model]:
  """Returns the models by one of ORDERS, those without that figure last.

  Any other `order` leaves them as they are.
  """
  if order not in ORDERS:
    return list(models)
  _, figure = ORDERS[order]

  def key(model: models_lib.Model) -> tuple[bool, float]:
    value = figure(model)
    return (value is None, value or 0)

  return sorted(models, key=key)
