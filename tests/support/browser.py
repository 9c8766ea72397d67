"""A browser that a test drives: chromium without a window, told over its debugging protocol what to do.

Owns: the process, and its profile in a folder that the test gives. Errors on the page's console are the test's failure.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
START_S = 30.0
WAIT_S = 10.0
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--no-first-run", "--hide-scrollbars", "--force-color-profile=srgb",
    "--remote-debugging-port=0",
)  # fmt: skip


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[str]:
    """The URL at which it takes commands."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if found := re.search(r"DevTools listening on (ws://\S+)", line):
                yield found[1]
                break
        else:
            raise AssertionError(f"chromium did not start: {said[-2000:]}")
    finally:
        process.kill()
        process.wait(START_S)
        assert process.stderr is not None
        process.stderr.close()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


class Tab:
    """One page. ``wrong``: what its console has said that it should not have."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self._session = ""
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self.wrong: list[str] = []

    async def listen(self) -> None:
        async for message in self._socket:
            told = json.loads(message.data)
            if "id" in told:
                answer = self._answers.pop(told["id"])
                if "error" in told:
                    answer.set_exception(AssertionError(told["error"]["message"]))
                else:
                    answer.set_result(told["result"])
            elif told["method"] == "Runtime.exceptionThrown":
                self.wrong.append(json.dumps(told["params"]["exceptionDetails"])[:500])
            elif told["method"] == "Log.entryAdded" and told["params"]["entry"]["level"] == "error":
                entry = told["params"]["entry"]
                self.wrong.append(f"{entry['text']} {entry.get('url', '')}")

    async def call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        said = {"id": self._number, "method": method, "params": parameters}
        await self._socket.send_json(said | ({"sessionId": self._session} if self._session else {}))
        async with asyncio.timeout(WAIT_S):
            return await answer

    async def open(self) -> str:
        """A tab of its own, that knows nothing of others; returns the name of what is to be thrown away."""
        context: str = (await self.call("Target.createBrowserContext"))["browserContextId"]
        target = await self.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        return context

    async def close(self, context: str) -> None:
        self._session = ""
        await self.call("Target.disposeBrowserContext", browserContextId=context)

    async def go(self, url: str) -> None:
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def says(self, script: str) -> Any:
        """What ``script`` comes to, promises awaited."""
        said = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until ``script`` is true; fails by name, with what is on the page."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + WAIT_S
        while loop.time() < ends:
            if await self.says(script):
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"never: {script}\n{self.wrong}\n{(await self.says('document.body.innerText'))[:3000]}")

    async def looks(self, *, dark: bool = False, width: int = 1280, height: int = 1000) -> None:
        """So large a window, and that colour scheme."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.call("Emulation.setEmulatedMedia", features=scheme)
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    async def press(self, key: str) -> None:
        codes = {"Tab": 9, "Enter": 13, "Escape": 27}
        told = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]} | ({"text": "\r"} if key == "Enter" else {})
        await self.call("Input.dispatchKeyEvent", type="keyDown", **told)
        await self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=codes[key])

    async def writes(self, text: str) -> None:
        """Into what has the focus."""
        await self.call("Input.insertText", text=text)

    async def shot(self, path: Path) -> None:
        """A picture of the whole page."""
        image = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        await asyncio.to_thread(_write, path, base64.b64decode(image["data"]))


@contextlib.asynccontextmanager
async def tab(url: str) -> AsyncIterator[Tab]:
    """A tab of the browser that takes commands there."""
    async with aiohttp.ClientSession() as session, session.ws_connect(url, max_msg_size=0) as socket:
        opened = Tab(socket)
        listens = asyncio.create_task(opened.listen())
        try:
            context = await opened.open()
            yield opened
            await opened.close(context)
        finally:
            listens.cancel()
            await asyncio.wait({listens})
