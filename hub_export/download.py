"""Downloads that can be trusted: resumed, retried, whole or not at all, pinned.

A file is fetched once and lies in a directory of the cache from then on. What
comes must have the SHA-256 that was published, in full or its first digits;
where none is published, the hash of the first download is recorded beside the
file, and other content is refused later. While a file is on its way its first
part is kept, so that an interrupted download goes on where it stopped:

    model.safetensors                  the file, only ever whole
    model.safetensors.download.json    its hash as recorded at first use
    model.safetensors.part             what has come so far
    model.safetensors.part.json        which version of the file that is of
"""

import contextlib
import dataclasses
import datetime
import email.utils
import hashlib
import json
import os
import pathlib
import re
import shutil
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import requests
import tqdm
import urllib3

from hub_export import errors
from hub_export import export_dirs

_BLOCK_BYTES = 1 << 18
_MOST_REDIRECTS = 10
_LONGEST_WAIT_S = 120.0    # That a server may ask for before it counts as down.
_PROGRESS_BYTES = 1 << 20  # An attempt that brings this much is no failure.
_RETRIED_STATUS = (408, 425, 429, 500, 502, 503, 504)


@dataclasses.dataclass(frozen=True)
class Retry:
  """How often, and after how long, a download is tried again."""
  attempts: int = 5          # In a row without progress.
  first_delay_s: float = 1   # Doubled for each further attempt.
  timeout_s: float = 20      # To connect, and between two pieces.
  sleep: Callable[[float], None] = time.sleep


DEFAULT_RETRY = Retry()


class _Again(Exception):
  """A failure that may pass; becomes an UnavailableError if it does not."""

  def __init__(self, message: str, wait_s: float | None = None,
               attempts: int | None = None):
    super().__init__(message)
    self.wait_s = wait_s      # What the server asked for.
    self.attempts = attempts  # Fewer than usual, where hope is small.


@dataclasses.dataclass(frozen=True)
class _Job:
  """One file to be had, and where its parts lie."""
  url: str
  path: pathlib.Path
  pin: str | None             # Hexadecimal SHA-256 or its first digits.
  what: str                   # What messages call it.
  retry: Retry

  def beside(self, suffix: str) -> pathlib.Path:
    return self.path.with_name(self.path.name + suffix)

  @property
  def part(self) -> pathlib.Path:
    return self.beside(".part")

  @property
  def part_record(self) -> pathlib.Path:
    return self.beside(".part.json")

  @property
  def record(self) -> pathlib.Path:
    return self.beside(".download.json")


def fetch_url(url: str, cache: pathlib.Path, offline: bool = False,
              retry: Retry | None = None) -> pathlib.Path:
  """Returns where the file of a URL lies, in a directory of its own.

  The arguments and errors are those of `fetch`; nothing is known of the hash,
  so that the first download's is recorded.
  """
  key = hashlib.sha256(url.encode()).hexdigest()[:16]
  return fetch(url, cache / "urls" / key, offline=offline, retry=retry)


def fetch(url: str, directory: pathlib.Path, *, offline: bool = False,
          sha256: str | None = None, what: str | None = None,
          retry: Retry | None = None) -> pathlib.Path:
  """Returns where a file lies, downloading what is missing of it.

  Proxies are those of the environment (HTTP_PROXY, HTTPS_PROXY, NO_PROXY).
  Two programs that want the same file download it once.

  Args:
    url: http or https.
    directory: Where in the cache the file is kept under the URL's last part;
      made if missing.
    offline: Whether to use no network at all.
    sha256: What the file's SHA-256 is known to be, in hexadecimal: 64 digits,
      or the first ones. None records it at first use.
    what: What messages call the file; by default the URL without secrets.
    retry: How often to try; `DEFAULT_RETRY` by default.

  Raises:
    UsageError: if it is no http or https URL of a file.
    UnavailableError: if it is neither in the cache nor can be had, or is not
      the file that was published or recorded.
    WriteError: if the cache cannot be written.
  """
  job = _Job(url, directory / file_name(url), sha256, what or shown(url),
             retry or DEFAULT_RETRY)
  if _is_cached(job, offline):
    return job.path
  with _writing(job.path):
    directory.mkdir(parents=True, exist_ok=True)
  with _locked(job):
    # Whoever held the lock may have brought it.
    if not _is_cached(job, offline):
      _download(job)
  return job.path


