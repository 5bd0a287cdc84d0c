"""Serves a directory of published models: hub.load, pages, JSON.

    ./bazelw run //hub_export:serve -- --root=published --port=8080

    GET /                                                       the catalogue
    GET /<publisher>/<name>/<version>                           a model's page
    GET /<publisher>/<name>/<version>?tf-hub-format=compressed  the archive
    GET /<publisher>/<name>/<version>.tar.gz                    the archive
    GET /<publisher>/<name>/<version>/model.tflite, ...         forms other than
                                                                SavedModels
    GET /<publisher>/<name>/<version>.md, .checks.json, ...     what is beside
    GET /<publisher>/<name>/<version>.evaluations/<file>        what it shows
    GET /<publisher>/collections/<family>/1                     a family's page
    GET /api/v1/models.json                                     all as JSON
    GET /api/v1/models/<publisher>/<name>/<version>.json        one as JSON
    GET /healthz                                                "ok"

It only reads, and looks afresh at every request: what is published while it
runs is served at once. Each request leaves a line of JSON.

The same site as files, for nginx or a bucket:

    ./bazelw run //hub_export:serve -- --root=published --static_dir=site \\
        --base_url=https://models.example.org
"""

import ipaddress
import os
import pathlib
import re
import shlex
import socket
from collections.abc import Sequence

from absl import flags

from hub_export import errors
from hub_export import forms
from hub_export import program
from hub_export.destinations import directory
from hub_export.site import access_log
from hub_export.site import models
from hub_export.site import static

_ROOT = flags.DEFINE_string(
    "root", None, "Directory that was published to.", required=True)
_PORT = flags.DEFINE_integer(
    "port", 8080, "TCP port to listen on; 0 takes a free one.",
    lower_bound=0, upper_bound=65535)
_HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "Address to listen on; 0.0.0.0 lets others in.")
_BASE_URL = flags.DEFINE_string(
    "base_url", None, "The site's address as users type it, such as "
    "https://models.example.org; for servers behind a proxy, and for "
    "--static_dir. By default what each request was sent to.")
_STATIC_DIR = flags.DEFINE_string(
    "static_dir", None, "Write the site into this directory, for a file "
    "server or a bucket, and exit. Needs --base_url.")
_ACCESS_LOG = flags.DEFINE_string(
    "access_log", "-", "File for a line of JSON per request; opened again "
    "when it was moved. \"-\" is standard error.")
_MAX_DOWNLOADS = flags.DEFINE_integer(
    "max_downloads", 128, "Files of a megabyte and more that are sent at once; "
    "more wait for a turn.",
    lower_bound=1)
_DOWNLOADS_PER_CLIENT = flags.DEFINE_integer(
    "downloads_per_client", None, "Of those, so many for one address; by "
    "default an eighth, two at least. Behind a proxy all clients have its "
    "address, unless --trusted_proxy names it.", lower_bound=1)
_TRUSTED_PROXY = flags.DEFINE_list(
    "trusted_proxy", [], "Addresses or networks of proxies, such as 127.0.0.1 "
    "or 10.0.0.0/8, whose X-Forwarded-For and X-Forwarded-Proto are believed.")
_MAX_CONNECTIONS = flags.DEFINE_integer(
    "max_connections", 500, "Connections at once; more are answered with 503.",
    lower_bound=2)

_GRACE_SECONDS = 3  # For downloads under way when the server is stopped.
# Of the kernel, for each connection. By itself it would take megabytes, and
# slow clients would seem to take nothing while they read those.
_SEND_BUFFER_BYTES = 256 << 10
_BASE_URL_FORM = re.compile(
    r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?"
    r"(/[A-Za-z0-9._~-]+)*")


def listen(host: str, port: int) -> socket.socket:
  """Returns a socket that accepts connections; 0 for `port` takes a free one.

  Raises:
    HubExportError: if that address cannot be listened on.
  """
  try:
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listening = socket.create_server(address[:2], family=family, backlog=128)
    # What it accepts inherits it.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF,
                         _SEND_BUFFER_BYTES)
    return listening
  except OSError as e:
    raise errors.HubExportError(
        f"cannot listen on {host}:{port} ({_reason(e)}); expected a free "
        "port of this machine. Choose another --port; 0 takes any free one."
    ) from e


def _reason(error: OSError) -> str:
  # Numbers of the resolver (socket.gaierror) are negative and its own.
  # socket.create_server (Python 3.11) puts the address into the text again.
  if error.errno is not None and error.errno > 0:
    return os.strerror(error.errno)
  return error.strerror or str(error)


