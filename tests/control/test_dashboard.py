"""The live page as a browser shows it: who gets in, what is seen, what is done with keys, and that nobody's text becomes code.

Pictures of it are kept in ``build/test/dashboard``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from time import time
from typing import Any, NamedTuple

import pytest

from fastgw import Config, EngineConfig
from fastgw.app import Gateway
from fastgw.config.paying import PriceConfig
from fastgw.control import admin_live
from fastgw.control import dashboard as module
from fastgw.gpu.watch import Health, Tile
from fastgw.observe.live import Point
from fastgw.observe.recent import Recent
from fastgw.sim import SimConfig, Simulator
from tests.control.test_server import ask, serving, until
from tests.support import browser
from tests.support.browser import Tab
from tests.support.client import RawClient, request
from tests.support.requests import chat

ADMIN = "op-5d0c2f-secret"
LOOKS = "looks-5d0c2f-secret"
PICTURES = Path(__file__).parents[2] / "build" / "test" / "dashboard"
HOSTILE = "<img src=x onerror=document.title='taken'>"
FILES = (*sorted(one.name for one in module.PAGE.iterdir() if one.suffix != ".html"), "charts.js", "charts.css")
NOWHERE = "http://127.0.0.1:9"

in_a_browser = pytest.mark.skipif(browser.CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with browser.chromium(tmp_path_factory.mktemp("chromium")) as url:
        yield url


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes once a second comes ten times: tests wait for it."""
    if request.node.get_closest_marker("quiet") is None:
        monkeypatch.setattr(admin_live, "EVERY_S", 0.1)


class Shown(NamedTuple):
    tab: Tab
    gateway: Gateway

    async def asks(self, data: bytes) -> Any:
        async with await RawClient.connect("127.0.0.1", self.gateway.port) as client:
            await client.send(data)
            return await client.read_response()

    async def logs_in(self, key: str = ADMIN) -> None:
        await self.tab.go(f"{self.gateway.control_url}/dashboard")
        await self.tab.writes(key)  # (the field has the focus)
        await self.tab.press("Enter")

    async def enters(self) -> None:
        await self.logs_in()
        await self.tab.until("!document.getElementById('page').hidden")
        await self.tab.until("document.querySelectorAll('#plots figure').length === 5")

    async def knows(self, model: str) -> None:
        """Wait until an engine serves ``model``."""
        core = self.gateway.core
        assert core is not None
        await until(lambda: model in core.table.models)

    async def on_key(self, label: str) -> None:
        """The focus is on this button of a key's."""
        buttons = "[...document.querySelectorAll('#keys tbody button')]"
        await self.tab.says(f"{buttons}.find((one) => one.ariaLabel === {json.dumps(label)}).focus()")

    async def text(self, id: str) -> str:
        return str(await self.tab.says(f"document.getElementById('{id}').innerText"))


@contextlib.asynccontextmanager
async def shown(chromium: str, state: Path | None = None, *engines: EngineConfig, **settings: Any) -> AsyncIterator[Shown]:
    config = Config(
        port=0, control_listen="127.0.0.1:0", admin_key=ADMIN, admin_keys=(f"looks:read:{LOOKS}",),
        state_dir=str(state) if state is not None else "",
        engines=engines, drain_timeout_s=0.0, warm_connections=0, rate_limit_per_second=0, **settings,
    )  # fmt: skip
    async with Gateway(config) as gateway, browser.tab(chromium) as tab:
        await tab.looks()
        yield Shown(tab, gateway)


def watched_before(gateway: Gateway) -> None:
    """Somebody has for most of the last ten minutes, with a break between."""
    assert gateway._control is not None
    live: Any = gateway._control._live._live
    drawn = random.Random(1)
    for at in range(-590, -2):
        if not -200 < at < -150:
            wave = 40 + 20 * math.sin(at / 30) + drawn.random() * 8
            live._points.append(Point(
                time() + at, wave, wave / 40 if at % 97 < 5 else 0.0, float(at % 50 == 0), wave * 800, wave * 250,
                int(wave * 3), max(0, int(wave - 55)), 0.1 + wave / 900, 0.3 + wave / 300, 0.02, 0.03 + wave / 4000,
            ))  # fmt: skip


