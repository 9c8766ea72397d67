"""The metrics as a scraper reads them: every number under its name, label sets bounded, hostile names escaped."""

from __future__ import annotations

import re
import shutil
import string
import subprocess
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from fastgw.accel.histograms import Histogram
from fastgw.config import EngineConfig
from fastgw.housekeeping import LAG
from fastgw.limits.breaker import CLOSED, HALF_OPEN, OPEN
from fastgw.observe.energy import Energy
from fastgw.observe.exposition import LINES, pieces
from fastgw.observe.metrics import GatewayCollector, render
from fastgw.observe.money import Budget
from fastgw.observe.tallies import Tallies
from fastgw.protocol.gauges import Gauges
from fastgw.stats import Stats
from fastgw.upstream.target import Engine
from fastgw.upstream.times import FIRST_TOKEN, PER_TOKEN


@dataclass
class Breaker:
    state: int = CLOSED
    opened_total: int = 0


@dataclass
class Server:
    """What is read of an engine."""

    name: str
    healthy: bool | None = True
    inflight: int = 0
    slots: int = 0
    answered_total: int = 0
    failures_total: int = 0
    truncations_total: int = 0
    breaker: Breaker = field(default_factory=Breaker)
    weight: int = 1
    ejected_until: float = 0.0
    ejections_total: int = 0
    asks_for_rest: bool = False
    gauges: Gauges | None = None
    first_tokens: Histogram = field(default_factory=lambda: Histogram(FIRST_TOKEN))
    gaps: Histogram = field(default_factory=lambda: Histogram(PER_TOKEN))

    def rests(self) -> bool:
        return self.asks_for_rest


@dataclass
class Pool:
    """What is read of the connections to one."""

    engine: Any
    idle: tuple[object, ...] = (None, None)