def file_name(url: str) -> str:
  """Returns the name that a URL's file has in the cache.

  Raises:
    UsageError: if it is no http or https URL of a file.
  """
  try:
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname
  except ValueError:
    host = None
  name = host and urllib.parse.unquote(parts.path.rsplit("/", 1)[-1])
  if not host or parts.scheme not in ("http", "https") or not name:
    raise errors.UsageError(
        f"{shown(url)} is no address of a file; expected "
        "https://host/path/file")
  # No directory, nothing hidden, and short enough for every file system.
  return re.sub(r"[^\w.+=@-]|^\.", "_", name)[-150:]


def shown(url: str) -> str:
  """Returns a URL without what must not be printed: password and query."""
  try:
    parts = urllib.parse.urlsplit(url)
    netloc = parts.netloc.rsplit("@", 1)[-1]
    return urllib.parse.urlunsplit((parts.scheme, netloc, parts.path, "", ""))
  except ValueError:
    return "the URL"


def _is_cached(job: _Job, offline: bool) -> bool:
  """Returns whether the file is there and is what it should be.

  Raises:
    UnavailableError: if it is not and there is no network to get it from.
  """
  if not os.path.isfile(job.path):
    if offline:
      raise errors.UnavailableError(
          f"{job.what} is not in the cache ({job.path}) and --offline forbids "
          f"a download. Run once without it, or put {shown(job.url)} there.")
    return False
  with _reading(job.path):
    found = export_dirs.file_sha256(job.path)
  expected = job.pin or _recorded(job).get("sha256")
  if expected is None:  # Put there by hand, or by an older version.
    _record(job, found, job.path.stat().st_size)
    return True
  if found.startswith(expected):
    return True
  if offline:
    raise errors.UnavailableError(
        f"{job.path} is damaged: its SHA-256 is {found}, expected {expected}, "
        "and --offline forbids to download it again. Run once without it.")
  return False


def _recorded(job: _Job) -> Mapping[str, Any]:
  """Returns what was recorded of the file at first use; empty if nothing."""
  try:
    record = json.loads(job.record.read_text("utf-8"))
    if re.fullmatch("[0-9a-f]{64}", record["sha256"]):
      return record
    raise ValueError("no SHA-256")
  except FileNotFoundError:
    return {}
  except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
    raise errors.UnavailableError(
        f"{job.record} cannot be read ({e}); expected the hash of "
        f"{job.path.name} as it first came. Delete both files to download it "
        "anew and accept what comes.") from e


def _record(job: _Job, sha256: str, size: int) -> None:
  """Records what came, for the next time."""
  now = datetime.datetime.now(datetime.timezone.utc)
  export_dirs.write_file(job.record, json.dumps({
      "url": shown(job.url), "sha256": sha256, "bytes": size,
      "date": now.date().isoformat()}, indent=2) + "\n")


@contextlib.contextmanager
def _locked(job: _Job) -> Iterator[None]:
  """Holds the directory's lock; says so if another program has it."""
  with contextlib.ExitStack() as stack:
    try:
      stack.enter_context(export_dirs.lock(job.path.parent, wait=False))
    except BlockingIOError:
      print(f"Waiting for another program that downloads {job.what}",
            file=sys.stderr, flush=True)
      stack.enter_context(export_dirs.lock(job.path.parent))
    except OSError:  # Some network file systems have no locks.
      pass
    yield


def _download(job: _Job) -> None:
  """Brings the file; tries again and goes on where it stopped."""
  failures = 0
  started_anew = False
  while True:
    size_before = _size(job.part)
    try:
      resumed = _attempt(job)
    except _Again as e:
      if _size(job.part) - size_before >= _PROGRESS_BYTES:
        failures = 0
      failures += 1
      if failures >= min(job.retry.attempts,
                         e.attempts or job.retry.attempts):
        _fail(job, str(e), e)
      delay_s = job.retry.first_delay_s * 2 ** (failures - 1)
      job.retry.sleep(max(delay_s, e.wait_s or 0))
      continue
    problem = _finish(job)
    if problem is None:
      return
    # Parts of two versions, or a part that was damaged on the disk.
    if not resumed or started_anew:
      raise problem
    started_anew = True


