"""A real Prometheus, with the rules and the scrape jobs of ``deploy/prometheus``, looking every second."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.frozen import ROOT
from tests.support.ports import closed_port

FILES = ROOT / "deploy/prometheus"
START_S = 20.0

installed = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="prometheus and promtool are not installed (Debian, Ubuntu: apt install prometheus)",
)


def promtool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["promtool", *map(str, words)]
    return subprocess.run(command, cwd=FILES, capture_output=True, text=True, timeout=60, check=False)


def alerts() -> dict[str, dict[str, Any]]:
    (group,) = yaml.safe_load((FILES / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


class Refused(Exception):
    """It says why."""


class Prometheus:
    """One that runs."""

    def __init__(self, url: str) -> None:
        self.url = url

    def _get(self, path: str, **query: str) -> Any:
        target = f"{self.url}{path}?{urllib.parse.urlencode(query)}" if query else self.url + path
        try:
            with urllib.request.urlopen(target, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(f"{query}: {error.read().decode()}") from error

    async def get(self, path: str, **query: str) -> Any:
        return await asyncio.to_thread(self._get, path, **query)

    async def series(self, expression: str) -> list[Any]:
        found: list[Any] = (await self.get("/api/v1/query", query=expression))["result"]
        return found

    async def well(self) -> bool:
        try:
            return all(one["health"] == "up" for one in (await self.get("/api/v1/targets"))["activeTargets"])
        except (OSError, Refused):  # (it starts)
            return False


@asynccontextmanager
async def prometheus(folder: Path, **targets: str) -> AsyncIterator[Prometheus]:
    """``targets``: where each job of the stack's is found here, as host:port."""
    settings = yaml.safe_load((FILES / "prometheus.yml").read_text())
    settings["global"].update(scrape_interval="1s", scrape_timeout="1s", evaluation_interval="1s")
    settings["rule_files"] = [str(FILES / "alerts.yml")]
    jobs = [job["job_name"] for job in settings["scrape_configs"]]
    assert jobs == list(targets)
    settings["scrape_configs"] = [{"job_name": job, "static_configs": [{"targets": [targets[job]]}]} for job in jobs]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    port = closed_port()
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
               f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=exemplar-storage"]  # fmt: skip
    log = folder / "prometheus.log"
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=file, stderr=file)
    try:
        found = Prometheus(f"http://127.0.0.1:{port}")
        async with asyncio.timeout(START_S):
            while not await found.well():
                assert process.returncode is None, log.read_text()
                await asyncio.sleep(0.1)
        yield found
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 20)