def main(_: Sequence[str]) -> int:
  root = program.user_path(_ROOT.value)
  base_url = _base_url()
  _check_proxies()
  if _STATIC_DIR.value is not None:
    return _write_static(root, base_url)
  _check_root(root)
  _serve(root, base_url)
  print("stopped")
  return 0


def _serve(root: pathlib.Path, base_url: str | None) -> None:
  """Serves until it is interrupted."""
  # Not needed for --static_dir, nor for complaints about flags.
  import uvicorn
  from hub_export.site import application
  from hub_export.site import limits

  write_log = access_log.open_log(
      None if _ACCESS_LOG.value == "-" else program.user_path(
          _ACCESS_LOG.value))
  with listen(_HOST.value, _PORT.value) as server_socket:
    _print_start(root, _url(_HOST.value, server_socket.getsockname()[1]),
                 base_url)
    app = application.app(models.Published(root), write_log, base_url,
                          _MAX_DOWNLOADS.value, _DOWNLOADS_PER_CLIENT.value)
    config = uvicorn.Config(
        app, http=limits.Protocol, ws="none", lifespan="off", log_config=None,
        access_log=False, server_header=False,
        proxy_headers=bool(_TRUSTED_PROXY.value),
        forwarded_allow_ips=_TRUSTED_PROXY.value,
        limit_concurrency=_MAX_CONNECTIONS.value,
        timeout_graceful_shutdown=_GRACE_SECONDS)
    try:
      uvicorn.Server(config).run(sockets=[server_socket])
    except KeyboardInterrupt:  # uvicorn raises it again after shutting down.
      pass


def _write_static(root: pathlib.Path, base_url: str | None) -> int:
  if base_url is None:
    raise errors.UsageError(
        "--static_dir needs --base_url; expected the address that the site "
        "will have, such as --base_url=https://models.example.org")
  _check_root(root)
  static_dir = program.user_path(_STATIC_DIR.value)
  outcome = static.write(models.Published(root), static_dir, base_url)
  print(f"{program.shown_path(static_dir)}{os.sep}: {outcome.written:,} files "
        f"written, {outcome.unchanged:,} unchanged, {outcome.removed:,} "
        f"removed\nIt is to appear at {base_url}/")
  return 0


def _base_url() -> str | None:
  """Returns what --base_url says, without a slash at its end.

  Raises:
    UsageError: if it is no address.
  """
  if _BASE_URL.value is None:
    return None
  base_url = _BASE_URL.value.rstrip("/")
  if not _BASE_URL_FORM.fullmatch(base_url):
    raise errors.UsageError(
        f"--base_url={_BASE_URL.value} is no address of a site; expected "
        "http:// or https://, a host and perhaps a path, such as "
        "https://models.example.org")
  return base_url


def _check_proxies() -> None:
  """Raises UsageError unless --trusted_proxy names addresses or networks."""
  for proxy in _TRUSTED_PROXY.value:
    try:
      ipaddress.ip_network(proxy)
    except ValueError as e:
      raise errors.UsageError(
          f"--trusted_proxy={proxy} is no address ({e}); expected some such as "
          "127.0.0.1 or 10.0.0.0/8, with commas between them") from e


def _check_root(root: pathlib.Path) -> None:
  """Raises HubExportError unless `root` is a directory that can be listed."""
  try:
    os.listdir(root)
  except (FileNotFoundError, NotADirectoryError):
    raise errors.HubExportError(
        f"{root} is not a directory; expected one that was published to. "
        "Publish a model first: "
        f"{program.command('//hub_export:publish')} --export_dir=PATH "
        f"--to={shlex.quote(str(root))}") from None
  except OSError as e:
    raise errors.HubExportError(
        f"{root} cannot be read ({e.strerror}); expected a directory that was "
        "published to. Make it readable or choose another --root.") from e


def _url(host: str, port: int) -> str:
  """Returns the URL to type on this machine, without a slash at its end."""
  if host in ("", "0.0.0.0", "::"):
    host = "localhost"
  return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _print_start(root: pathlib.Path, url: str, base_url: str | None) -> None:
  published = models.Published(root)
  handles = directory.Directory(root).handles()
  print(f"serving {root}{os.sep} on {url} (Ctrl-C stops it)")
  if handles:
    print("Published:")
    for handle in handles:
      print(f"  {handle}")
    model = published.model(handles[-1])
    form = forms.find(model and model.form) or forms.by_name("main")
    line = form.load.format(url=f"{base_url or url}/{handles[-1]}")
    print(f"Load one with:\n  {line}", flush=True)
  else:
    print("Nothing is published there yet:\n  "
          f"{program.command('//hub_export:publish')} --export_dir=PATH "
          f"--to={shlex.quote(str(root))}", flush=True)


if __name__ == "__main__":
  program.run(main)
