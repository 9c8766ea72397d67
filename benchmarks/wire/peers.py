"""The peers from PyPI, each in a virtual environment of its own that ``make bench-peers`` makes, and the whole line-up.

Owns: ``benchmarks/peers/<name>`` as a place to find a program in. Must never import a peer: its package is no dependency of
this project, and is skipped with a line where it is not installed.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.wire.proxies import (
    KEY,
    ROOT,
    Command,
    Direct,
    Fastgw,
    Floor,
    Haproxy,
    Nginx,
    Place,
    Proxy,
    operators_environment,
)
from benchmarks.wire.rows import Row

ENVIRONMENTS = ROOT / "benchmarks" / "peers"


class UnknownProxy(Exception):
    """``--only`` names one that is not in the list."""


class _FromPyPI(Proxy):
    start_deadline_s = 90.0
    takes_streams = False
    program = ""
    """The console script that starts it."""

    def _program(self) -> Path:
        return ENVIRONMENTS / self.name / "bin" / self.program

    def missing(self) -> str | None:
        return None if self._program().exists() and self.version() else "not installed (make bench-peers)"

    def takes(self, row: Row) -> bool:
        return row.usual

    def version(self) -> str:
        wanted = self.name.replace("-", "_")
        found = sorted((ENVIRONMENTS / self.name).glob(f"lib/python*/site-packages/{wanted}-*.dist-info"))
        return f"{self.name} {found[-1].name.removeprefix(wanted + '-').removesuffix('.dist-info')}" if found else ""


class SglangRouter(_FromPyPI):
    name = "sglang-router"
    program = "python"

    def command(self, place: Place) -> Command:
        argv = [str(self._program()), "-m", "sglang_router.launch_router", *_router(place), "--log-level", "warn"]
        return Command(argv, operators_environment())


class VllmRouter(_FromPyPI):
    name = "vllm-router"
    program = "vllm-router"

    def command(self, place: Place) -> Command:
        return Command([str(self._program()), *_router(place), "--log-level", "warning"], operators_environment(), quiet=True)


def _router(place: Place) -> list[str]:
    """What the two routers have in common: one engine, taken in turn; their metrics on a port that nothing else has."""
    return [
        *("--host", "127.0.0.1", "--port", str(place.port), "--prometheus-port", str(place.spare_port)),
        *("--worker-urls", f"http://127.0.0.1:{place.engine_port}", "--policy", "round_robin"),
    ]


class LiteLLM(_FromPyPI):
    """One worker, its key checked, no database. It reads every answer and every event, and writes it anew."""

    name = "litellm"
    program = "litellm"
    most_connections = 8
    least_phase_s = 1.5
    extra_events = 1  # a last event with the finish_reason, which the engine's events do not have
    note = "8 connections in place of the others' number: with 64, no stream would end within a phase"

    def command(self, place: Place) -> Command:
        config = place.folder / "litellm.yaml"
        config.write_text(f"""\
model_list:
  - model_name: m
    litellm_params:
      model: openai/m
      api_base: http://127.0.0.1:{place.engine_port}/v1
      api_key: none
general_settings:
  master_key: {KEY}
litellm_settings:
  telemetry: false
""")
        # Without the first it asks the network for its price list as it starts.
        own = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
        argv = [str(self._program()), "--config", str(config), "--host", "127.0.0.1", "--port", str(place.port)]
        return Command([*argv, "--num_workers", "1"], operators_environment() | own, quiet=True)


ALL: list[Proxy] = [
    *(Direct(), Floor(), Fastgw(), Fastgw("fastgw (limits)", limits=True), Nginx(), Haproxy()),
    Fastgw("fastgw (python)", native=False),
    *(SglangRouter(), VllmRouter(), LiteLLM()),
    *(Fastgw("fastgw (h2)", h2=True), Fastgw("fastgw (limits, h2)", limits=True, h2=True), Haproxy("haproxy (h2)", h2=True)),
    Nginx("nginx (to disk)", body_buffer="16k", asked_for=True),
]
H2 = ("fastgw", "fastgw (limits)", "nginx", "haproxy", "fastgw (h2)", "fastgw (limits, h2)", "haproxy (h2)")
"""What ``--only h2`` means: before an engine that speaks HTTP/2, and the same over HTTP/1.1. nginx has no such upstream."""


def _squeezed(name: str) -> str:
    """``--only fastgw-python`` means "fastgw (python)", without a shell's quotes."""
    return "".join(filter(str.isalnum, name))


def named(only: str) -> list[Proxy]:
    """Those that a list with commas names, in the order of `ALL`. Raises `UnknownProxy`."""
    known = {_squeezed(p.name): p for p in ALL}
    names = [one for n in only.split(",") if n.strip() for one in (H2 if n.strip() == "h2" else (n,))]
    wanted = {_squeezed(n): n.strip() for n in names}
    if unknown := [name for key, name in wanted.items() if key not in known]:
        raise UnknownProxy(f"unknown proxy {', '.join(unknown)}; known are {', '.join(p.name for p in ALL)}")
    return [p for key, p in known.items() if key in wanted]