@dataclass
class Source:
    """What is read of a gateway."""

    stats: Any = field(default_factory=Stats)
    servers: list[Any] = field(default_factory=list)
    before: list[Any] = field(default_factory=list)
    waiting: dict[str, object] = field(default_factory=lambda: {"waiting": 0, "bytes": 0, "by_class": {}})
    store_failing: bool = False
    ip_meters: int = 0
    runners: int = 0
    loaded_at: float = 1.5e9
    restart_pending: bool = False
    admin_auth_failures: int = 0
    native: bool = True
    version: str = "1.2.3"
    genai: bool = False
    currency: str = "EUR"
    budgets: dict[str, Budget] = field(default_factory=dict)
    energy: Energy = field(default_factory=Energy)
    tallies: Tallies = field(default_factory=Tallies)
    lag: Histogram = field(default_factory=lambda: Histogram(LAG))

    def budget(self, caller: str) -> Budget | None:
        return self.budgets.get(caller)

    def pools(self) -> list[Any]:
        return [Pool(server) for server in self.servers]

    def replaced(self) -> list[Any]:
        return self.before

    def queue(self) -> dict[str, object]:
        return self.waiting

    def processes(self) -> dict[str, float] | None:
        return None

    def connections(self, engine: str, idle: bool = False) -> int:
        return 0


Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scraped(source: Source) -> Series:
    """All samples by name and labels; none may come twice."""
    found: Series = {}
    for family in text_string_to_metric_families(render(GatewayCollector(source)).decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, f"twice: {key}"
            found[key] = sample.value
    return found


def value(found: Series, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


def test_every_counter_of_the_hot_path_is_shown_under_its_name() -> None:
    expected = {
        "gateway_active_requests": "exchanges_open",
        "gateway_auth_failures_total": "auth_failures",
        "gateway_queue_timeouts_total": "queue_timeouts",
        "gateway_retries_total": "retries_total",
        "gateway_retries_refused_total": "retries_refused",
        "gateway_quarantined_total": "quarantined",
        "gateway_store_write_failures_total": "store_failures",
        "gateway_tokens_prompted_total": "tokens_prompted",
        "gateway_tokens_generated_total": "tokens_generated",
        "gateway_tokens_cached_total": "tokens_cached",
        "gateway_tokens_reasoning_total": "tokens_reasoning",
        "gateway_tokens_estimated_total": "tokens_estimated",
        "gateway_merged_requests_total": "merged_requests",
        "gateway_merged_calls_total": "merged_calls",
        "gateway_client_disconnects_total": "cancelled",
    }
    by_label = {
        ("gateway_rate_limited_total", "limit"): (
            "ip", "requests", "tokens", "concurrency", "queue", "memory", "tenant", "model",
        ),
        ("gateway_quota_exceeded_total", "action"): ("refused", "cut"),
    }
    fields = {"ip": "limited_ip", "refused": "quota_refused", "cut": "quota_cut"}
    stats = Stats()
    for number, name in enumerate(stats.snapshot(), 1):
        setattr(stats, name, number * 1000)
    found = scraped(Source(stats=stats))
    for name, counter in expected.items():
        assert value(found, name) == getattr(stats, counter), name
    for (name, label), words in by_label.items():
        for word in words:
            counter = fields.get(word, f"limited_{word}")
            assert value(found, name, **{label: word}) == getattr(stats, counter), word
        assert len([one for one, _ in found if one == name]) == len(words)


def test_a_counter_that_does_not_exist_yet_is_zero() -> None:
    class Old:
        def snapshot(self) -> dict[str, int]:
            return {"cancelled": 3}

    found = scraped(Source(stats=Old()))
    assert value(found, "gateway_client_disconnects_total") == 3
    assert value(found, "gateway_rate_limited_total", limit="tokens") == 0


def test_counts_beyond_what_a_float_prints_exactly_stay_whole() -> None:
    stats = Stats()
    stats.tokens_prompted = 123_456_789_012
    assert b"gateway_tokens_prompted_total 123456789012\n" in render(GatewayCollector(Source(stats=stats)))
    assert value(scraped(Source(stats=stats)), "gateway_tokens_prompted_total") == 123_456_789_012


def test_what_the_gateway_says_of_itself() -> None:
    found = scraped(Source(store_failing=True, ip_meters=7, runners=3, admin_auth_failures=5, native=False))
    assert value(found, "gateway_store_up") == 0
    assert value(found, "gateway_ip_meters") == 7
    assert value(found, "gateway_runners") == 3
    assert value(found, "gateway_admin_auth_failures_total") == 5
    assert value(found, "fastgw_info", version="1.2.3", native="no") == 1
    found = scraped(Source())
    assert value(found, "gateway_store_up") == 1
    assert value(found, "fastgw_info", version="1.2.3", native="yes") == 1


def test_the_queue_by_priority_and_no_class_that_is_not_ours() -> None:
    waiting = {"waiting": 9, "bytes": 4096, "by_class": {"high": 2, "low": 7, "x\n": 1}}
    found = scraped(Source(waiting=waiting))
    told = {labels: count for (name, labels), count in found.items() if name == "gateway_queue_waiting"}
    assert told == {(("priority", "high"),): 2, (("priority", "normal"),): 0, (("priority", "low"),): 7}
    assert value(found, "gateway_queue_bytes") == 4096
    empty = scraped(Source(waiting={}))
    assert value(empty, "gateway_queue_waiting", priority="high") == 0
    assert value(empty, "gateway_queue_bytes") == 0


def test_an_engine() -> None:
    server = Server("a", False, 3, 8, 100, 7, 2, Breaker(OPEN, 4), gauges=Gauges(5, 6, 0.25))
    found = scraped(Source(servers=[server, Server("b", None, gauges=Gauges(1, 0, -1.0)), Server("c")]))
    assert value(found, "gateway_engine_idle_connections", engine="a") == 2
    assert value(found, "gateway_engine_requests_running", engine="a") == 5
    assert value(found, "gateway_engine_requests_waiting", engine="a") == 6
    assert value(found, "gateway_engine_kv_cache_usage_ratio", engine="a") == 0.25
    told = {(name, dict(labels).get("engine")) for name, labels in found if name.startswith("gateway_engine_")}
    assert ("gateway_engine_requests_waiting", "b") in told
    assert ("gateway_engine_kv_cache_usage_ratio", "b") not in told
    assert ("gateway_engine_requests_running", "c") not in told
    assert value(found, "gateway_engine_healthy", engine="a") == 0
    assert value(found, "gateway_engine_inflight", engine="a") == 3
    assert value(found, "gateway_engine_slots", engine="a") == 8
    assert value(found, "gateway_upstream_requests_total", engine="a") == 100
    assert value(found, "gateway_upstream_errors_total", engine="a") == 7
    assert value(found, "gateway_upstream_truncations_total", engine="a") == 2
    assert value(found, "gateway_circuit_breaker_state", engine="a") == 1
    assert value(found, "gateway_circuit_breaker_opened_total", engine="a") == 4
    assert value(found, "gateway_circuit_breaker_state", engine="b") == 0
    assert ("gateway_engine_healthy", (("engine", "b"),)) not in found
    server.breaker.state = HALF_OPEN
    server.healthy = True
    found = scraped(Source(servers=[server]))
    assert value(found, "gateway_circuit_breaker_state", engine="a") == 2
    assert value(found, "gateway_engine_healthy", engine="a") == 1


def test_who_is_ejected_and_how_uneven_the_load_is() -> None:
    servers = [
        Server("a", inflight=6, weight=2, ejected_until=9.0, ejections_total=3), Server("b", inflight=1, asks_for_rest=True),
        Server("c", inflight=1), Server("ill", False, 50),
    ]  # fmt: skip
    found = scraped(Source(servers=servers))
    assert [value(found, "gateway_engine_ejected", engine=name) for name in "ab"] == [1, 0]
    assert [value(found, "gateway_engine_resting", engine=name) for name in "ab"] == [0, 1]
    assert value(found, "gateway_engine_ejections_total", engine="a") == 3
    assert value(found, "gateway_engine_load_imbalance") == 1.5
    assert value(scraped(Source(servers=[Server("a"), Server("b")])), "gateway_engine_load_imbalance") == 0


def test_engines_of_one_name_are_one_series() -> None:
    """One server may stand twice, with other models: the same series twice would make the whole scrape fail."""
    servers = [
        Server("a", True, 1, 4, 10, 1, 0, Breaker(HALF_OPEN, 1)),
        Server("a", None, 2, 4, 20, 0, 1, Breaker(OPEN, 1)),
        Server("a", False, 3, 4, 30, 1, 1, Breaker(CLOSED, 1)),
    ]
    found = scraped(Source(servers=servers))
    assert value(found, "gateway_engine_healthy", engine="a") == 0
    assert value(found, "gateway_engine_inflight", engine="a") == 6
    assert value(found, "gateway_engine_slots", engine="a") == 12
    assert value(found, "gateway_upstream_requests_total", engine="a") == 60
    assert value(found, "gateway_circuit_breaker_state", engine="a") == 1
    assert value(found, "gateway_circuit_breaker_opened_total", engine="a") == 3
    for unlimited in range(3):
        slots = [Server("a", slots=0 if number == unlimited else 4) for number in range(3)]
        assert value(scraped(Source(servers=slots)), "gateway_engine_slots", engine="a") == 0


def test_of_an_engine_whose_name_is_anothers_only_what_is_under_way_there_counts() -> None:
    """Its totals would be a step up and down of the other's series, and its state is not the other's."""
    before = Server("a", False, 3, 8, 100, 7, 2, Breaker(OPEN, 4))
    found = scraped(Source(servers=[Server("a", inflight=1, answered_total=5)], before=[before, Server("gone", inflight=1)]))
    told = {key[0]: number for key, number in found.items() if key[1] == (("engine", "a"),)}
    assert told["gateway_engine_inflight"] == 4
    assert (told["gateway_engine_healthy"], told["gateway_upstream_requests_total"]) == (1, 5)
    assert (told["gateway_circuit_breaker_state"], told["gateway_upstream_errors_total"]) == (0, 0)
    assert not [key for key in found if key[1] == (("engine", "gone"),)]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('"\\\n{},= #'), max_size=20), unique=True))


