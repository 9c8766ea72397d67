"""What a name in DNS comes to: engines, weights, priorities, how long it holds; and what says nothing."""

from __future__ import annotations

import asyncio

import pytest

from fastgw import EngineConfig
from fastgw.upstream.discovery import names
from fastgw.upstream.discovery.names import LEAST_S, Asking, ByAddress, ByService
from fastgw.upstream.discovery.source import Found, LookFailed
from fastgw.upstream.target import Engine
from tests.support.nameserver import Zone, nameserver

pytestmark = pytest.mark.together

NAME = "workers.example"
SERVICE = "_http._tcp.workers.example"


async def dns(zone: Zone, every_s: float = 30.0, **fields: object) -> Found:
    engine = EngineConfig(**{"url": f"http://{NAME}:8000/base", "discover": "dns", **fields})  # type: ignore[arg-type]
    return await ByAddress(engine, Asking(zone.address, 1.0), every_s).look()


async def srv(zone: Zone, **fields: object) -> Found:
    engine = EngineConfig(**{"url": f"http://{SERVICE}", "discover": "srv", **fields})  # type: ignore[arg-type]
    return await ByService(engine, Asking(zone.address, 1.0), 30.0).look()


async def test_an_engine_for_each_address() -> None:
    async with nameserver() as zone:
        zone.records[NAME, "A"] = 10, ["10.0.0.2", "10.0.0.1"]
        zone.records[NAME, "AAAA"] = 5, ["2001:db8::1"]
        groups, again_s, _ = await dns(zone, name="gpu", weight=7, kind="vllm", models=["m"])
        assert [[(one.name, one.url, one.weight, one.kind, one.models) for one in group] for group in groups] == [
            [
                ("gpu@10.0.0.1:8000", "http://10.0.0.1:8000/base", 7, "vllm", ("m",)),
                ("gpu@10.0.0.2:8000", "http://10.0.0.2:8000/base", 7, "vllm", ("m",)),
            ],
            [("gpu@[2001:db8::1]:8000", "http://[2001:db8::1]:8000/base", 7, "vllm", ("m",))],
        ], "one that has both families is one engine"
        assert again_s == 5.0
        zone.records[SERVICE, "SRV"] = 20, [f"0 1 8000 {NAME}.", f"1 1 9000 {NAME}."]
        assert [[one.url for one in group] for group in (await srv(zone)).groups] == [
            [f"http://10.0.0.{at}:8000" for at in (1, 2)], ["http://[2001:db8::1]:8000"],
            [f"http://10.0.0.{at}:9000" for at in (1, 2)], ["http://[2001:db8::1]:9000"],
        ]  # fmt: skip
        (group, _), _, _ = await dns(zone)
        assert group[0].name == "10.0.0.1:8000/base", "whoever gave no name has it from the address"


async def test_a_certificate_must_have_the_name_that_was_looked_up() -> None:
    async with nameserver() as zone:
        zone.records[NAME, "A"] = 10, ["10.0.0.1"]
        for given, meant in (("", NAME), ("other.example", "other.example")):
            (group,), _, _ = await dns(zone, url=f"https://{NAME}:8443", server_name=given)
            assert (group[0].url, group[0].server_name) == ("https://10.0.0.1:8443", meant)


@pytest.mark.parametrize(("url", "host"), [
    (f"http://{NAME}:8000/base", f"{NAME}:8000"), (f"http://{NAME}", NAME), (f"https://{NAME}", NAME),
    (f"https://{NAME}:8443", f"{NAME}:8443"),
])  # fmt: skip
async def test_it_is_asked_by_the_name_in_its_url(url: str, host: str) -> None:
    """A proxy before it goes by that, as it does without a look; what an SRV record names has a port of its own."""
    async with nameserver() as zone:
        zone.records[NAME, "A"] = 10, ["10.0.0.1"]
        (group,), _, _ = await dns(zone, url=url, server_name="other.example" if "s:" in url else "")
        assert Engine(group[0]).head_block == f"Host: {host}\r\n".encode()
        zone.records[SERVICE, "SRV"] = 10, [f"0 1 8001 {NAME}."]
        (group,), _, _ = await srv(zone)
        assert Engine(group[0]).head_block == b"Host: 10.0.0.1:8001\r\n"


@pytest.mark.parametrize(("ttl", "again_s"), [(0, LEAST_S), (7, 7.0), (3600, 30.0)])
async def test_an_answer_holds_for_its_ttl_within_bounds(ttl: int, again_s: float) -> None:
    async with nameserver() as zone:
        zone.records[NAME, "A"] = ttl, ["10.0.0.1"]
        assert (await dns(zone)).again_s == again_s


