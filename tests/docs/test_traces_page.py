"""The page on traces: its commands are run as they stand, and its table names what there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from fastgw.config.load import load
from fastgw.config.table import TABLE
from fastgw.observe import trace
from fastgw.sim import SimConfig, Simulator
from tests.support.client import chat
from tests.support.collector import collecting
from tests.support.gateway import running

PAGE = (Path(__file__).parents[2] / "docs" / "traces.md").read_text(encoding="utf-8")
NOT_READ = re.compile(r"not read|as the exporter reads them")


def test_each_variable_of_the_table_is_a_settings_or_said_to_be_none() -> None:
    known = {name: row.name for row in TABLE for name in row.variables if name.startswith("OTEL_")}
    named: set[str] = set()
    for line in PAGE[PAGE.index("| variable | here |") :].splitlines()[2:]:
        variables, here = line.strip("| ").split(" | ")
        for name in re.findall(r"`(\w+)`", variables):
            full = name if name.startswith("OTEL_") else f"OTEL_EXPORTER_OTLP{name}"
            if NOT_READ.search(here):
                assert full not in known, full
            else:
                assert f"`{known[full]}`" in here, full
                named.add(full)
    assert named == set(known), "each has its row"


async def test_the_command_of_the_page_sends_traces() -> None:
    """Its variables and its flags as they stand, but for where the two listen."""
    (command,) = [line for line in PAGE.splitlines() if line.startswith("ENABLE_OTLP_TRACING=")]
    words = shlex.split(command)
    environ = dict(word.split("=", 1) for word in words[: words.index("fastgw")])
    flags = words[words.index("serve") + 1 :]
    assert flags == ["--engine", "http://127.0.0.1:8000"]
    async with collecting() as collector, Simulator(SimConfig(models=("m",))) as sim:
        assert environ["OTLP_ENDPOINT"].endswith(":4318")
        environ["OTLP_ENDPOINT"] = collector.url
        said = load({"engines": [sim.url]}, environ, "/nowhere")
        told = {name: getattr(said, name) for name in ("enable_otlp_tracing", "otlp_endpoint")}
        async with running(list(said.engines), **told) as gw, await gw.client() as client:
            assert (await client.ask(chat("m"))).status == 200
            await collector.until()
            assert collector.server().name == "POST /v1/chat/completions"
    assert trace.DELAY_S <= 1.0, "what the page says of when they are sent"
