"""What the README states, against the registry, the catalog and the targets."""

import pathlib
import re

import pytest

from hub_export.regnet import catalog
from hub_export.regnet import variants

_ROOT = pathlib.Path(__file__).parents[1]
_README = (_ROOT / "README.md").read_text("utf-8")


def _rows(header: str) -> list[list[str]]:
  """Returns the cells of the table with this header."""
  table = _README[_README.index(header):].split("\n\n")[0]
  return [[cell.strip() for cell in line.strip("|").split("|")]
          for line in table.splitlines()[2:]]


_VARIANTS = _rows("| `--variant` | also")
_OTHERS = _rows("| `--variant` | built by")


def test_the_table_lists_every_variant():
  assert [variants.by_name(row[0].strip("`")) for row in _VARIANTS] == list(
      variants.VARIANTS)


@pytest.mark.parametrize("row", _VARIANTS, ids=lambda row: row[0])
def test_the_table_of_variants(row):
  name, also, depths, widths, parameters, macs, best = row
  variant = variants.by_name(name.strip("`"))
  for alias in also.split(", "):
    assert variants.by_name(alias.strip("`")) == variant
  arch = variants.architectures(variant, "torch")[0]
  assert depths == " ".join(str(s.depth) for s in arch.stages)
  assert widths == " ".join(str(s.width) for s in arch.stages)
  assert parameters == f"{variants.parameter_counts(arch, 1000)[0]:,}"
  assert macs == f"{variants.multiply_adds(arch, 1000, 224) / 1e9:.2f} G"
  entry = catalog.best(variant)
  if entry is None:
    assert best == "none without a restricted licence"
    return
  figure, name, *size = re.fullmatch(
      r"([\d.]+) % `(\S+?)`(?: at (\d+) px)?", best).groups()
  assert name == entry.name
  evaluation = max((e for e in entry.evaluations if e.accuracy),
                   key=lambda e: e.accuracy.top1)
  assert figure == f"{evaluation.accuracy.top1:.2f}"
  assert int(size[0] or 224) == evaluation.image_size


def test_the_table_of_other_networks():
  stated = {(variants.by_name(row[0].strip("`")).name, *row[2:])
            for row in _OTHERS}
  built = [variants.architectures(v, "torch")[1:] for v in variants.VARIANTS]
  built += [variants.architectures(variants.by_name(f"{size}mf"), "regnety")
            for size in (200, 400, 600, 800)]
  assert stated == {
      (arch.name, " ".join(str(s.depth) for s in arch.stages),
       " ".join(str(s.width) for s in arch.stages),
       f"{variants.parameter_counts(arch, 1000)[0]:,}")
      for found in built for arch in found}


def test_the_size_of_the_catalog():
  rows = sum(len(e.evaluations) for e in catalog.ENTRIES)
  assert f"{len(catalog.ENTRIES)} checkpoints, in {rows} rows" in _README


def test_every_program_named_is_one():
  programs = set(re.findall(r"run //(\w+):(\w+)", _README))
  assert {name for _, name in programs} == {
      "catalog", "check", "check_forms", "compare", "datasets", "evaluate",
      "evaluation", "export", "export_forms", "peers", "publish", "release",
      "render_examples", "serve", "suite", "validate", "verify"}
  for package, name in programs:
    # The same program with more packages around it.
    file = f"{name.removesuffix('_forms')}.py"
    source = (_ROOT / package / file).read_text("utf-8")
    # Flags that several programs share.
    for shared in ("options", "contest_program"):
      if f"import {shared}\n" in source:
        source += (_ROOT / package / f"{shared}.py").read_text("utf-8")
    for flag in re.findall(rf"//{package}:{name} .*", _README):
      for word in re.findall(r"--(\w+)=", flag):
        assert f'"{word}"' in source, f"{name} has no flag --{word}"


def test_nothing_was_left_to_fill_in():
  assert "@@" not in _README and "TODO" not in _README


def test_every_catalog_name_is_one():
  names = re.findall(
      r"(?:keras|regnety|timm|torchvision|pycls):[\w./-]*\w(?![\w*])",
      _README.replace("models/regnety:predict", ""))
  assert len(names) > 30
  for name in names:
    assert catalog.by_name(name).name == name
