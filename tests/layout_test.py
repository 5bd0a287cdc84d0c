"""Tests of hub_export/destinations/layout.py: when a version is published."""

import pytest

from hub_export import forms
from hub_export.destinations import layout

_DOCUMENTS = ("1.tar.gz", "1.md", "1.checks.json")


@pytest.mark.parametrize("form", forms.FORMS, ids=lambda f: f.name)
def test_each_form_has_a_file_that_makes_it_loadable(form):
  assert layout.is_marker(f"1/{form.marker}")
  assert layout.is_whole({f"1/{form.marker}", *_DOCUMENTS}, 1)
  assert not layout.is_whole({f"2/{form.marker}", *_DOCUMENTS}, 1)


@pytest.mark.parametrize("missing", _DOCUMENTS)
def test_a_version_without_a_document_is_not_whole(missing):
  names = {"1/saved_model.pb", *_DOCUMENTS} - {missing}
  assert not layout.is_whole(names, 1)


def test_published_versions():
  assert layout.published([
      "1/saved_model.pb", "12/model.tflite", "3/assets/saved_model.pb",
      "4/variables/variables.index", "saved_model.pb", "05/model.onnx",
      "6.evaluations/model.json"]) == {1, 12}
