"""What RFC 9110 says of conditional requests and of parts of files."""

import email.utils
import re
from collections.abc import Iterable, Mapping

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class Unsatisfiable(Exception):
  """The part asked for lies behind the end."""


def headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
  """Returns a request's headers: several of a name are one (section 5.3)."""
  found: dict[str, list[str]] = {}
  for name, value in raw:
    found.setdefault(name.decode("latin-1").lower(), []).append(
        value.decode("latin-1"))
  return {name: ", ".join(values) for name, values in found.items()}


def takes_gzip(headers: Mapping[str, str]) -> bool:
  """Returns whether the client takes what is compressed (section 12.5.3)."""
  for item in headers.get("accept-encoding", "").lower().split(","):
    coding, *parameters = (part.strip() for part in item.split(";"))
    if coding == "gzip":
      return not any(re.fullmatch(r"q\s*=\s*0(\.0*)?", parameter)
                     for parameter in parameters)
  return False


def is_wanted(headers: Mapping[str, str], etag: str,
              modified: float | None = None) -> bool:
  """Returns whether the client still wants what it would get: If-Match.

  Args:
    headers: The request's, lower case.
    etag: Of what would be sent.
    modified: When it last changed, in seconds since 1970, if that is known.
  """
  wanted = headers.get("if-match")
  if wanted is not None:
    # Tags that are only similar ("W/") do not count here (section 13.1.1).
    tags = [tag.strip() for tag in wanted.split(",")]
    return "*" in tags or etag in tags
  until = _seconds(headers.get("if-unmodified-since"))
  return modified is None or until is None or int(modified) <= until


def is_unchanged(headers: Mapping[str, str], etag: str,
                 modified: float | None = None) -> bool:
  """Returns whether the client has what it asks for (section 13.2.2).

  Args:
    headers: The request's, lower case.
    etag: Of what would be sent.
    modified: When it last changed, in seconds since 1970, if that is known.
  """
  wanted = headers.get("if-none-match")
  if wanted is not None:
    tags = [tag.strip().removeprefix("W/") for tag in wanted.split(",")]
    return "*" in tags or etag in tags
  since = _seconds(headers.get("if-modified-since"))
  return (modified is not None and since is not None
          and int(modified) <= since)


def wanted_part(headers: Mapping[str, str], num_bytes: int, etag: str,
                modified: float) -> tuple[int, int] | None:
  """Returns start and end (behind the last byte) of the part that is wanted.

  None stands for all: no part is asked for, or it is of something older, or
  there are several, which a server need not serve (section 14.2).

  Args:
    headers: The request's, lower case.
    num_bytes: Size of the whole.
    etag: Of the whole.
    modified: When it last changed, in seconds since 1970.

  Raises:
    Unsatisfiable: if the part begins behind the end.
  """
  match = _RANGE.fullmatch(headers.get("range", "").strip())
  if not match or match.groups() == ("", ""):
    return None
  condition = headers.get("if-range")
  if condition is not None and condition != etag:
    # A date counts only if it is exactly that of the file (13.1.5).
    if _seconds(condition) != int(modified):
      return None
  first, last = match.groups()
  if not first:
    start, end = max(0, num_bytes - int(last)), num_bytes
    if last.strip("0") == "":
      raise Unsatisfiable
  else:
    start = int(first)
    end = min(int(last) + 1, num_bytes) if last else num_bytes
    if last and int(last) < start:
      return None  # Not a range at all.
  if start >= num_bytes:
    raise Unsatisfiable
  return start, end


def _seconds(date: str | None) -> int | None:
  try:
    return int(email.utils.parsedate_to_datetime(date or "").timestamp())
  except (ValueError, TypeError, OverflowError):
    return None
