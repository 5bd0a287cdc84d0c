"""What remote places have in common: one message for whatever goes wrong.

Their clients raise a great many things, with URLs, headers and whole answers in
the text. `calls` turns these into a `RemoteError` that says what was tried,
what the server answered and what to do, without a secret in it.
"""

import contextlib
import dataclasses
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator

from hub_export import errors

IF_PUBLIC = "  # Where it is public."
_LONGEST_DETAIL = 240  # Characters of what a server says of its refusal.
_HIDDEN = "[hidden]"
# What hides a secret by its form, wherever it comes from: signed URLs, user and
# password in URLs, tokens by their usual prefixes, authorisation headers.
_SECRET_FORMS = (
    (re.compile(r"\?[^\s'\"<>]*"), "?..."),
    (re.compile(r"://[^\s'\"<>]+@"), f"://{_HIDDEN}@"),
    (re.compile(r"\b(hf_|ya29\.|KGAT_|AKIA|ASIA)[\w.-]{8,}"), _HIDDEN),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]+"), rf"\1 {_HIDDEN}"),
)
# Mistakes of programs; no server's doing.
_BUGS = (TypeError, AttributeError, NameError, AssertionError)
_OWN_PACKAGES = ("hub_export", "checks", "model_cards", "tests", "__main__")


@dataclasses.dataclass(frozen=True)
class Access:
  """How a remote place knows who publishes."""
  service: str                         # Such as "Amazon S3".
  ways: tuple[str, str, str]           # To give credentials, a phrase each.
  secrets: Callable[[], Iterable[str]]  # What must never be shown.

  def missing(self) -> errors.RemoteError:
    """Returns the error that there are no credentials."""
    return errors.RemoteError(
        f"there are no credentials for {self.service}; expected them in one "
        f"of three ways: {self._spoken()}. Give them and publish again.")

  def refused(self) -> str:
    """Returns what to do about credentials that do not do."""
    return (f"Give credentials that may, in one of three ways: "
            f"{self._spoken()}; then publish again.")

  def _spoken(self) -> str:
    return "; ".join(f"({i}) {way}" for i, way in enumerate(self.ways, 1))


@contextlib.contextmanager
def calls(action: str, access: Access) -> Iterator[None]:
  """Turns what a client raises in the block into a RemoteError.

  Args:
    action: What the block does and where, such as "write s3://bucket/1.md".
    access: Whose server it is.

  Raises:
    RemoteError: in place of any exception but a HubExportError, or a bug of
      this project. Clients meet odd answers with a TypeError, too.
  """
  try:
    yield
  except errors.HubExportError:
    raise
  except Exception as e:
    if isinstance(e, _BUGS):
      if _is_own(e):
        raise
      e = ValueError(
          f"it answered what its client cannot read, {type(e).__name__}: {e}")
    # Without the cause: its text and the objects in it are not redacted.
    raise errors.RemoteError(_message(e, action, access)) from None


def status(error: BaseException) -> int | None:
  """Returns the HTTP status behind an exception; None if no answer came."""
  for e in _chain(error):
    response = getattr(e, "response", None)
    found = (getattr(response, "status_code", None)
             or getattr(response, "status", None))
    if isinstance(response, dict):  # botocore's.
      found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    found = found or getattr(e, "status", None) or getattr(e, "code", None)
    if isinstance(found, int) and 100 <= found < 600:
      return found
    if str(found).isdigit() and len(str(found)) == 3:
      return int(found)
  for e in _chain(error):
    if isinstance(e, PermissionError) or str(e).startswith("Forbidden"):
      return 403
    if isinstance(e, FileNotFoundError):
      return 404
  return None


def redact(text: str, secrets: Iterable[str] = ()) -> str:
  """Returns `text` without secrets: known ones, and what has their form."""
  for secret in sorted(filter(None, secrets), key=len, reverse=True):
    text = text.replace(secret, _HIDDEN)
  for form, replacement in _SECRET_FORMS:
    text = form.sub(replacement, text)
  return text


def without_login(url: str) -> str:
  """Returns a URL without user and password."""
  return re.sub(r"^([^/]*//)[^/]*@", r"\1", url)


def in_environment(*names: str) -> list[str]:
  """Returns the values of those environment variables that are set."""
  return [os.environ[name] for name in names if os.environ.get(name)]


def set_default(name: str, value: str) -> None:
  """Sets an environment variable for clients, unless the user has set it."""
  os.environ.setdefault(name, value)


def quiet_logs(*names: str) -> None:
  """Keeps what clients log to themselves: tracebacks, and whole answers."""
  for name in names:
    logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def quiet_progress() -> None:
  """Keeps clients' progress bars out of files; call before their import."""
  if not sys.stderr.isatty():
    set_default("TQDM_DISABLE", "1")
    set_default("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _is_own(error: Exception) -> bool:
  """Whether the code that raised is this project's, and no client's."""
  *_, (frame, _) = traceback.walk_tb(error.__traceback__)
  package = str(frame.f_globals.get("__name__")).partition(".")[0]
  return package in _OWN_PACKAGES


def _message(error: Exception, action: str, access: Access) -> str:
  found = status(error)
  said = _detail(error, access)
  answer = f"{found}: {said}" if found else said
  start = f"cannot {action}"
  # s3fs leaves out the code RequestTimeTooSkewed; its message is told.
  if re.search(r"TimeTooSkewed|request time and the current time|[Cc]lock|"
               "RequestExpired", said):
    return (f"{start} ({answer}); expected this machine's clock to agree with "
            "that of the server. Set the clock, then publish again.")
  if found in (401, 403):
    return (f"{start}: {access.service} refused it ({answer}); expected to be "
            f"let in. {access.refused()}")
  if found == 404:
    return (f"{start}: {access.service} does not know it ({answer}); expected "
            "it to exist and to be visible with these credentials. Check the "
            "name in --to, make it there first if it is missing.")
  if found == 507 or re.search(r"No space left|quota", said, re.IGNORECASE):
    return (f"{start} ({answer}); expected enough space. Free some, then "
            "publish again.")
  if found is None or found == 429 or found >= 500:
    return (f"{start}: the server of {access.service} failed or was not "
            f"reached ({answer}); expected an answer. Nothing is half "
            "published; publish again to go on.")
  return (f"{start} ({answer}); expected {access.service} to take it. Put "
          "that right, then publish again.")


def _detail(error: Exception, access: Access) -> str:
  # Of a page of HTML, the text; all in one line.
  text = " ".join(re.sub(r"<[^<>]*>", " ", str(error)).split())
  # aiohttp and requests tell little but the class for a cut connection.
  if type(error).__name__ not in text and status(error) is None:
    text = f"{type(error).__name__}: {text}".removesuffix(": ")
  text = redact(text, access.secrets())
  return (text if len(text) <= _LONGEST_DETAIL
          else text[:_LONGEST_DETAIL] + "...")


def _chain(error: BaseException) -> Iterator[BaseException]:
  seen: set[int] = set()
  while error is not None and id(error) not in seen:
    seen.add(id(error))
    yield error
    error = error.__cause__ or error.__context__
