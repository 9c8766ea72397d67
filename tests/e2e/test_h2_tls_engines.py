"""Engines that are asked over HTTP/2 and TLS: which of the two protocols, by ALPN; real peers in front of the simulator."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.sim import SimConfig, Simulator
from fastgw.upstream.health import Health
from tests.e2e.engines import ask, fine, pool_engine, posts, refused, scripted
from tests.peers import parts
from tests.support.client import RawClient, chat
from tests.support.gateway import Running, running
from tests.support.pki import Certificates

SOON: dict[str, Any] = {"health_interval_s": 0.1}


@pytest.fixture(scope="module")
def cert() -> Iterator[parts.Certificate]:
    with parts.certificate("localhost") as made:
        yield made


async def well(gw: Running) -> Any:
    engine = pool_engine(gw)
    await gw.until("it is well", lambda: engine.healthy is True)
    return engine


@parts.needs("nghttpx", "openssl")
@pytest.mark.parametrize(("protocol", "h2"), [("auto", True), ("h2", True), ("h1", False)])
async def test_the_protocol_is_what_alpn_says_and_the_setting_allows(cert: parts.Certificate, protocol: Any, h2: bool) -> None:
    async with Simulator(SimConfig(ttft_ms=1.0, itl_ms=1.0)) as sim:
        with parts.nghttpx(sim.port, tls=cert) as peer:
            target = EngineConfig(url=peer.url, ca_file=str(cert.cert), protocol=protocol)
            async with running([target], **SOON) as gw:
                engine = await well(gw)
                assert engine.h2 == h2
                async with RawClient.connect("127.0.0.1", gw.port) as client:
                    for number in range(3):
                        await client.send(chat("sim", True, content=f"stream {number}"))
                        answer = await client.read_response(10.0)
                        assert (answer.status, answer.how_ended) == (200, "terminal-chunk")
                assert [record["outcome"] for record in gw.records] == ["ok"] * 3
                if protocol != "auto":
                    assert gw.stats.dials_total == 1, "the warm connection was taken"


@parts.needs("nghttpx", "openssl")
async def test_many_at_once_share_connections(cert: parts.Certificate) -> None:
    async with Simulator(SimConfig(ttft_ms=50.0, itl_ms=1.0, slots=100)) as sim:
        with parts.nghttpx(sim.port, tls=cert) as peer:
            target = EngineConfig(url=peer.url, ca_file=str(cert.cert), protocol="h2")

            async def one(gw: Running, number: int) -> bytes:
                async with RawClient.connect("127.0.0.1", gw.port) as client:
                    await client.send(chat("sim", True, content="x", max_tokens=9))
                    answer = await client.read_response(10.0)
                    assert (answer.status, answer.how_ended) == (200, "terminal-chunk"), number
                    return answer.body

            async with running([target], **SOON) as gw:
                await well(gw)
                await asyncio.gather(*(one(gw, number) for number in range(40)))
                assert gw.stats.dials_total <= 2


@parts.needs("nghttpd", "openssl")
@pytest.mark.parametrize("protocol", ["auto", "h2"])
async def test_one_that_speaks_nothing_else_is_found_well(cert: parts.Certificate, protocol: Any) -> None:
    with parts.nghttpd(tls=cert) as peer:
        target = EngineConfig(url=peer.url, ca_file=str(cert.cert), protocol=protocol, health_path="/hello", models=["m"])
        async with running([target], **SOON) as gw:
            assert (await well(gw)).h2


@pytest.mark.parametrize("offers", [["http/1.1"], []])
async def test_one_of_http_1_is_asked_so(certs: Certificates, offers: list[str]) -> None:
    context = certs.server()
    if offers:
        context.set_alpn_protocols(offers)
    async with (
        scripted(fine, ssl_context=context) as engine,
        running([EngineConfig(url=engine.url, ca_file=certs.ca, protocol="auto")], **SOON) as gw,
        await gw.client() as client,
    ):
        assert not (await well(gw)).h2
        assert (await ask(client)).status == 200
        assert len(posts(engine)) == 1
        assert not engine.asked_for_h2, "ALPN says it: no preface is tried"


async def test_where_http_2_is_asked_for_the_log_says_that_there_is_none(certs: Certificates) -> None:
    context = certs.server()
    context.set_alpn_protocols(["http/1.1"])
    async with (
        scripted(fine, ssl_context=context) as engine,
        running([EngineConfig(url=engine.url, ca_file=certs.ca, protocol="h2")], **SOON) as gw,
        await gw.client() as client,
    ):
        await gw.until("a verdict", lambda: any(line[1] == "engine is not well" for line in gw.events.lines))
        reason = next(line[2]["reason"] for line in gw.events.lines if line[1] == "engine is not well")
        assert reason.startswith("does not speak HTTP/2: not agreed on by ALPN (protocol = ")
        refused(await ask(client), 502)
        assert "not agreed on by ALPN" in gw.records[-1]["detail"]
        assert engine.requests == []


async def test_one_that_is_not_believed_gets_nothing(certs: Certificates) -> None:
    context = certs.server(certs.strange)
    context.set_alpn_protocols(["h2"])
    async with (
        scripted(fine, ssl_context=context) as engine,
        running([EngineConfig(url=engine.url, ca_file=certs.ca, protocol="h2")], **SOON) as gw,
        await gw.client() as client,
    ):
        await gw.until("a verdict", lambda: any(line[1] == "engine is not well" for line in gw.events.lines))
        refused(await ask(client), 502)
        assert "comes from a CA that is not trusted" in gw.records[-1]["detail"]
        assert engine.requests == []


@parts.needs("nghttpx", "openssl")
async def test_one_that_stops_to_speak_it_is_asked_in_the_other_way(cert: parts.Certificate) -> None:
    async with Simulator(SimConfig(ttft_ms=1.0, itl_ms=1.0)) as sim:
        with parts.nghttpx(sim.port, tls=cert) as peer:
            target = EngineConfig(url=peer.url, ca_file=str(cert.cert), protocol="auto", warm_connections=0)
            async with running([target], health_interval_s=60.0) as gw:
                engine = await well(gw)
                assert engine.h2
                # (The same port, another server: it speaks HTTP/1.1 alone.)
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(cert.cert, cert.key)
                context.set_alpn_protocols(["http/1.1"])
                peer.stop()
                async with scripted(fine, ssl_context=context) as other:
                    engine.addresses = ((2, ("127.0.0.1", other.port)),)
                    async with RawClient.connect("127.0.0.1", gw.port) as client:
                        assert (await ask(client)).status == 200
                    assert not engine.h2
                    assert len(posts(other)) == 1


class TestBeforeAnybodyKnows:
    """`auto`: a connection agrees on either, and what was agreed on is spoken; nobody has to ask first."""

    @staticmethod
    def nobody_probes(monkeypatch: pytest.MonkeyPatch) -> None:
        async def never(_: Health) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(Health, "run", never)

    @parts.needs("nghttpx", "openssl")
    @pytest.mark.parametrize("warm", [0, 1])
    async def test_the_first_request_to_one_of_http_2(
        self, cert: parts.Certificate, monkeypatch: pytest.MonkeyPatch, warm: int
    ) -> None:
        self.nobody_probes(monkeypatch)
        async with Simulator(SimConfig(ttft_ms=1.0, itl_ms=1.0, models=("m",))) as sim:
            with parts.nghttpx(sim.port, "--npn-list=h2", tls=cert) as peer:
                target = EngineConfig(url=peer.url, ca_file=str(cert.cert), protocol="auto", warm_connections=warm)
                async with running([target]) as gw, await gw.client() as client:
                    for _ in range(2):
                        assert (await ask(client)).status == 200, gw.records[-1]["detail"]
                    assert pool_engine(gw).h2
                    assert gw.stats.dials_total <= 2 + warm, "those that found it out, and one that is spoken over"

    async def test_the_first_request_to_one_of_http_1_takes_one_handshake(
        self, certs: Certificates, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.nobody_probes(monkeypatch)
        async with (
            scripted(fine, ssl_context=certs.server()) as engine,
            running([EngineConfig(url=engine.url, ca_file=certs.ca, protocol="auto", warm_connections=0)]) as gw,
            await gw.client() as client,
        ):
            assert (await ask(client)).status == 200
            assert (gw.stats.dials_total, pool_engine(gw).h2) == (1, False)

    async def test_a_probe_takes_one_handshake_believed_or_not(
        self, certs: Certificates, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.nobody_probes(monkeypatch)
        for pair, believed in ((certs.gateway, True), (certs.strange, False)):
            context = certs.server(pair)
            hellos: list[object] = []
            context.sni_callback = lambda _, name, __, hellos=hellos: hellos.append(name)
            target: dict[str, Any] = {"ca_file": certs.ca, "protocol": "auto", "warm_connections": 0, "models": ["m"]}
            async with scripted(fine, ssl_context=context) as engine, running([EngineConfig(url=engine.url, **target)]) as gw:
                care = gw.gateway._care
                assert care is not None
                health = care.health
                await health.round()
                first = len(hellos)
                await health.round()
                assert pool_engine(gw).healthy is believed
                assert (len(hellos) - first, engine.asked_for_h2) == (1, 0)

    @parts.needs("nghttpx", "openssl")
    async def test_one_that_begins_to_speak_nothing_else_while_traffic_runs(
        self, cert: parts.Certificate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.nobody_probes(monkeypatch)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert.cert, cert.key)
        async with Simulator(SimConfig(ttft_ms=1.0, itl_ms=1.0, models=("m",))) as sim:
            with parts.nghttpx(sim.port, "--npn-list=h2", tls=cert) as peer:
                async with scripted(fine, ssl_context=context) as first:
                    target = EngineConfig(
                        url=first.url.replace("127.0.0.1", "localhost"), ca_file=str(cert.cert), protocol="auto"
                    )
                    async with running([target]) as gw, await gw.client() as client:
                        assert (await ask(client)).status == 200
                        # (The same name, another server.)
                        pool_engine(gw).addresses = ((2, ("127.0.0.1", int(peer.url.rpartition(":")[2]))),)
                        await first.stop()
                        for _ in range(3):
                            assert (await ask(client)).status == 200
                        assert pool_engine(gw).h2
