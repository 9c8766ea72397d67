"""The set-ups: who has published it, with which figures, and how it is loaded here.

Owns: what others say of themselves, with date and address, and the loads that repeat it. Their figures are from their machines
and are never set beside ours in one table. One more published set-up is one more row here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.wire import tools

KILOBYTE = 1000
_TOKEN_BYTES = 4
"""Of English text, about. The engine counts none, and nobody here is asked to."""


@dataclass(frozen=True, slots=True)
class Published:
    """What somebody has measured, on a machine of theirs. ``figures``: a table, its head first."""

    who: str
    date: str
    address: str
    setup: str
    figures: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Setup:
    """``rate``: requests due a second, 0 for as fast as answers come. ``share``: of ``--seconds``. ``load``: for `tools.load`.

    ``here``: how the load here differs from what was published.
    """

    key: str
    title: str
    here: str
    connections: int
    rate: float = 0.0
    share: float = 1.0
    load: dict[str, Any] = field(default_factory=dict)
    published: tuple[Published, ...] = ()

    @property
    def streams(self) -> bool:
        return bool(self.load.get("mixed"))

    def options(self) -> dict[str, Any]:
        return self.load | {"rate": self.rate, "expect": tools.TEXT}


_AGENTGATEWAY = "https://agentgateway.dev/blog/2026-06-26-benchmarking-agentgateway-vs-litellm"
_LITELLM = Published(
    "LiteLLM",
    "2026-10-12",
    "https://docs.litellm.ai/docs/benchmarks",
    "33 pods of 4 workers and 4 vCPU each, 3,000 users of one request a second, prompts of 50,000, 75,000 and 100,000 "
    "tokens, half of them streamed, a mock model in the process; keys, budgets and tokens counted, PostgreSQL and Redis",
    (
        ("requests/s", "p50, ms", "p95, ms", "p99, ms", "first token p50, ms"),
        ("3,000 (23 for each vCPU)", "30.581", "54.029", "91.645", "31.667"),
    ),
)
_LONG = {"body_bytes": [tokens * _TOKEN_BYTES for tokens in (50_000, 75_000, 100_000)], "mixed": True, "unpaced": True}
_LONG_HERE = (
    "prompts of 200, 300 and 400 kB in turn, half of them streamed, the streams' 32 events sent as fast as they leave; a mock "
    "engine over HTTP; no database"
)

SETUPS = (
    Setup(
        "fixed-3000",
        "3,000 requests a second over 32 connections",
        "prompts of 1 kB over 32 connections, evenly due; a latency counts from when its request was due, where the published "
        "ones count from when it was sent",
        32,
        rate=3000,
        load={"body_bytes": KILOBYTE},
        published=(
            Published(
                "agentgateway",
                "2026-06-26",
                f"{_AGENTGATEWAY}-part-2/",
                "Fortio, 32 connections, 30 s, 1 kB of request, a mock server that answers at once; LiteLLM with 18 workers",
                (
                    ("", "requests/s", "p50, ms", "p90, ms", "p99, ms", "CPU", "memory"),
                    ("agentgateway", "2,999", "0.227", "0.249", "0.436", "13.4 %", "13 MB"),
                    ("LiteLLM", "2,466", "12.318", "19.739", "30.626", "345.5 %", "11.67 GiB"),
                ),
            ),
        ),
    ),
    Setup(
        "most-32",
        "As much as goes over 32 connections",
        "prompts of 1 kB, each connection's next when it has the answer to the last; the gateway has one core",
        32,
        share=0.6,
        load={"body_bytes": KILOBYTE},
        published=(
            Published(
                "agentgateway",
                "2026-06-26",
                f"{_AGENTGATEWAY}/",
                "Fortio, 32 connections, 3 s, 1 kB of request, no limit of cores",
                (
                    ("", "requests/s", "p50, ms", "p90, ms", "p99, ms"),
                    ("agentgateway", "36,933", "0.831", "1.533", "1.970"),
                    ("LiteLLM", "3,198", "7.076", "17.986", "32.192"),
                ),
            ),
            Published(
                "agentgateway",
                "2026-10-01",
                "https://agentgateway.dev/blog/2026-10-01-agentgateway-praxis-initial-cpu-benchmarks/",
                "Fortio, 32 connections, 30 s, 1 KiB each way, two cores of an n2-standard-16 for the gateway, one measurement",
                (
                    ("", "requests/s"),
                    ("no proxy", "41,381"),
                    ("Praxis AI 0.5.0", "14,079"),
                    ("agentgateway 1.5.0", "13,663"),
                ),
            ),
        ),
    ),
    Setup(
        "fixed-10000",
        "10,000 requests a second",
        "short prompts over 64 connections, evenly due; the gateway has one core",
        64,
        rate=10_000,
        share=0.6,
        published=(
            Published(
                "TensorZero",
                "2026 (archived in June)",
                "https://www.tensorzero.com/docs/gateway/benchmarks",
                "c7i.xlarge (4 vCPU), TensorZero at 10,000 a second, LiteLLM at what it could bear",
                (
                    ("", "requests/s", "p50, ms", "p90, ms", "p99, ms"),
                    ("TensorZero", "10,000", "0.35", "0.50", "0.94"),
                    ("LiteLLM", "100", "4.83", "5.26", "5.87"),
                    ("LiteLLM", "500", "5.81", "10.02", "39.69"),
                    ("LiteLLM", "1,000", "failed", "failed", "failed"),
                ),
            ),
        ),
    ),
    Setup(
        "long-23",
        "Prompts of 50,000 to 100,000 tokens, a core's share of 3,000 a second",
        f"23 a second over 23 connections, for that is what each of the published 132 vCPU had; {_LONG_HERE}",
        23,
        rate=23,
        share=1.4,
        load=_LONG,
        published=(_LITELLM,),
    ),
    Setup(
        "long-most",
        "As many of them as one core bears",
        f"over 23 connections, as fast as answers come; {_LONG_HERE}",
        23,
        share=0.6,
        load=_LONG,
    ),
)
BY_KEY = {setup.key: setup for setup in SETUPS}

ELSEWHERE = (
    Published(
        "Bifrost",
        "2026",
        "https://docs.getbifrost.ai/benchmarking",
        "5,000 requests a second on a t3.xlarge before a model that takes 1.5 s; the overhead is counted inside the gateway, "
        "and leaves out reading and writing JSON and the call",
        (("overhead", "average latency", "peak memory"), ("11 µs", "1.61 s", "3,340 MB")),
    ),
    Published(
        "Kong",
        "2025-07-07",
        "https://konghq.com/blog/engineering/ai-gateway-benchmark-kong-ai-gateway-portkey-litellm",
        "12 CPU on EKS before WireMock, which alone bore 29,006 requests a second (as nhimg.org sums it up)",
        (
            ("", "requests/s", "latency"),
            ("than Portkey", "over 200 % more", "65 % less"),
            ("than LiteLLM", "over 800 % more", "86 % less"),
        ),
    ),
    Published(
        "On the Bench (Busbar)",
        "2026",
        "https://github.com/GetBusbar/benchmarking",
        "four cores of a Graviton3 for the gateway, as much as goes while 99 % of answers take less than 1 ms",
        (("", "requests/s"), ("agentgateway", "23,630")),
    ),
    Published(
        "llm-gateway-bench",
        "2026-07-10",
        "https://github.com/cuihuan/llm-gateway-bench",
        "one request at a time before a mock of 1.8 ms, a shared runner of GitHub's; what the gateway adds",
        (("", "added, ms"), ("Bifrost", "0.62"), ("Portkey 1.15.2", "2.65")),
    ),
)
"""Published, and not repeated here: other machines, other measures, or nothing to run."""

NOT_HERE = (
    ("agentgateway", "published as an image and as a binary of its own, in no package of PyPI, npm or Debian"),
    ("TensorZero", "published as an image, archived since June 2026; its package of PyPI has a gateway that serves no HTTP"),
    ("Bifrost", "its package of npm fetches the program from its maker's server when it runs"),
    ("Kong AI Gateway", "published as an image and in a repository of its maker's"),
    ("Envoy AI Gateway", "a controller for Kubernetes and a filter published as an image; Envoy, which it steers, is measured"),
    ("LiteLLM's Rust mode", "not for engines of OpenAI's shape (`rust: true` is read for Anthropic and Bedrock)"),
)
"""What could not be had from a package registry."""