async def test_no_more_engines_are_made_of_a_name_than_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "MOST_ADDRESSES", 3)
    async with nameserver() as zone:
        zone.records[NAME, "A"] = 10, [f"10.0.0.{at}" for at in range(1, 9)]
        assert len((await dns(zone)).groups[0]) == 3
        zone.records[SERVICE, "SRV"] = 10, [f"0 1 {port} {NAME}." for port in (1, 2, 3)]
        assert sum(map(len, (await srv(zone)).groups)) == 3


async def test_servers_by_priority_with_their_weights_and_ports() -> None:
    async with nameserver() as zone:
        zone.records["a.example", "A"] = 10, ["10.0.0.1", "10.0.0.2"]
        zone.records["b.example", "A"] = 4, ["10.0.0.3"]
        zone.records[SERVICE, "SRV"] = 20, ["1 0 9000 b.example.", "0 30 8000 a.example.", "0 0 8001 b.example."]
        (first, second), again_s, _ = await srv(zone, name="gpu")
        assert [(one.url, one.weight) for one in first] == [
            ("http://10.0.0.3:8001", 1), ("http://10.0.0.1:8000", 30), ("http://10.0.0.2:8000", 30),
        ]  # fmt: skip
        assert [(one.name, one.weight) for one in second] == [("gpu@10.0.0.3:9000", 1)]
        assert again_s == 4.0


async def test_what_is_nobodys_address_is_passed_over_and_told_and_the_rest_counts() -> None:
    async with nameserver() as zone:
        zone.records["a.example", "A"] = 10, ["10.0.0.1"]
        zone.records[SERVICE, "SRV"] = 10, ["0 1 0 a.example.", "0 1 8000 a.example."]
        (group,), _, bad = await srv(zone)
        assert [one.url for one in group] == ["http://10.0.0.1:8000"]
        assert [one.partition(":")[0] for one in bad] == ["10.0.0.1 port 0"]
    engine = EngineConfig(url=f"http://{NAME}:8000", discover="dns")

    class Scoped(Asking):
        async def addresses(self, name: str) -> tuple[list[str], float | None]:
            return ["fe80::1%eth0", "10.0.0.2"], None

    (group,), _, bad = await ByAddress(engine, Scoped("", 1.0), 30.0).look()
    assert [one.url for one in group] == ["http://10.0.0.2:8000"]
    assert [one.partition(":8")[0].startswith("fe80::1%eth0 port 8000") for one in bad] == [True]


async def test_great_weights_become_shares_and_twins_one() -> None:
    async with nameserver() as zone:
        zone.records["a.example", "A"] = 10, ["10.0.0.1"]
        zone.records["b.example", "A"] = 10, ["10.0.0.1"]
        zone.records[SERVICE, "SRV"] = 10, ["0 60000 1 a.example.", "0 6000 2 a.example.", "1 5 1 b.example.", "0 0 9 ."]
        first, second = (await srv(zone)).groups
        assert {one.url: one.weight for one in first} == {"http://10.0.0.1:1": 1000, "http://10.0.0.1:2": 100}
        assert list(second) == []


async def test_what_is_no_answer_is_no_word_that_nobody_is_there() -> None:
    async with nameserver() as zone:
        with pytest.raises(LookFailed, match="does not exist"):
            await dns(zone)
        zone.records[NAME, "TXT"] = 1, []
        with pytest.raises(LookFailed, match="has no address"):
            await dns(zone)
        zone.records[SERVICE, "TXT"] = 1, []
        with pytest.raises(LookFailed, match="has no SRV record"):
            await srv(zone)
        zone.records[SERVICE, "SRV"] = 1, ["0 0 1 nowhere.example."]
        with pytest.raises(LookFailed):
            await srv(zone)
        zone.broken = True
        with pytest.raises(LookFailed, match="SERVFAIL"):
            await dns(zone)
        zone.silent = True
        engine = EngineConfig(url=f"http://{NAME}:1", discover="dns")
        with pytest.raises(LookFailed, match=r"no answer within 0\.2 s"):
            await ByAddress(engine, Asking(zone.address, 0.2), 1.0).look()


async def test_without_a_server_the_system_is_asked() -> None:
    engine = EngineConfig(url="http://localhost:8000", discover="dns")
    (group, *_), again_s, _ = await ByAddress(engine, Asking("", 2.0), 12.0).look()
    assert "http://127.0.0.1:8000" in [one.url for one in group]
    assert again_s == 12.0
    engine = EngineConfig(url="http://no-such-host.invalid:1", discover="dns")
    with pytest.raises(LookFailed, match=r"does not exist|no answer|Temporary failure"):
        async with asyncio.timeout(10):
            await ByAddress(engine, Asking("", 1.0), 12.0).look()