async def test_its_files_are_anybodys_and_may_load_nothing_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "charts", lambda: None)
    async with serving() as control:
        for path in ["/dashboard", *(f"/dashboard/{name}" for name in FILES)]:
            answer = await ask(control, request("GET", path))
            assert answer.status == 200, path
            assert answer.header("content-security-policy") == module.POLICY
            assert answer.header("x-content-type-options") == "nosniff"
            assert answer.header("referrer-policy") == "no-referrer"
            text = answer.body.decode().replace("http://www.w3.org/2000/svg", "")
            assert not re.search(r"https?://|src=\"//|href=\"//", text), f"{path} names another host"
            assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text)
            if path == "/dashboard":
                assert not re.search(r"<script>|<style|\sstyle=|\son\w+=", text), "the policy forbids it inline"
            if "charts" in path:
                assert answer.body == b"", "without the library it draws for itself"
        assert (await ask(control, request("POST", "/dashboard"))).status == 405
        assert (await ask(control, request("GET", "/dashboard/../server.py"))).status == 404
        assert (await ask(control, request("GET", "/admin/live"))).status == 401


def luminance(colour: str) -> float:
    """Of WCAG 2.2, "relative luminance"."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_every_text_stands_out_from_what_is_behind_it() -> None:
    schemes = re.findall(r":root \{(.*?)\}", (module.PAGE / "page.css").read_text(), re.DOTALL)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+): (#\w{6})", scheme))
        for name in ("text", "soft", "link", "good", "warn", "bad", "one", "two", "three"):
            for behind in ("card", "ground"):
                light, dark = sorted((luminance(colours[name]), luminance(colours[behind])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, behind)


@in_a_browser
@pytest.mark.parametrize("library", [True, False])
async def test_what_happens_is_seen(chromium: str, library: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if not library:
        monkeypatch.setattr(module, "charts", lambda: None)
    elif module.charts() is None:
        pytest.skip("the extra dashboard is not installed")
    async with Simulator(SimConfig(models=("sim",))) as sim, shown(
        chromium, tmp_path / "state", EngineConfig(url=sim.url, name="gpu7"),
        EngineConfig(url=NOWHERE, name=HOSTILE, models=["lost"]),
    ) as page:
        tab = page.tab
        await page.logs_in("guessed-ключ-0123456789")
        await tab.until("document.getElementById('refused').textContent.includes('admin key')")
        tab.wrong.clear()  # (401 is told there)
        watched_before(page.gateway)
        await page.enters()
        assert await tab.says("getComputedStyle(document.getElementById('login')).display") == "none"
        await tab.until("document.getElementById('engines').innerText.includes('gpu7')")
        await page.knows("sim")
        for _ in range(3):
            assert (await page.asks(chat("sim", stream=True, max_tokens=20))).status == 200
        assert (await page.asks(chat("lost", headers=[("x-request-id", "where-it-was-lost")]))).status >= 500
        await tab.until("document.getElementById('errors').innerText.includes('where-it-was-lost')")
        for table in ("models", "engines"):
            await tab.until(f"/sim|gpu7.* \\/ .* ms/.test(document.getElementById('{table}').innerText)")
        await tab.until("document.getElementById('engines').innerText.includes('not well')")
        assert page.gateway._control is not None
        listed = (await ask(page.gateway._control, request("GET", "/admin/engines", key=ADMIN))).json()["data"]
        times = {one["name"]: (one["ttft_s"], one["itl_s"]) for one in listed}
        assert times.pop(HOSTILE) == (None, None)
        assert [0.0 < one["p50"] <= one["p95"] <= one["p99"] for one in times["gpu7"]] == [True, True]
        assert HOSTILE in await page.text("engines")
        assert await tab.says("document.querySelectorAll('img').length") == 0
        assert await tab.says("document.title") == "fastgw"
        drawn = "canvas" if library else "path[d^=M]"
        await tab.until(f"document.querySelectorAll('#plots {drawn}').length >= 5")
        # What has changed is told to who does not see it; what only moves is not.
        (gpu7,) = (pool.engine for pool in page.gateway.fleet.pools if pool.engine.name == "gpu7")
        gpu7.healthy = False
        await tab.until("document.getElementById('told').textContent.startsWith('gpu7: not well')")
        gpu7.healthy = True
        await tab.until("document.getElementById('told').textContent === 'gpu7: well'")
        kind = "" if library else "-plain"
        for name, look in (("light", {}), ("dark", {"dark": True}), ("narrow", {"width": 380, "height": 800})):
            await tab.looks(**look)  # type: ignore[arg-type]
            await asyncio.sleep(0.15)
            await tab.shot(PICTURES / f"{name}{kind}.png")
            assert await tab.says("document.documentElement.scrollWidth <= innerWidth"), f"{name}: the page scrolls sideways"
        assert tab.wrong == []


@in_a_browser
async def test_keys_are_made_changed_and_disabled(chromium: str, tmp_path: Path) -> None:
    async with Simulator(SimConfig(models=("sim",))) as sim, shown(
        chromium, tmp_path / "state", EngineConfig(url=sim.url)
    ) as page:
        tab = page.tab
        await page.enters()
        await tab.until("document.getElementById('keys-note').textContent === 'There are no keys yet.'")
        await tab.says("document.getElementById('make').focus()")
        await tab.press("Enter")
        await tab.until("document.activeElement.id === 'edit-name'")
        await tab.writes(HOSTILE)
        await tab.press("Enter")
        await tab.until("document.getElementById('made').open")
        key = await page.text("made-key")
        assert key.startswith("fgw_")
        await tab.press("Escape")
        await tab.until("document.getElementById('made-key').textContent === ''")
        await tab.until("document.getElementById('keys').innerText.includes('active')")
        assert HOSTILE in await page.text("keys")
        await page.knows("sim")
        assert (await page.asks(chat("sim", key=key))).status == 200

        await tab.says("document.querySelector('#keys tbody button').click()")
        await tab.says("document.getElementById('edit-daily_tokens').value = '-1'")
        await tab.says("document.getElementById('edit-form').requestSubmit()")
        assert await tab.says("document.getElementById('edit').open"), "the browser holds it back, and says why"
        await tab.says("document.getElementById('edit-daily_tokens').value = '5000'")
        await tab.says("document.getElementById('edit-models').value = 'sim, other'")
        await tab.says("document.getElementById('edit-form').requestSubmit()")
        await tab.until("!document.getElementById('edit').open && document.getElementById('keys').innerText.includes('5000')")

        await page.on_key(f"Disable {HOSTILE}")
        await tab.press("Enter")
        await tab.until("document.getElementById('keys').innerText.includes('disabled')")
        assert await tab.says("document.activeElement.textContent") == "Enable", "the focus stays where it was"
        assert (await page.asks(chat("sim", key=key))).status == 401
        assert await tab.says("document.querySelectorAll('img').length") == 0
        assert await tab.says("document.title") == "fastgw"
        await tab.shot(PICTURES / "keys.png")
        assert ADMIN not in await tab.says("document.documentElement.outerHTML + location.href + document.cookie")
        # Whoever may only read is told so.
        await tab.says("document.getElementById('leave').click()")
        await page.logs_in(LOOKS)
        await tab.until("document.getElementById('keys').innerText.includes('disabled')")
        await tab.says("document.querySelectorAll('#keys tbody button')[1].click()")
        await tab.until("document.getElementById('keys-note').textContent.includes('may only read')")
        tab.wrong = [one for one in tab.wrong if "403" not in one]
        await tab.says("document.getElementById('leave').click()")
        assert await tab.says("[document.getElementById('page').hidden, sessionStorage.length]") == [True, 0]
        assert tab.wrong == []


LISTS_LATE = """
window.real ??= fetch; window.late = []; window.under = 0; window.holding = true;
window.fetch = async (...what) => {
  const of = String(what[0]);
  if (!of.includes("admin/keys?") && !of.includes("admin/usage")) return real(...what);
  under += 1;
  try {
    const got = await real(...what);
    if (holding && of.includes("admin/keys?")) await new Promise((go) => late.push(go));
    return got;
  } finally {
    setTimeout(() => { under -= 1; }, 20);
  }
};
"""
"""A list of keys that comes is held back until ``LET_GO``; ``under``: how many are asked for, or read."""
LET_GO = "window.holding = false; late.forEach((go) => go())"


@in_a_browser
async def test_a_key_is_rotated_and_deleted_by_keyboard_where_that_is_meant(chromium: str, tmp_path: Path) -> None:
    price = PriceConfig(model="sim", input="100", output="100")
    async with Simulator(SimConfig(models=("sim",))) as sim, shown(
        chromium, tmp_path / "state", EngineConfig(url=sim.url), prices=(price,), flush_interval_s=0.1
    ) as page:
        tab = page.tab
        await page.enters()
        assert page.gateway._control is not None
        await ask(page.gateway._control, request("POST", "/admin/keys", key=ADMIN, body=b'{"name":"ben"}'))
        made = await ask(page.gateway._control, request("POST", "/admin/keys", key=ADMIN, body=b'{"name":"ann"}'))
        key = made.json()["key"]
        await tab.says("document.getElementById('again').click()")
        await tab.until("document.getElementById('keys').innerText.includes('ann')")
        await page.knows("sim")
        for word in ("Rotate", "Delete"):
            await page.on_key(f"{word} ann")
            await tab.press("Enter")
            await tab.until("document.getElementById('sure').open && document.activeElement.id === 'sure-close'")
            await tab.shot(PICTURES / f"{word.lower()}.png")
            await tab.press("Enter")
            assert await tab.says("document.getElementById('sure').open") is False
            assert await tab.says("document.activeElement.ariaLabel") == f"{word} ann"
            assert (await page.asks(chat("sim", key=key))).status == 200, "nothing has been done"
        rotated = key
        for grace, of_old in (("3600", 200), ("0", 401)):
            old = rotated
            await page.on_key("Rotate ann")
            await tab.press("Enter")
            await tab.says(f"document.getElementById('sure-grace').value = '{grace}'")
            await tab.says("document.getElementById('sure-do').focus()")
            await tab.press("Enter")
            await tab.until("document.getElementById('made').open")
            rotated = await page.text("made-key")
            assert [(await page.asks(chat("sim", key=one))).status for one in (rotated, old)] == [200, of_old]
            await tab.press("Escape")
            await tab.until("document.getElementById('made-key').textContent === ''")
            assert await tab.says("document.activeElement.ariaLabel") == "Rotate ann"
        whole = await tab.says("document.documentElement.outerHTML + JSON.stringify([sessionStorage, localStorage])")
        assert [text for text in (key, rotated) if text in whole] == [], "a text is shown once, and kept nowhere"
        # Whoever has cost the most comes first, or last: by keyboard, and read out.
        await tab.until("document.getElementById('again').click(), document.getElementById('keys').innerText.includes('0.0')")
        head = "[...document.querySelectorAll('#keys thead button')].find((one) => one.textContent === 'Cost today')"
        for way, names in (("descending", ["ann", "ben"]), ("ascending", ["ben", "ann"])):
            await tab.says(f"{head}.focus()")
            await tab.press("Enter")
            assert await tab.says(f"{head}.closest('th').ariaSort") == way
            assert await tab.says("[...document.querySelectorAll('#keys tbody th')].map((one) => one.textContent)") == names
            assert await tab.says("document.activeElement.textContent") == "Cost today"
        for name, then in (("ben", "Change ann"), ("ann", "Make a key")):
            await tab.says(LISTS_LATE)
            await tab.says("document.getElementById('again').click()")
            await tab.until("late.length > 0")
            await page.on_key(f"Delete {name}")
            await tab.press("Enter")
            await tab.says("document.getElementById('sure-do').focus()")
            await tab.press("Enter")
            await tab.until(f"document.getElementById('keys-note').textContent === '{name} is deleted.'")
            focused = await tab.says("document.activeElement.ariaLabel ?? document.activeElement.textContent")
            assert focused == then, "the focus is not lost with its row"
            await tab.says(LET_GO)
            await tab.until("under === 0")
            assert name not in await page.text("keys"), "a list from before does not bring it back"
        assert (await page.asks(chat("sim", key=rotated))).status == 401
        assert tab.wrong == []
        markup = "try { document.createElement('p').innerHTML = '<b>'; 'taken' } catch { 'refused' }"
        assert await tab.says(markup) == "refused", "whatever its scripts do, no text becomes markup"


@in_a_browser
async def test_a_hundred_engines_by_keyboard_and_with_names_for_all_there_is(
    chromium: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tiles = [Tile(index=at, name=HOSTILE, up=at != 1, busy_percent=50.0 * at, used_gib=70.5, total_gib=141.0, celsius=61.0,
                  watts=650.0) for at in range(3)]  # fmt: skip
    engines = [EngineConfig(url=f"http://127.0.{at // 50}.{at % 50 + 1}:9", name=f"engine-{at:03}") for at in range(120)]
    async with shown(chromium, tmp_path / "state", *engines, health_interval_s=3600.0) as page:
        tab = page.tab
        assert page.gateway._control is not None
        monkeypatch.setattr(page.gateway._control._live, "_gpus", lambda: tiles)
        await page.enters()
        await tab.until("document.querySelectorAll('#engines tbody tr').length === 100")
        assert (await page.text("engines-count")).startswith("100 of 120")
        await tab.until("document.querySelectorAll('#gpus li').length === 3")
        assert not await tab.says("document.getElementById('gpus-driver').checkVisibility()")
        monkeypatch.setattr(page.gateway._control._live, "_gpus", list)
        silent = Health(status="degraded", driver="library_not_found", detail="install it", gpus=0, gpus_up=0, age_s=0.1)
        monkeypatch.setattr(page.gateway._control._live, "_driver", lambda: silent)
        said = "The driver does not answer (library_not_found): install it"
        await tab.until(f"document.getElementById('gpus-driver').innerText === '{said}'")
        monkeypatch.undo()
        monkeypatch.setattr(page.gateway._control._live, "_gpus", lambda: tiles)
        await tab.shot(PICTURES / "hundred-engines.png")
        # By keyboard: from the top, past the link that skips, to each control, with an outline that is seen.
        await tab.says("document.activeElement.blur(); scrollTo(0, 0)")
        reached = []
        for _ in range(10):
            await tab.press("Tab")
            reached.append(await tab.says(
                "[document.activeElement.id || document.activeElement.className,"
                " getComputedStyle(document.activeElement).outlineStyle]"
            ))  # fmt: skip
        assert {"make", "again"} <= {name for name, _ in reached}
        assert [name for name, outline in reached if name and outline != "solid"] == []
        # To who does not see it: landmarks, headings and a name for every control and table.
        nodes = (await tab.call("Accessibility.getFullAXTree"))["nodes"]
        roles = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")]
        assert {"banner", "main", "heading", "table", "columnheader", "rowheader", "status"} <= {role for role, _ in roles}
        named = {"button", "textbox", "table", "region", "progressbar", "image"}
        assert {role for role, name in roles if role in named and not name} == set()
        assert tab.wrong == []


@in_a_browser
@pytest.mark.quiet
async def test_the_page_opens_in_less_than_300_ms(chromium: str) -> None:
    engines = [EngineConfig(url=f"{NOWHERE}/{at}", name=f"engine-{at:03}") for at in range(100)]
    async with shown(chromium, None, *engines, health_interval_s=3600.0) as page:
        await page.enters()
        took = []
        for _ in range(5):
            await page.tab.call("Page.reload")
            took.append(await page.tab.says(
                "new Promise((told) => { const look = () => document.querySelectorAll('#engines tbody tr').length === 100"
                " ? requestAnimationFrame(() => told(performance.now())) : setTimeout(look, 2); look(); })"
            ))  # fmt: skip
        assert min(took) < 300, took


@in_a_browser
async def test_without_engines_a_gateway_that_goes_and_comes_back_is_followed(chromium: str) -> None:
    async with shown(chromium) as page:
        tab = page.tab
        await page.enters()
        await tab.shot(PICTURES / "empty.png")
        control = page.gateway._control
        assert control is not None
        assert (await page.asks(chat("sim", headers=[("x-request-id", "before")]))).status >= 400
        await tab.until("document.getElementById('errors').innerText.includes('before')")
        port = int(control.url.rpartition(":")[2])
        await control.stop()
        await tab.until("document.getElementById('state').textContent.includes('trying again')")
        live: Any = control._live._live
        live._source.tallies.recent = Recent()  # (as a process that has started again: its first error is the first)
        assert (await page.asks(chat("sim", headers=[("x-request-id", "afterwards")]))).status >= 400
        control._port, control._live._closed = port, False
        await control.start()
        await tab.until("document.getElementById('state').textContent === 'Connected'")
        await tab.until("/afterwards[^]*before/.test(document.getElementById('errors').innerText)")