def test_any_name_comes_back_from_the_parser(names: list[str]) -> None:
    found = scraped(Source(servers=[Server(name, inflight=number) for number, name in enumerate(names)]))
    told = {dict(labels)["engine"]: count for (one, labels), count in found.items() if one == "gateway_engine_inflight"}
    assert told == {name: number for number, name in enumerate(names)}


def test_the_engines_of_a_gateway_are_what_is_read() -> None:
    engine = Engine(EngineConfig(url="http://127.0.0.1:9/v1", name='the "big" \\ one'))
    engine.inflight = 2
    found = scraped(Source(servers=[engine]))
    assert value(found, "gateway_engine_inflight", engine='the "big" \\ one') == 2
    assert value(found, "gateway_circuit_breaker_state", engine='the "big" \\ one') == 0


@pytest.mark.parametrize("engines", [2, 2 * LINES + 1])
def test_the_text_is_what_prometheus_takes(engines: int) -> None:
    """Names of the classic kind, a HELP and a TYPE for each family, once, and a type that its samples bear out."""
    text = render(GatewayCollector(Source(servers=[Server(f"engine-{number}") for number in range(engines)]))).decode()
    assert text.count("gateway_engine_inflight{") == engines
    assert text.endswith("\n")
    kinds: dict[str, str] = {}
    helped = set()
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split(" ")[2]
            assert name not in helped
            assert line.removeprefix(f"# HELP {name} ")
            helped.add(name)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert set(name) <= set(string.ascii_lowercase + "_")
            assert name not in kinds
            kinds[name] = kind
        else:
            name = line.partition("{")[0].partition(" ")[0]
            stem = re.sub("_(bucket|sum|count)$", "", name)
            expected = "counter" if name.endswith("_total") else "histogram" if stem != name and stem in kinds else "gauge"
            assert kinds[name if expected != "histogram" else stem] == expected
    assert helped == set(kinds)
    stems = [name.removesuffix("_total") for name in kinds]
    assert len(set(stems)) == len(stems)  # in OpenMetrics a counter's family goes without its suffix


