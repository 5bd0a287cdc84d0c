"""What the README states, against the registry, the catalog and the targets."""

import pathlib
import re

import pytest

from hub_export.regnet import variants
from hub_export.regnet import catalog

_ROOT = pathlib.Path(__file__).parents[1]
_README = (_ROOT / "README.md").read_text("utf-8")


def _rows() -> list[list[str]]:
  """Returns the cells of the table of variants."""
  table = _README[_README.index("| `--variant` | also"):].split("\n\n")[0]
  return [[cell.strip() for cell in line.strip("|").split("|")]
          for line in table.splitlines()[2:]]


def test_the_table_lists_every_variant():
  assert [row[0].strip("`") for row in _rows()] == [
      v.name.removeprefix("regnety_") for v in variants.VARIANTS]


@pytest.mark.parametrize("row", _rows(), ids=lambda row: row[0])
def test_the_table_of_variants(row):
  name, also, depths, widths, *figures = row
  variant = variants.by_name(name.strip("`"))
  for alias in also.split(", "):
    assert variants.by_name(alias.strip("`")) == variant
  keras, regnety = (variants.architecture(variant, source)
                    for source in ("keras", "regnety"))
  assert widths == " ".join(str(s.width) for s in keras.stages)
  stated = " ".join(str(s.depth) for s in keras.stages)
  if [s.depth for s in keras.stages] != [s.depth for s in regnety.stages]:
    other = " ".join(str(s.depth) for s in regnety.stages)
    stated += f" (`regnety`: {other})"
  assert depths == stated
  reported = {e.source: e.accuracy.top1 for e in catalog.ENTRIES
              if e.variant == variant.name}
  assert figures == [
      f"{variants.parameter_counts(keras, 1000)[0]:,}",
      f"{variants.parameter_counts(regnety, 1000)[0]:,}",
      f"{variants.multiply_adds(keras, 1000, 224):,}",
      f"{reported['keras']:.2f} %", f"{reported['regnety']:.2f} %"]


def test_every_program_named_is_one():
  programs = set(re.findall(r"run //(\w+):(\w+)", _README))
  assert {name for _, name in programs} == {
      "export", "check", "publish", "serve"}
  for package, name in programs:
    source = (_ROOT / package / f"{name}.py").read_text("utf-8")
    for flag in re.findall(rf"//{package}:{name} .*", _README):
      for word in re.findall(r"--(\w+)=", flag):
        assert f'"{word}"' in source, f"{name} has no flag --{word}"


def test_nothing_was_left_to_fill_in():
  assert "@@" not in _README and "TODO" not in _README


def test_every_catalog_name_is_one():
  for name in re.findall(r"`((?:keras|regnety):\w+)`", _README):
    assert catalog.by_name(name).name == name