def _finish(job: _Job) -> errors.UnavailableError | None:
  """Makes a complete part the file; returns what is wrong with it, if so."""
  with _reading(job.part):
    found = export_dirs.file_sha256(job.part)
    size = _size(job.part)
    with open(job.part, "rb") as f:
      page = _page(f.read(512))
  recorded = _recorded(job)
  expected = job.pin or recorded.get("sha256")
  problem = None
  if expected and not found.startswith(expected):
    problem = _mismatch(job, found, size, page, recorded)
  elif page and not job.pin:
    problem = errors.UnavailableError(
        f"{shown(job.url)} gave {page}, not a checkpoint. Download the file by "
        "hand and give its path.")
  if problem is not None:
    _discard(job)
    return problem
  with _writing(job.path):
    if expected is None:
      _record(job, found, size)  # First: never a file without its record.
    export_dirs.fsync(job.part)
    os.replace(job.part, job.path)
    job.part_record.unlink(missing_ok=True)
    export_dirs.fsync(job.path.parent)
  return None


def _mismatch(job: _Job, found: str, size: int, page: str | None,
              recorded: Mapping[str, Any]) -> errors.UnavailableError:
  """Returns the error for content that is not what it must be."""
  came = f"SHA-256 {found}, {size} bytes" + (f" ({page})" if page else "")
  if job.pin:
    digits = ("its SHA-256 is not" if len(job.pin) == 64 else
              "its SHA-256 does not begin with")
    return errors.UnavailableError(
        f"{shown(job.url)} is not the file that was published: {digits} "
        f"{job.pin}; what came has {came}. Try again; if it stays so, do not "
        "use it.")
  return errors.UnavailableError(
      f"{shown(job.url)} is no longer the file that was first downloaded: on "
      f"{recorded.get('date')} it had SHA-256 {recorded['sha256']}, "
      f"{recorded.get('bytes')} bytes; now came {came}. Ask its publisher why. "
      f"To accept the new content on purpose, delete {job.record} and run "
      "this again.")


def _page(start: bytes) -> str | None:
  """Returns what a file is that stands in for another, by its first bytes."""
  text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
  if text.startswith((b"<!doctype html", b"<html", b"<head")):
    return "a web page, perhaps of a login or a proxy"
  if text.startswith(b"version https://git-lfs"):
    return "a Git LFS pointer"
  return None


def _attempt(job: _Job) -> bool:
  """Downloads what is missing; returns whether an earlier part was used.

  Raises:
    _Again: if trying again may help.
    UnavailableError: if not.
    WriteError: if the cache cannot be written.
  """
  have, validator = _kept(job)
  with requests.Session() as session, _network(job):
    response = _get(job, session, have, validator)
    with contextlib.closing(response):
      have, total = _accept(job, response, have)
      if response.status_code == 416:
        return True
      if not have:
        _start_part(job, response)
      if total is not None:
        _check_space(job, total - have)
      _receive(job, response, have, total)
  size = _size(job.part)
  if total is not None and size < total:
    raise _Again(f"the connection was cut after {size} of {total} bytes")
  return bool(have)


def _kept(job: _Job) -> tuple[int, str | None]:
  """Returns the bytes that can be gone on from, and what tells their version.

  Without a hash to check the whole against, a part is only gone on from if
  the server can tell whether the file is still the same.
  """
  have = _size(job.part)
  try:
    record = json.loads(job.part_record.read_text("utf-8"))
    validator = record["validator"]
    if record["url"] != _key(job.url) or not isinstance(
        validator, str | None):
      have = 0
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    have, validator = 0, None
  if validator is None and job.pin is None:
    have = 0
  return have, validator if have else None


def _key(url: str) -> str:
  """Returns what stands for a URL, which may hold a password, on the disk."""
  return hashlib.sha256(url.encode()).hexdigest()