def test_a_thousand_engines_are_told_in_pieces() -> None:
    """Between two of which whoever asks can do something else: a third of a microsecond a line."""
    source = Source(servers=[Server(f"engine-{number}") for number in range(1000)])
    found = list(pieces(GatewayCollector(source).families()))
    assert sum(piece.count(b"gateway_engine_inflight{") for piece in found) == 1000
    assert max(piece.count(b"\n") for piece in found) < 2 * LINES


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing_to_say() -> None:
    text = render(GatewayCollector(Source(servers=[Server('a "b" \\')])))
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_two_gateways_in_one_process_do_not_share_numbers() -> None:
    one, other = Source(), Source()
    one.stats.cancelled = 5
    one.tallies.failed("lost")
    assert value(scraped(one), "gateway_client_disconnects_total") == 5
    assert value(scraped(one), "gateway_upstream_failures_total", kind="lost") == 1
    assert value(scraped(other), "gateway_client_disconnects_total") == 0
    assert ("gateway_upstream_failures_total", (("kind", "lost"),)) not in scraped(other)


def test_a_registry_of_the_library_can_ask_for_all_of_it() -> None:
    source = Source(servers=[Server("a")])
    source.tallies.failed("lost")
    registry = CollectorRegistry()
    registry.register(GatewayCollector(source))  # type: ignore[arg-type]
    told = {one.name for one in text_string_to_metric_families(generate_latest(registry).decode())}
    assert told == {one.name for one in text_string_to_metric_families(render(GatewayCollector(source)).decode())}
