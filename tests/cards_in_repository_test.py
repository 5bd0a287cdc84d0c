"""Every card in the repository is sound, and what the templates make of it."""

import pathlib
import re

import pytest

from model_cards import render_examples
from model_cards import validate

_ROOT = pathlib.Path(__file__).parents[1]
_EXAMPLES = _ROOT / "model_cards" / "examples"
_CARDS = dict(render_examples.cards(_EXAMPLES))


def _pages():
  """Returns the pages in the repository that are in a card's form."""
  return [path for package in ("checks", "hub_export", "model_cards", "tests")
          for path in sorted((_ROOT / package).rglob("*.md"))
          if re.match(r"# (Module|Lite|Tfjs|Collection|Publisher) |---\n"
                      r"|# Model Summary", path.read_text("utf-8"))]


def test_there_is_one_of_each_form():
  assert {path.relative_to(_EXAMPLES).as_posix() for path in _CARDS} == {
      "local/regnety200mf_digits_classification/1.md",
      "local/regnety200mf_digits_classification/README.md",
      "local/regnety200mf_digits_classification/kaggle.md",
      "local/local.md", "local/collections/regnet/1.md"}
  assert set(_CARDS) <= set(_pages())


@pytest.mark.parametrize("path", _pages(),
                         ids=lambda path: str(path.relative_to(_ROOT)))
def test_is_sound(path):
  found, against = validate.file_problems(path)
  assert found == []
  assert against.startswith("numbers traced to") or (
      path.name == "local.md")  # A publisher's page has none.


@pytest.mark.parametrize("path", _CARDS, ids=lambda path: path.name)
def test_is_what_the_templates_make(path):
  assert path.read_text("utf-8") == _CARDS[path], (
      "render it anew with the program //model_cards:render_examples")
