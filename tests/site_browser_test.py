"""The site's pages in a real browser: Chromium, at desktop and phone width.

Pictures of the pages are left in TEST_UNDECLARED_OUTPUTS_DIR, if that is set.
"""

import asyncio
import contextlib
import functools
import http.server
import json
import os
import pathlib
import re
import shutil
import socket
import struct
import threading
import zlib
from collections.abc import Iterator

from playwright import sync_api
import pytest
import uvicorn

from hub_export import export_dirs
from hub_export import releases
from hub_export.destinations import directory
from hub_export.site import application
from hub_export.site import models
from hub_export.site import static
from tests import tiny_export

_WIDTHS = {"desktop": (1280, 900), "phone": (390, 844), "small": (320, 640)}
_MODEL = "local/tiny_classification/2"
_OTHER = "my-lab/a_model_with_a_long_name_feature_extractor/1"
_PAGES = ("", "local/", "local/tiny_classification/", _MODEL, _OTHER,
          "local/tiny_classification/1", "nothing/here")

# Every element with text of its own: its colour against what lies behind it
# (WCAG 2's relative luminance), where that is less than 4.5 to 1.
_FAINT = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => v / 255).map((v) =>
      v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = rgb(getComputedStyle(element).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const hasText = [...element.childNodes].some(
      (node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    if (!hasText || !element.checkVisibility()) continue;
    const [a, b] = [rgb(getComputedStyle(element).color), behind(element)]
      .map(luminance).sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.push(`${element.tagName} ${element.textContent
      .slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return found;
}"""


def _png(width: int, height: int) -> bytes:
  """Returns a grey picture."""
  def chunk(kind: bytes, data: bytes) -> bytes:
    return (struct.pack(">I", len(data)) + kind + data
            + struct.pack(">I", zlib.crc32(kind + data)))

  rows = (b"\0" + b"\x80" * width) * height
  return (b"\x89PNG\r\n\x1a\n"
          + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0,
                                       0))
          + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


@pytest.fixture(name="root", scope="module")
def _root(tmp_path_factory) -> pathlib.Path:
  base = tmp_path_factory.mktemp("browser")
  for handle in ("local/tiny_classification/1", _MODEL,
                 _OTHER):
    export_dir = tiny_export.make(base / "exports", handle)
    tiny_export.write_attachments(export_dir)
    evaluations = export_dir.with_name(f"{export_dir.name}.evaluations")
    for picture in evaluations.glob("*.png"):
      picture.write_bytes(_png(900, 500))
    tiny_export.list_attachments(export_dir)
    directory.Directory(base / "root").put(releases.read(export_dir))
  # Of another kind, and with all that a page may have to say.
  path = base / "root" / _OTHER / export_dirs.MANIFEST
  path.write_text(json.dumps(json.loads(path.read_text()) | {
      "kind": "feature_extractor", "is_demo": True}))
  return base / "root"


@pytest.fixture(name="base_url", scope="module")
def _base_url(root) -> Iterator[str]:
  server = uvicorn.Server(uvicorn.Config(
      application.app(models.Published(root), lambda line: None),
      ws="none", lifespan="off", log_config=None, access_log=False,
      timeout_graceful_shutdown=1))
  listening = socket.create_server(("127.0.0.1", 0))
  thread = threading.Thread(
      target=lambda: asyncio.run(server.serve([listening])))
  thread.start()
  yield f"http://127.0.0.1:{listening.getsockname()[1]}"
  server.should_exit = True
  thread.join(60)


@pytest.fixture(name="browser", scope="module")
def _browser() -> Iterator[sync_api.Browser]:
  path = shutil.which("chromium") or shutil.which("google-chrome")
  assert path, ("no browser; expected chromium on the PATH: apt-get install "
                "chromium")
  with sync_api.sync_playwright() as playwright:
    # Containers give Chromium no rights for a sandbox of its own.
    browser = playwright.chromium.launch(
        executable_path=path, args=["--no-sandbox", "--disable-gpu"])
    yield browser
    browser.close()


@contextlib.contextmanager
def _page(browser: sync_api.Browser, width: str = "desktop", **context
          ) -> Iterator[sync_api.Page]:
  """Yields a page that must not complain."""
  complaints = []
  size = dict(zip(("width", "height"), _WIDTHS[width]))
  with contextlib.closing(browser.new_context(
      viewport=size, **context)) as opened:
    page = opened.new_page()
    page.set_default_timeout(60_000)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text)
            if "404 (Not Found)" not in message.text else None)
    yield page
  assert complaints == []


def _names(page: sync_api.Page) -> list[str]:
  """Returns the names of the models that are to be seen, in their order."""
  return page.locator(".models h2 a:not(.publisher):visible"
                      ).all_inner_texts()


@pytest.mark.parametrize("width", _WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_and_can_be_read(browser, base_url, width, scheme):
  with _page(browser, width, color_scheme=scheme) as page:
    for path in _PAGES:
      answer = page.goto(f"{base_url}/{path}")
      assert answer.status == (404 if path == "nothing/here" else 200)
      # Nothing stands out to the right: no scrolling sideways.
      assert page.evaluate(
          "document.documentElement.scrollWidth - innerWidth") <= 0, path
      assert page.evaluate(_FAINT) == [], path
      assert page.locator("h1").count() == 1
      # Style and icon have come.
      assert page.evaluate("getComputedStyle(document.querySelector('.bar'))"
                           ".display") == "flex"
      pictures = page.evaluate(
          "Promise.all([...document.images].map(i => i.decode().then("
          "() => i.naturalWidth)))")
      assert all(pictures) and len(pictures) == (
          4 if path[-1:].isdigit() else 1)
      _keep(page, f"{path.replace('/', '_') or 'catalogue'}-{width}-{scheme}")


def _keep(page: sync_api.Page, name: str) -> None:
  outputs = os.environ.get("TEST_UNDECLARED_OUTPUTS_DIR")
  if outputs:
    page.screenshot(path=f"{outputs}/{name}.png", full_page=True)


def test_dark_is_dark(browser, base_url):
  grounds = []
  for scheme in ("light", "dark"):
    with _page(browser, color_scheme=scheme) as page:
      page.goto(base_url)
      grounds.append(page.evaluate(
          "getComputedStyle(document.body).backgroundColor"))
  assert grounds == ["rgb(255, 255, 255)", "rgb(14, 20, 24)"]


def test_fingers_find_what_they_are_to_touch(browser, base_url):
  with _page(browser, "phone", has_touch=True) as page:
    page.goto(base_url)
    for field in page.locator("form :is(input, select)").all():
      assert field.bounding_box()["height"] >= 44
      # A smaller text makes phones zoom in.
      assert field.evaluate("e => getComputedStyle(e).fontSize") == "16px"
    # All of a row leads to its model.
    page.locator(".models li").first.tap(position={"x": 300, "y": 20})
    page.wait_for_url(f"{base_url}/{_MODEL}")
    contents = page.locator("details.contents")
    contents.locator("summary").tap()
    contents.get_by_text("Metrics").tap()
    assert page.url.endswith("#card-metrics")


def test_search_follows_every_key(browser, base_url):
  with _page(browser) as page:
    page.goto(base_url)
    assert len(_names(page)) == 2
    page.get_by_label("Search").press_sequentially("Long-Name")
    assert _names(page) == ["a_model_with_a_long_name_feature_extractor"]
    assert page.locator("#shown").inner_text() == "1"
    assert page.url == f"{base_url}/?q=Long-Name"
    page.reload()
    assert page.get_by_label("Search").input_value() == "Long-Name"
    assert len(_names(page)) == 1
    page.get_by_label("Kind").select_option("classifier")
    assert _names(page) == []
    assert page.get_by_text("No model has all of these words").is_visible()
    page.get_by_label("Search").fill("")
    assert _names(page) == ["tiny_classification"]
    page.get_by_label("Kind").select_option("")
    assert len(_names(page)) == 2
    assert page.url == f"{base_url}/"


def test_everything_works_without_a_script(browser, base_url):
  with _page(browser, java_script_enabled=False) as page:
    page.goto(base_url)
    page.get_by_label("Search").fill("long name")
    page.get_by_role("button", name="Search").click()
    page.wait_for_url("**q=long+name**")
    assert _names(page) == ["a_model_with_a_long_name_feature_extractor"]
    page.get_by_role("link", name="a_model").click()
    assert page.get_by_role("heading", name="Use it").is_visible()
    assert page.get_by_role("button").count() == 0
    page.get_by_role("link", name="Metrics").first.click()
    assert page.url.endswith("#card-metrics")


def test_code_is_copied(browser, base_url):
  with _page(browser, permissions=["clipboard-read", "clipboard-write"]
             ) as page:
    page.goto(f"{base_url}/{_MODEL}")
    page.get_by_role("button", name="Copy").first.click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == (
        "import tensorflow_hub as hub\n\n"
        f'module = hub.load("{base_url}/{_MODEL}")\n'
        "logits = module(images)  "
        "# float32 [batch, height, width, 3], RGB in [0, 1]")


@pytest.mark.parametrize("width", ["desktop", "phone"])
def test_no_button_lies_on_code_and_no_line_is_cut(browser, base_url, width):
  with _page(browser, width) as page:
    page.goto(f"{base_url}/{_OTHER}")
    for block in page.locator(".code").all():
      button = block.get_by_role("button").bounding_box()
      code = block.locator("code").bounding_box()
      assert button["y"] + button["height"] <= code["y"]
    if width == "phone":
      assert page.evaluate("[...document.querySelectorAll('pre')].every("
                           "e => e.scrollWidth <= e.clientWidth)")
      details = page.locator(".card .scroll").filter(has_text="Handle").first
      assert details.evaluate("e => e.scrollWidth <= e.clientWidth")
    # Names in tables are whole: those that are one word are on one line.
    lines = page.evaluate(
        "[...document.querySelectorAll('.card td:is(:first-child, "
        ":nth-child(3)) code')].map(e => "
        "[e.textContent, e.getClientRects().length])")
    words = {text: count for text, count in lines if re.fullmatch(r"\w+", text)}
    assert len(words) > 3 and set(words.values()) == {1}, words


def test_a_publisher_can_be_chosen(browser, base_url):
  with _page(browser, "phone", has_touch=True) as page:
    page.goto(base_url)
    page.locator(".models .publisher").filter(has_text="my-lab").tap()
    page.wait_for_url(f"{base_url}/my-lab/")
    assert _names(page) == ["a_model_with_a_long_name_feature_extractor"]


def test_every_link_of_a_page_leads_somewhere(browser, base_url):
  with _page(browser) as page:
    for path in ("", "local/", "local/tiny_classification/", _MODEL):
      page.goto(f"{base_url}/{path}")
      links = set(page.evaluate(
          "[...document.links].map(l => l.href)")) | {page.url}
      assert len(links) > 3
      for link in links:
        if link.startswith(base_url):
          assert page.request.head(link).status == 200, (path, link)
        if "#" in link and link.split("#")[0] == page.url:
          assert page.locator(f"[id='{link.split('#')[1]}']").count() == 1


def test_written_out_it_is_the_same_site(browser, root, tmp_path):
  handler = functools.partial(
      http.server.SimpleHTTPRequestHandler, directory=tmp_path / "site")
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base_url = f"http://127.0.0.1:{server.server_port}"
    static.write(models.Published(root), tmp_path / "site", base_url)
    with _page(browser, "phone") as page:
      page.goto(f"{base_url}/?q=tiny&kind=classifier")
      assert _names(page) == ["tiny_classification"]
      page.locator(".models h2 a:not(.publisher):visible").first.click()
      assert page.url.endswith(".html")
      assert page.locator(".picture img").first.evaluate(
          "i => i.decode().then(() => i.naturalWidth)") == 900
      page.get_by_role("link", name="Model hub").click()
      assert page.url == f"{base_url}/index.html"
    # Nobody answers a search there, so without a script none is offered.
    with _page(browser, java_script_enabled=False) as page:
      page.goto(base_url)
      assert not page.get_by_role("button", name="Search").is_visible()
      assert len(_names(page)) == 2
    server.shutdown()
