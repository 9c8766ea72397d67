"""The documentation as a site: every page is in its navigation, links lead where they lead on a code host, nothing is foreign.

The site itself is built where its tools are (after `make site`), and looked at by a browser, where there is one.
"""

from __future__ import annotations

import functools
import http.server
import importlib.util
import posixpath
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from fastgw.exchange.filter import HOOKS
from scripts.site import hooks, sized, walk
from scripts.site.foreign import foreign
from tests.docs.test_pages import TEXTS
from tests.support.browser import CHROMIUM, chromium, tab

ROOT = Path(__file__).parents[2]
SETTINGS = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
OWN = ROOT / "build/docs/venv/bin/python"
PYTHON = next((str(one) for one in (OWN, sys.executable) if Path(one).exists() and (
    one == OWN or importlib.util.find_spec("material"))), None)  # fmt: skip


def pages(entry: object) -> list[str]:
    """What a part of the navigation names."""
    if isinstance(entry, str):
        return [entry]
    inside = entry.values() if isinstance(entry, dict) else entry
    return [one for part in inside for one in pages(part)]  # type: ignore[attr-defined]


def test_every_page_is_in_the_navigation_once() -> None:
    named = pages(SETTINGS["nav"])
    assert sorted(named) == sorted(set(named))
    there = {path.name for path in (ROOT / "docs").glob("*.md")} | set(hooks.BESIDE.values())
    assert there == {name for name in named if not name.endswith("/")}, (
        "a page of docs/ has a line in mkdocs.yml, and no other has"
    )
    folders = {path.name for path in (ROOT / "docs").iterdir() if path.is_dir()}
    assert folders == {name.rstrip("/") for name in named if name.endswith("/")} == set(hooks.FOLDERS)


@pytest.mark.parametrize(
    "page", [name for name in TEXTS if hooks.place(name).endswith(".md") and "source/" not in hooks.place(name)]
)
def test_a_link_leads_to_the_same_as_on_a_code_host(page: str) -> None:
    """Taken back from the site's way: each link of a page means the file that it meant."""
    text = (ROOT / page).read_text()
    before, after = (hooks.LINK.findall(hooks.FENCE.sub("", one)) for one in (text, hooks.moved(text, page)))
    assert len(before) == len(after)
    here = posixpath.dirname(hooks.place(page))
    for (said, anchor), (way, kept) in zip(before, after, strict=True):
        assert anchor == kept
        meant = posixpath.normpath(posixpath.join(posixpath.dirname(page), said))
        found = posixpath.normpath(posixpath.join(here, way))
        if found.startswith("source/"):
            assert found == f"source/{meant}"
            assert meant in hooks.sources(), "a folder of sources has no page: name a file, or no link"
        else:
            assert hooks.origin(found) in (meant, f"{meant}/index.md")


@pytest.mark.parametrize(
    ("html", "said"),
    [
        ('<script src="https://cdn.test/a.js"></script>', ["https://cdn.test/a.js"]),
        ('<link rel="stylesheet" href="//fonts.test/a.css">', ["//fonts.test/a.css"]),
        ('<img srcset="a.png 1x, https://img.test/b.png 2x">', ["https://img.test/b.png"]),
        ("<style>@font-face{src:url(https://fonts.test/a.woff)}</style>", ["https://fonts.test/a.woff"]),
        ('<p style="background:url(//img.test/a)">', ["//img.test/a"]),
        ('<iframe src="https://video.test"></iframe>', ["https://video.test"]),
        ('<a href="https://other.test">a link</a><link rel="canonical" href="https://here.test/">', []),
        ('<script src="a.js"></script><img src="data:image/png;base64,x"><link rel="icon" href="../i.png">', []),
    ],
)
def test_what_a_page_would_ask_another_host_for(html: str, said: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(html)
    assert foreign(tmp_path) == [f"a.html: {one}" for one in said]


def test_the_picture_of_the_walk_is_that_of_the_filters() -> None:
    assert walk.FILE.read_text() == walk.drawn(), "make docs"
    shown = [hook for stage in walk.STAGES for hook in stage.hooks]
    assert sorted([*shown, *walk.ASKED_AGAIN, *walk.OF_NO_REQUEST]) == sorted(HOOKS), "a hook belongs to one stage"
    from fastgw.policy import ORDER, build

    assert len(build(walk.everything())) == len(ORDER), "the picture is of all filters"


def test_the_figures_of_sizing_are_those_of_performance() -> None:
    page, measured = sized.PAGE.read_text(), sized.MEASURED.read_text()
    assert page == sized.sized(page, measured), "make docs"
    other = measured.replace("| CPU per plain request, µs |", "| CPU per request |")
    with pytest.raises(SystemExit, match="no row CPU per plain request"):
        sized.block(other)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if PYTHON is None:
        pytest.skip("MkDocs is not installed here: make site")
    folder = tmp_path_factory.mktemp("site")
    command = [PYTHON, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever, name="site")
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_the_site_is_whole_and_asks_no_other_host(site: Path) -> None:
    assert foreign(site) == []
    assert [path for path in hooks.sources() if not (site / "source" / path).exists()] == []
    assert (site / "search/search_index.json").stat().st_size > 100_000
    text = (site / "index.html").read_text()
    assert "Quick start" in text
    # What Python's Markdown reads otherwise than a code host does: lists without an empty line before them, tables in lists.
    read_otherwise = re.compile(r"<p>[^<]*\n(?:- |1\. |\|)")
    assert [path.relative_to(site) for path in site.rglob("*.html") if read_otherwise.search(path.read_text())] == []


PICTURES = ROOT / "build/test/site"
ASKED = "performance.getEntries().map(one => one.name).filter(name => /^[a-z]+:/.test(name))"


@pytest.mark.deadline_s(60)
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
async def test_a_browser_asks_nobody_else_and_finds_what_is_sought(served: str, tmp_path: Path) -> None:
    """With all that scripts do; it leaves its pictures in `build/test/site`: look at them after a change."""
    with chromium(tmp_path) as url:
        async with tab(url) as page:
            await page.looks()
            await page.go(f"{served}/")
            await page.shot(PICTURES / "start.png")
            await page.says("document.querySelector('.md-search__input').focus()")
            await page.writes("queue timeout")
            await page.until("document.querySelectorAll('.md-search-result__item').length > 3")
            asked = set(await page.says(ASKED))
            for name, dark, width in (("concepts", True, 1280), ("architecture", False, 400)):
                await page.looks(dark=dark, width=width)
                await page.go(f"{served}/{name}/")
                if name == "concepts":
                    await page.shot(PICTURES / f"{name}.png")
                elif hooks.MERMAID.exists():
                    await page.until("document.querySelector('div.mermaid') !== null")
                # Wide tables and pictures scroll by themselves; the page does not.
                await page.until("document.documentElement.scrollWidth <= innerWidth")
                asked |= set(await page.says(ASKED))
            assert len(asked) > 10
            assert {one for one in asked if not one.startswith((served, "data:", "blob:"))} == set()
            assert page.wrong == []
