"""Serves a directory of published models to hub.load and hub.KerasLayer.

    ./bazelw run //hub_export:serve -- --root=published --port=8080

    GET /<publisher>/<name>/<version>?tf-hub-format=compressed   the archive
    GET /<publisher>/<name>/<version>.tar.gz                     the archive
    GET /<publisher>/<name>/<version>                            the card
    GET /<publisher>/<name>/<version>.evaluations/<file>         what it shows
    GET /                                                        what there is
    GET /healthz                                                 "ok"

It only reads, and looks afresh at every request: what is published while it
runs is served at once.
"""

import contextlib
import html
import os
import pathlib
import shlex
import socket
from collections.abc import Sequence

from absl import flags
from starlette import applications
from starlette import requests
from starlette import responses
from starlette import routing
import uvicorn

from hub_export import errors
from hub_export import export_dirs
from hub_export import program
from hub_export.destinations import directory

_ROOT = flags.DEFINE_string(
    "root", None, "Directory that was published to.", required=True)
_PORT = flags.DEFINE_integer(
    "port", 8080, "TCP port to listen on; 0 takes a free one.",
    lower_bound=0, upper_bound=65535)
_HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "Address to listen on; 0.0.0.0 lets others in.")

_ARCHIVE_SUFFIX = ".tar.gz"
_GRACE_SECONDS = 3  # For downloads under way when the server is stopped.


def app(root: pathlib.Path) -> applications.Starlette:
  """Returns the ASGI application that serves what is published in `root`."""
  published = directory.Directory(root)

  def index(request: requests.Request) -> responses.Response:
    return responses.HTMLResponse(
        _index(published.handles(), str(request.base_url)))

  def healthz(_: requests.Request) -> responses.Response:
    return responses.PlainTextResponse("ok\n")

  def module(request: requests.Request) -> responses.Response:
    text = request.path_params["handle"]
    load_format = request.query_params.get("tf-hub-format")
    if load_format not in (None, "compressed"):
      return responses.PlainTextResponse(
          f"tf-hub-format={load_format} is not served here; expected "
          "compressed. Unset TFHUB_MODEL_LOAD_FORMAT.\n", 400)
    wants_archive = (load_format is not None
                     or text.endswith(_ARCHIVE_SUFFIX))
    try:
      handle = export_dirs.parse_handle(text.removesuffix(_ARCHIVE_SUFFIX))
    except errors.HubExportError as e:
      return responses.PlainTextResponse(f"{e}\n", 404)
    if not published.exists(handle):
      return responses.PlainTextResponse(
          f"{handle} is not published here; expected one of those that "
          f"{request.base_url} lists.\n", 404)
    if wants_archive:
      return responses.FileResponse(published.archive_path(handle),
                                    media_type="application/gzip")
    return responses.FileResponse(published.card_path(handle),
                                  media_type="text/markdown")

  def attachment(request: requests.Request) -> responses.Response:
    text = request.path_params["handle"]
    name = request.path_params["file"]
    with contextlib.suppress(errors.HubExportError):
      handle = export_dirs.parse_handle(text)
      if published.exists(handle):
        for path in published.attachment_paths(handle):
          if path.name == name:  # Only what is listed: no way out of there.
            return responses.FileResponse(path)
    return responses.PlainTextResponse(
        f"{name} of {text} is not published here; expected a file that its "
        "card links to.\n", 404)

  return applications.Starlette(routes=[
      routing.Route("/", index),
      routing.Route("/healthz", healthz),
      routing.Route("/{handle:path}" + export_dirs.EVALUATIONS_SUFFIX
                    + "/{file}", attachment),
      routing.Route("/{handle:path}", module),
  ])


def _index(handles: Sequence[export_dirs.Handle], base_url: str) -> str:
  """Returns the HTML page that lists `handles`."""
  base = html.escape(base_url)
  items = "\n".join(
      f'<li><a href="/{handle}">{handle}</a>\n'
      f'<pre>hub.load("{base}{handle}")</pre></li>' for handle in handles)
  return (
      '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
      "<title>Published models</title></head>\n"
      "<body><h1>Published models</h1>\n"
      + (f"<ul>\n{items}\n</ul>" if handles else "<p>None yet.</p>")
      + "\n</body></html>\n")


def listen(host: str, port: int) -> socket.socket:
  """Returns a socket that accepts connections; 0 for `port` takes a free one.

  Raises:
    HubExportError: if that address cannot be listened on.
  """
  try:
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(address[:2], family=family, backlog=128)
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
  _check_root(root)
  with listen(_HOST.value, _PORT.value) as server_socket:
    _print_start(root, _url(_HOST.value, server_socket.getsockname()[1]))
    config = uvicorn.Config(app(root), log_config=None, access_log=False,
                            timeout_graceful_shutdown=_GRACE_SECONDS)
    try:
      uvicorn.Server(config).run(sockets=[server_socket])
    except KeyboardInterrupt:  # uvicorn raises it again after shutting down.
      pass
  print("stopped")
  return 0


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


def _print_start(root: pathlib.Path, url: str) -> None:
  handles = directory.Directory(root).handles()
  print(f"serving {root}{os.sep} on {url} (Ctrl-C stops it)")
  if handles:
    print("Published:")
    for handle in handles:
      print(f"  {handle}")
    print(f'Load one with:\n  hub.load("{url}/{handles[-1]}")', flush=True)
  else:
    print("Nothing is published there yet:\n  "
          f"{program.command('//hub_export:publish')} --export_dir=PATH "
          f"--to={shlex.quote(str(root))}", flush=True)


if __name__ == "__main__":
  program.run(main)
