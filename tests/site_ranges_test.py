"""Tests of hub_export/site/ranges.py against RFC 9110."""

import pytest

from hub_export.site import ranges

_TAG = '"a-b"'
# RFC 9110's own example of a date, and its seconds.
_DATE, _SECONDS = "Sun, 06 Nov 1994 08:49:37 GMT", 784111777


def _part(wanted: str, num_bytes: int = 100, **headers: str):
  return ranges.wanted_part(
      {"range": wanted, **{k.replace("_", "-"): v for k, v in headers.items()}},
      num_bytes, _TAG, _SECONDS + 0.5)


@pytest.mark.parametrize("wanted, expected", [
    ("bytes=0-0", (0, 1)), ("bytes=10-19", (10, 20)), ("bytes=90-", (90, 100)),
    ("bytes=-5", (95, 100)), ("bytes=-500", (0, 100)),
    ("bytes=99-1000", (99, 100)), (" bytes=1-2 ", (1, 3))])
def test_parts(wanted, expected):
  assert _part(wanted) == expected


@pytest.mark.parametrize("wanted", [
    "", "bytes=-", "bytes=5-4", "items=0-1", "bytes=a-b", "bytes=0-1,5-6",
    "bytes=" + "9" * 5000 + "-", "bytes=\u0661-", "bytes=1-2;"])
def test_what_is_no_part_is_passed_over(wanted):
  assert _part(wanted) is None


@pytest.mark.parametrize("wanted", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_parts_behind_the_end(wanted):
  with pytest.raises(ranges.Unsatisfiable):
    _part(wanted)


def test_nothing_is_a_part_of_an_empty_file():
  for wanted in ("bytes=0-", "bytes=-1"):
    with pytest.raises(ranges.Unsatisfiable):
      _part(wanted, num_bytes=0)


@pytest.mark.parametrize("condition, counts", [
    (_TAG, True), ('W/"a-b"', False), ('"other"', False), (_DATE, True),
    ("Sun, 06 Nov 1994 08:49:38 GMT", False), ("nonsense", False)])
def test_parts_of_the_same_file_alone(condition, counts):
  assert _part("bytes=1-2", if_range=condition) == ((1, 3) if counts else None)


@pytest.mark.parametrize("headers, expected", [
    ({}, False), ({"if-none-match": _TAG}, True),
    ({"if-none-match": 'W/"a-b"'}, True), ({"if-none-match": "*"}, True),
    ({"if-none-match": '"x", "a-b"'}, True), ({"if-none-match": '"x"'}, False),
    ({"if-modified-since": _DATE}, True),
    ({"if-modified-since": "Sun, 06 Nov 1994 08:49:36 GMT"}, False),
    ({"if-modified-since": "nonsense"}, False),
    # A tag is the better witness (section 13.2.2).
    ({"if-none-match": '"x"', "if-modified-since": _DATE}, False)])
def test_unchanged(headers, expected):
  assert ranges.is_unchanged(headers, _TAG, _SECONDS + 0.5) == expected


def test_without_a_date_of_change():
  assert not ranges.is_unchanged({"if-modified-since": _DATE}, _TAG)


@pytest.mark.parametrize("headers, expected", [
    ({}, True), ({"if-match": _TAG}, True), ({"if-match": "*"}, True),
    ({"if-match": f'"x", {_TAG}'}, True), ({"if-match": '"x"'}, False),
    ({"if-match": f"W/{_TAG}"}, False),
    ({"if-unmodified-since": _DATE}, True),
    ({"if-unmodified-since": "Sun, 06 Nov 1994 08:49:36 GMT"}, False),
    ({"if-match": _TAG,
      "if-unmodified-since": "Sun, 06 Nov 1994 08:49:36 GMT"}, True)])
def test_wanted(headers, expected):
  assert ranges.is_wanted(headers, _TAG, _SECONDS + 0.5) == expected


def test_several_lines_of_one_header_are_one():
  assert ranges.headers([
      (b"If-None-Match", b'"x"'), (b"a", b"\xe9"),
      (b"if-none-match", _TAG.encode())]) == {
          "if-none-match": f'"x", {_TAG}', "a": "\u00e9"}


@pytest.mark.parametrize("value, expected", [
    ("gzip", True), ("br, GZIP;q=0.5", True), ("gzip; q=0", False),
    ("gzip;q=0.000, br", False), ("gzip;q=0.001", True), ("", False),
    ("xgzip", False), ("br", False)])
def test_compressed(value, expected):
  assert ranges.takes_gzip({"accept-encoding": value}) == expected