def _get(job: _Job, session: requests.Session, have: int,
         validator: str | None) -> requests.Response:
  """Returns the answer to a request for the rest; follows redirects."""
  headers = {"Accept-Encoding": "identity", "User-Agent": "regnety-hub"}
  if have:
    headers["Range"] = f"bytes={have}-"
    if validator:
      headers["If-Range"] = validator
  url = job.url
  for _ in range(_MOST_REDIRECTS):
    response = session.get(url, headers=headers, stream=True,
                           timeout=job.retry.timeout_s, allow_redirects=False)
    if not response.is_redirect:
      return response
    response.close()
    target = urllib.parse.urljoin(url, response.headers["Location"])
    schemes = [urllib.parse.urlsplit(u).scheme for u in (url, target)]
    if schemes[1] not in ("http", "https") or schemes == ["https", "http"]:
      _fail(job, f"it redirects from {shown(url)} to {shown(target)}, which "
            "is not protected; only https is followed from https")
    url = target
  _fail(job, f"it redirects more than {_MOST_REDIRECTS} times")


def _accept(job: _Job, response: requests.Response,
            have: int) -> tuple[int, int | None]:
  """Returns (where the body belongs, size of the whole file if stated).

  Raises:
    _Again, UnavailableError: if the answer is none that can be used.
  """
  status, headers = response.status_code, response.headers
  if status in _RETRIED_STATUS:
    wait_s = _retry_after(headers.get("Retry-After"))
    if wait_s is not None and wait_s > _LONGEST_WAIT_S:
      _fail(job, f"the server asks to wait for {wait_s:.0f} s (HTTP {status})")
    raise _Again(f"the server answered HTTP {status} {response.reason}", wait_s)
  if status in (206, 416) and have:
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+)",
                         headers.get("Content-Range", ""))
    if match and status == 416 and int(match[2]) == have:
      return have, have  # All of it had come already.
    if match and status == 206 and match[1] and int(match[1]) == have:
      return have, int(match[2])
    _discard(job)
    raise _Again("the server sent another range than was asked for")
  if status != 200:
    _fail(job, _status_problem(response))
  if headers.get("Content-Encoding", "identity") != "identity":
    _fail(job, f"it is sent as {headers['Content-Encoding']}, though plain "
          "bytes were asked for")
  name = job.path.name.lower()
  if (headers.get("Content-Type", "").startswith("text/html")
      and not name.endswith((".html", ".htm"))):
    _fail(job, "a web page came, perhaps of a login or a proxy, not the file")
  length = headers.get("Content-Length", "")
  if length.isdecimal():
    return 0, int(length)
  if job.pin is None and headers.get("Transfer-Encoding") != "chunked":
    _fail(job, "the server states no length and no hash is known, so that a "
          "cut would pass unnoticed")
  return 0, None


def _status_problem(response: requests.Response) -> str:
  """Returns what an HTTP status means to the user."""
  status = f"HTTP {response.status_code} {response.reason or ''}".strip()
  if response.status_code in (404, 410):
    return f"it is not there ({status}): moved, removed, or a wrong address"
  if response.status_code in (401, 403):
    return f"the server forbids it ({status}): a login or a permission is due"
  if response.status_code == 407:
    return f"the proxy wants a login ({status})"
  return f"the server answered {status}"


def _retry_after(value: str | None) -> float | None:
  """Returns the seconds that a Retry-After header asks for."""
  if not value:
    return None
  if value.strip().isdecimal():
    return float(value)
  try:
    then = email.utils.parsedate_to_datetime(value)
  except ValueError:
    return None
  return max(0.0, then.timestamp() - time.time())


def _start_part(job: _Job, response: requests.Response) -> None:
  """Empties the part and records which version of the file it will be of."""
  etag = response.headers.get("ETag", "")
  # A weak one says "as good as the same", which is not enough for a range.
  strong = etag if etag.startswith('"') else None
  with _writing(job.part):
    job.part_record.unlink(missing_ok=True)
    open(job.part, "wb").close()
    export_dirs.write_file(job.part_record, json.dumps({
        "url": _key(job.url),
        "validator": strong or response.headers.get("Last-Modified")}))


def _receive(job: _Job, response: requests.Response, have: int,
             total: int | None) -> None:
  """Appends the body to the part."""
  bar = tqdm.tqdm(total=total, initial=have, unit="B", unit_scale=True,
                  desc=job.path.name, disable=None)  # Off if no terminal.
  with bar, _writing(job.part), open(job.part, "r+b") as f:
    f.truncate(have)
    f.seek(have)
    for block in response.iter_content(_BLOCK_BYTES):
      f.write(block)
      bar.update(len(block))


