"""The monitoring stack: its rules and dashboards over the numbers of a real gateway, its containers held to rules."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from fastgw.config import EngineConfig
from fastgw.config.paying import PriceConfig
from fastgw.sim import SimConfig, Simulator
from scripts.monitoring.dashboards import FOLDER, pages
from tests.cli.test_cli import environment
from tests.deploy.frozen import ROOT
from tests.deploy.prometheus import Prometheus, alerts, installed, prometheus, promtool
from tests.gpu.conftest import Script, library, nvml, script  # noqa: F401 - fixtures
from tests.gpu.test_cli import exporter
from tests.support.client import RawClient
from tests.support.gateway import Running, running
from tests.support.ports import closed_port
from tests.support.requests import chat

pytestmark = pytest.mark.once

DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
VLLM = yaml.safe_load((DEPLOY / "compose.vllm.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = ("gateway", "engine", "gpu-exporter")
PAGE = (ROOT / "docs/monitoring.md").read_text()
KEY = "sk-of-a-caller"
PRICE = PriceConfig(model="*", input="1", output="2")
SEEN_WITHIN_S = 25.0


def queries() -> dict[str, str]:
    """Each expression of each dashboard, by where it stands, as Grafana would ask it with nothing chosen; and each share with a
    model that has had no fault: that is none, and not nothing."""
    found = {}
    for path in sorted(FOLDER.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                expression = re.sub(r"\$(model|engine|gpu)\b", ".*", target["expr"].replace("$__rate_interval", "1m"))
                where = f"{path.stem}: {panel['title']}: {target['legendFormat']}"
                found[where] = expression
                if target["legendFormat"] == "share":
                    found[where + " of none"] = expression.replace('model=~".*"', 'model=~"good"')
    return found


def limits() -> dict[str, str]:
    """Of each alert what is held against its limit: the alert itself has series only when something is wrong."""
    found = {}
    for name, rule in alerts().items():
        match = re.fullmatch(r"(.+) (?:==|>|<) [\d.]+", " ".join(rule["expr"].split()))
        assert match is not None, f"{name}: ends with a comparison"
        found[f"alert: {name}"] = match[1]
    return found


def told() -> dict[str, str]:
    """What the page about GPUs tells to ask: in a line, or set off as a block."""
    page = (ROOT / "docs/gpu.md").read_text()
    found = re.findall(r"`((?:\w+ \* on|avg_over_time) ?\([^`]+)`|((?:^ {4}.*\(.*\n)+)", page, re.MULTILINE)
    return {f"gpu.md: {number}": line or block for number, (line, block) in enumerate(found)}


async def draw(nvml: Script, stopped: asyncio.Event) -> None:  # noqa: F811
    """Both GPUs draw 200 W."""
    began = asyncio.get_running_loop().time()
    while not stopped.is_set():
        drawn = round((asyncio.get_running_loop().time() - began) * 200e3)
        nvml.say("gpus 2", f"energy 0 {drawn}", f"energy 1 {drawn}")
        await asyncio.sleep(0.5)


async def load(gw: Running, stopped: asyncio.Event) -> None:
    """One client after the other: answers, streams, and engines that break theirs off."""
    turn = 0
    while not stopped.is_set():
        turn += 1
        async with RawClient.connect(gw.url) as client:
            await client.ask(chat("good" if turn % 3 else "bad", stream=turn % 2 == 0, key=KEY, max_tokens=4), 10.0)


async def unseen(found: Prometheus, wanted: dict[str, str]) -> list[str]:
    """What finds nothing, when there has been time for it."""
    end = asyncio.get_running_loop().time() + SEEN_WITHIN_S
    while True:
        wanted = {name: expression for name, expression in wanted.items() if not await found.series(expression)}
        if not wanted or asyncio.get_running_loop().time() > end:
            return sorted(wanted)
        await asyncio.sleep(0.5)


async def twice(found: Prometheus) -> list[str]:
    """Panels of GPUs in which a GPU has two series that differ by who told of it."""
    wrong = []
    for name, expression in queries().items():
        of = [
            tuple(sorted((label, text) for label, text in one["metric"].items() if label not in ("instance", "job")))
            for one in await found.series(expression) if "gpu" in one["metric"]
        ]  # fmt: skip
        if len(set(of)) < len(of):
            wrong.append(name.rpartition(":")[0])
    return wrong


@installed
@pytest.mark.deadline_s(90)
async def test_S2_21_every_query_and_every_alert_finds_series_of_a_real_gateway(
    tmp_path: Path, nvml: Script,  # noqa: F811
) -> None:  # fmt: skip
    nvml.say("gpus 2")
    good = SimConfig(models=("good",), ttft_ms=30, itl_ms=2, slots=2)
    bad = SimConfig(models=("bad",), fault="reset-after-events=1")
    async with Simulator(good) as one, Simulator(bad) as two:
        engines = [EngineConfig(url=one.url, max_concurrent=1), EngineConfig(url=two.url)]
        with exporter(tmp_path, nvml.environment(), "--port", "0") as gpus:
            async with running(engines, control_listen="127.0.0.1:0", admin_key="an-admin-key-of-tests", api_keys=(KEY,),
                               scheduler="auto", scheduler_interval_s=0.2, metrics_by="key", gpu=True,
                               prices=[PRICE], key_budget="1000") as gw:  # fmt: skip
                await gw.until("the engines are known", lambda: len(gw.gateway.core.table.models) == 2)
                where = {"gateway": gw.gateway.control_url, "gpu": gpus.url}
                async with prometheus(tmp_path, **{job: url.removeprefix("http://") for job, url in where.items()}) as found:
                    stopped = asyncio.Event()
                    async with asyncio.TaskGroup() as clients:
                        for _ in range(4):
                            clients.create_task(load(gw, stopped))
                        clients.create_task(draw(nvml, stopped))
                        try:
                            assert await unseen(found, queries() | limits() | told()) == []
                            assert await twice(found) == ["gpus: Answers"], "both tell of each GPU; that panel shows who"
                            assert (await found.series(queries()["gpus: There: of"]))[0]["value"][1] == "2"
                            (group,) = (await found.get("/api/v1/rules"))["groups"]
                            assert {rule["name"]: rule["health"] for rule in group["rules"]} == dict.fromkeys(alerts(), "ok")
                        finally:
                            stopped.set()
                await gw.idle()


@installed
@pytest.mark.parametrize("what", [("check", "config", "prometheus.yml"), ("check", "rules", "alerts.yml"),
                                  ("test", "rules", "alerts_test.yml")])  # fmt: skip
def test_promtool_is_content(what: tuple[str, ...], tmp_path: Path) -> None:
    if what[1] == "config":
        text = (DEPLOY / "prometheus/prometheus.yml").read_text().replace("/etc/prometheus", str(DEPLOY / "prometheus"))
        (tmp_path / "prometheus.yml").write_text(text)
        what = (*what[:2], str(tmp_path / "prometheus.yml"))
    done = promtool(*what)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_set_off_somewhere_and_told_what_to_do() -> None:
    tried = yaml.safe_load((DEPLOY / "prometheus/alerts_test.yml").read_text())["tests"]
    fired = {row["alertname"] for one in tried for row in one["alert_rule_test"] if row.get("exp_alerts")}
    assert fired == set(alerts())
    assert set(re.findall(r"^\| `([A-Z]\w+)` \|", PAGE, re.MULTILINE)) == set(alerts())


def test_dashboards_are_what_the_table_makes_of_them() -> None:
    assert {path.name: path.read_text() for path in FOLDER.glob("*.json")} == pages(), "make docs writes them"
    assert all(f"| `{name}` |" in PAGE for name in pages())


def test_grafana_finds_them_and_their_sources() -> None:
    folder = DEPLOY / "grafana/provisioning"
    sources = yaml.safe_load((folder / "datasources/sources.yml").read_text())["datasources"]
    uids = {source["uid"] for source in sources}
    told = "".join(pages().values())
    assert set(re.findall(r'"uid": "(?!fastgw-)([^"]+)"', told)) <= uids
    assert {one["datasourceUid"] for source in sources for one in source.get("jsonData", {}).get(
        "exemplarTraceIdDestinations", ())} <= uids  # fmt: skip
    for source in sources:
        assert re.fullmatch(r"http://([\w-]+):\d+", source["url"])[1] in SERVICES  # type: ignore[index]
    (provider,) = yaml.safe_load((folder / "dashboards/fastgw.yml").read_text())["providers"]
    mounts = [mount.split(":") for mount in SERVICES["grafana"]["volumes"]]
    assert ["./grafana/dashboards", provider["options"]["path"], "ro"] in mounts


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_can_do_no_more_than_it_must(name: str) -> None:
    service = SERVICES[name]
    assert (service["read_only"], service["cap_drop"], service["security_opt"]) == (True, ["ALL"], ["no-new-privileges:true"])
    assert re.fullmatch(r"[1-9]\d*:\d+", service["user"])
    assert {"privileged", "network_mode", "pid", "ipc", "cap_add"}.isdisjoint(service)
    assert not any("docker.sock" in mount for mount in service.get("volumes", ()))
    assert service["image"] == "fastgw:local" if name in OURS else re.search(r":v?\d+\.\d+\.\d+$", service["image"])
    for port in service.get("ports", ()):
        open_ = name == "gateway" and port.endswith(":8080")
        assert port.startswith("${GATEWAY_BIND:-127.0.0.1}:" if open_ else "127.0.0.1:")


@pytest.mark.parametrize("service", [SERVICES["engine"], {**SERVICES["engine"], **VLLM["services"]["engine"]}])
def test_S2_22_nobody_but_the_gateway_reaches_an_engine(service: dict[str, Any]) -> None:
    assert "ports" not in service
    assert service["networks"] == ["engines"]
    assert COMPOSE["networks"]["engines"] == {"internal": True}
    assert [name for name, one in SERVICES.items() if "engines" in one["networks"]] == ["gateway", "engine"]
    assert re.search(r":v\d+\.\d+\.\d+$|^fastgw:local$", service["image"])
    assert service["cap_drop"] == ["ALL"]


def test_secrets_come_from_one_file_and_each_goes_to_one_container() -> None:
    text = (DEPLOY / "compose.yaml").read_text() + (DEPLOY / "compose.vllm.yaml").read_text()
    example = (DEPLOY / "env.example").read_text()
    assert set(re.findall(r"\$\{(\w+)", text)) == set(re.findall(r"^(?:# )?([A-Z_]+)=", example, re.MULTILINE))
    secrets = re.findall(r"^([A-Z_]+)=(.*)$", example, re.MULTILINE)
    for name, value in secrets:
        assert value == "", "nobody starts with a secret of ours"
        assert re.findall(rf"\$\{{{name}(..)", text) == [":?"], "it is not started without"
    done = subprocess.run(["git", "check-ignore", "deploy/.env"], cwd=ROOT, capture_output=True, timeout=30, check=False)
    assert done.returncode == 0


async def health(name: str, port: int) -> tuple[int, str]:
    """What a container's health check says, run as it stands but for the port that is asked."""
    program, *argv = SERVICES[name]["healthcheck"]["test"][1:]
    assert program == "/opt/fastgw/fastgw"
    said = {"VLLM_URL": "http://engine:8000", "FASTGW_HOST": "0.0.0.0", "GATEWAY_API_KEYS": KEY}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "fastgw", *argv, "--port", str(port), env=environment(**(said if name == "gateway" else {})),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    told, _ = await process.communicate()
    return process.returncode or 0, told.decode()