def _check_space(job: _Job, needed_bytes: int) -> None:
  """Raises WriteError if the rest of the file cannot fit on the disk."""
  with _writing(job.part):
    free_bytes = shutil.disk_usage(job.part.parent).free
  if needed_bytes > free_bytes:
    raise errors.WriteError(
        f"{job.what} needs {needed_bytes / 1e6:,.0f} MB more, and the disk of "
        f"{job.part.parent} has {free_bytes / 1e6:,.0f} MB left. Free some "
        "space, or set REGNETY_HUB_CACHE to a directory elsewhere.")


def _discard(job: _Job) -> None:
  """Forgets what has come so far."""
  with _writing(job.part):
    job.part.unlink(missing_ok=True)
    job.part_record.unlink(missing_ok=True)


def _size(path: pathlib.Path) -> int:
  """Returns a file's size in bytes, 0 if there is none."""
  try:
    return path.stat().st_size
  except OSError:
    return 0


def _fail(job: _Job, problem: str, cause: Exception | None = None) -> NoReturn:
  """Raises the UnavailableError that tells of a problem and what to do."""
  origin = "" if job.what == shown(job.url) else f" from {shown(job.url)}"
  kept = (" What came so far is kept: run this again to go on."
          if _size(job.part) else "")
  raise errors.UnavailableError(
      f"{job.what} could not be downloaded{origin}: {problem}. Check the "
      f"network or the proxy, or put the file at {job.path}.{kept}") from cause


@contextlib.contextmanager
def _network(job: _Job) -> Iterator[None]:
  """Tells failures of the network that may pass from those that will not."""
  try:
    yield
  except requests.exceptions.SSLError as e:
    _fail(job, f"the server's certificate is not trusted ({_reason(e)}). If a "
          "proxy of yours signs connections, name its certificates in "
          "REQUESTS_CA_BUNDLE", e)
  except requests.exceptions.ProxyError as e:
    raise _Again("the proxy cannot be reached or refuses", attempts=2) from e
  except requests.exceptions.ConnectTimeout as e:
    raise _Again(f"nobody answered within {job.retry.timeout_s:g} s",
                 attempts=2) from e
  except (requests.exceptions.ConnectionError,
          requests.exceptions.ChunkedEncodingError,
          requests.exceptions.Timeout) as e:
    reason = getattr(e.args[0] if e.args else None, "reason", None)
    if isinstance(reason, urllib3.exceptions.NameResolutionError):
      raise _Again("the name of the server cannot be resolved",
                   attempts=2) from e
    if isinstance(reason, urllib3.exceptions.NewConnectionError):
      raise _Again("the server cannot be reached", attempts=2) from e
    if "timed out" in str(e).lower():
      raise _Again(f"nothing came for {job.retry.timeout_s:g} s") from e
    raise _Again("the connection was cut") from e
  except (requests.RequestException, urllib3.exceptions.HTTPError,
          UnicodeError) as e:
    _fail(job, f"the request failed ({type(e).__name__})", e)


def _reason(error: Exception) -> str:
  """Returns why, without the address, which may hold secrets."""
  reason = getattr(error.args[0] if error.args else None, "reason", None)
  match = re.search(r"certificate verify failed: ([^()]+)", str(reason))
  return match[1].strip() if match else type(reason or error).__name__


@contextlib.contextmanager
def _writing(path: pathlib.Path) -> Iterator[None]:
  """Turns an OSError of the cache, not of the network, into a WriteError."""
  try:
    yield
  except requests.RequestException:  # They are OSErrors, too.
    raise
  except OSError as e:
    raise errors.WriteError(
        f"cannot write {path}: {e.strerror or e}. Free some space, or set "
        "REGNETY_HUB_CACHE to a directory that can be written to.") from e


@contextlib.contextmanager
def _reading(path: pathlib.Path) -> Iterator[None]:
  """Turns an OSError into an UnavailableError."""
  try:
    yield
  except OSError as e:
    raise errors.UnavailableError(
        f"{path} cannot be read ({e.strerror or e}). Make it readable, or "
        "delete it to have it downloaded again.") from e