async def test_health_checks_are_what_fastgw_can() -> None:
    async with Simulator(SimConfig(models=("m",))) as sim, running([sim.url]) as gw:
        await gw.until("the engine is known", lambda: gw.gateway.core.table.models)
        port = int(sim.url.rpartition(":")[2])
        assert await health("engine", port) == (0, f"http://127.0.0.1:{port}/liveness: 404\n")
        assert await health("gateway", gw.port) == (0, f"http://0.0.0.0:{gw.port}/ready: 200\n")
    for name in ("engine", "gateway"):
        assert (await health(name, closed_port()))[0] == 1
    own, other = (SERVICES[name]["healthcheck"]["test"] for name in ("engine", "gpu-exporter"))
    assert [word.replace("8000", "9101") for word in own] == other


def compose() -> bool:
    """Whether Compose is installed (docker-compose, its first version, is too old). It reads files without a daemon."""
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "compose", "version"], capture_output=True, timeout=30, check=False).returncode == 0


@pytest.mark.parametrize("files", [("compose.yaml",), ("compose.yaml", "compose.vllm.yaml")])
def test_compose_reads_the_files(files: tuple[str, ...]) -> None:
    if not compose():
        pytest.skip("Docker Compose is not installed")
    names = ("GATEWAY_API_KEYS", "ADMIN_KEY", "GRAFANA_PASSWORD", "MODEL", "MODELS_DIR")
    command = ["docker", "compose", *(f"--file={DEPLOY / file}" for file in files), "config", "--quiet"]
    done = subprocess.run(command, env={**os.environ, **dict.fromkeys(names, "/x")}, capture_output=True, text=True, timeout=60,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_make_does_the_daily_jobs() -> None:
    for target, word in {"up": "--wait", "down": " down", "logs": "--follow", "smoke": "smoke.sh"}.items():
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
        assert word in done.stdout
