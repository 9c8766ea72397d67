"""Client certificates as keys of the store: made, changed and ended while connections live, over HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.e2e.key_place import WITHIN_S, Place, place
from tests.e2e.test_h2_front import asks
from tests.support.client import chat
from tests.support.h2 import frames as f
from tests.support.h2.peer import Client, OnLoop
from tests.support.pki import Certificates, Pair
from tests.support.requests import chat_body
from tests.support.tls_client import TlsClient

GOOD = chat("sim")


def read(path: str) -> str:
    return Path(path).read_text()


def bringing(key: str) -> bytes:
    return chat("sim", headers=[("authorization", f"Bearer {key}")])


@asynccontextmanager
async def connected(gw_port: int, certs: Certificates, pair: Pair | None) -> AsyncIterator[TlsClient]:
    sock = socket.create_connection(("127.0.0.1", gw_port))
    sock.setblocking(False)
    async with await TlsClient(sock, certs.trusting(pair)).shake() as client:
        yield client


async def answers(client: TlsClient, status: int, data: bytes = GOOD, within_s: float = WITHIN_S) -> Any:
    begin = monotonic()
    while True:
        await client.send(data)
        answer = await client.read_response()
        if answer.status == status or monotonic() - begin > within_s:
            assert answer.status == status, answer.body
            return answer
        await asyncio.sleep(0.05)


@asynccontextmanager
async def secured(tmp_path: Path, certs: Certificates, **more: Any) -> AsyncIterator[Place]:
    settings = {
        "tls_cert_file": [certs.gateway.cert], "tls_key_file": [certs.gateway.key], "tls_client_ca_file": certs.ca,
        "tls_client_auth": "optional", **more,
    }  # fmt: skip
    async with place(tmp_path, **settings) as here:
        yield here


@pytest.mark.deadline_s(60)
async def test_a_certificate_is_a_key_of_the_store_while_the_connection_lives(tmp_path: Path, certs: Certificates) -> None:
    async with secured(tmp_path, certs, require_key=True) as here:
        async with connected(here.gw.port, certs, certs.client) as client:
            await answers(client, 401)
            made = await here.said("create", "--name", "ann", "--certificate", certs.client.cert, "--daily-tokens", "100000")
            fingerprint = certs.authority.fingerprint(certs.client).replace(":", "").lower()
            assert made["certificates"] == [fingerprint]
            await answers(client, 200)
            assert here.gw.records[-1]["key_id"] == made["id"]
            await answers(client, 200, bringing(made["key"]))
            refused = await answers(client, 401, bringing("fgw_another"))
            assert refused.error["message"] == "The API key is not valid.", "what is brought counts"
            listed = await here.command("list")
            assert fingerprint[:12] in listed.stdout
            assert (await here.admin("GET", f"/admin/keys/{made['id']}"))["certificates"] == [fingerprint]
            # Another key cannot have it, by whichever way.
            done = await here.command("create", "--certificate", certs.client.cert)
            assert (done.returncode, made["id"] in done.stderr) == (2, True)
            told = await here.admin("POST", "/admin/keys", {"certificates": [fingerprint]}, status=400)
            assert "entry 1" in told["error"]["message"]
            # It ends, and comes back, on the connection that there is.
            await here.admin("POST", f"/admin/keys/{made['id']}/disable")
            assert "disabled" in (await answers(client, 401, within_s=0)).error["message"]
            await here.admin("POST", f"/admin/keys/{made['id']}/enable")
            await answers(client, 200, within_s=0)
            await here.change(made["id"], certificates=[certs.authority.fingerprint(certs.other)])
            await answers(client, 401, within_s=0)
            async with connected(here.gw.port, certs, certs.other) as other:
                await answers(other, 200)
                await here.admin("DELETE", f"/admin/keys/{made['id']}", status=204)
                await answers(other, 401, within_s=0)
        changes = [one["changes"] for one in (await here.admin("GET", "/admin/audit"))["data"] if one["action"] == "update"]
        assert changes[0]["certificates"][0] == [fingerprint]


async def test_one_that_the_configuration_knows_too_is_the_stores(tmp_path: Path, certs: Certificates) -> None:
    fingerprint = certs.authority.fingerprint(certs.client)
    async with (
        secured(tmp_path, certs, tls_client_keys=[fingerprint]) as here,
        connected(here.gw.port, certs, certs.client) as client,
    ):
        await answers(client, 200, within_s=0)
        id, _ = await here.key(certificates=[fingerprint])
        await answers(client, 200, within_s=0)
        assert here.gw.records[-1]["key_id"] == id
        await here.change(id, networks=["192.0.2.0/24"])
        await answers(client, 403, within_s=0)
        await here.admin("DELETE", f"/admin/keys/{id}", status=204)
        await answers(client, 200, within_s=0)
        assert fingerprint.replace(":", "").lower().startswith(here.gw.records[-1]["key_id"])


class Secure(ssl.SSLSocket):
    """Without anything to read it says so as a plain one does."""

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except ssl.SSLWantReadError as error:
            raise BlockingIOError from error


async def test_over_http2_each_request_is_judged_by_what_holds_then(tmp_path: Path, certs: Certificates) -> None:
    async with secured(tmp_path, certs, require_key=True, http2=True) as here:
        id, text = await here.key(certificates=[read(certs.client.cert)])
        context = certs.trusting(certs.client)
        context.sslsocket_class = Secure
        context.set_alpn_protocols(["h2"])
        sock = socket.create_connection(("127.0.0.1", here.gw.port))
        with await asyncio.to_thread(context.wrap_socket, sock, server_hostname="localhost") as secure:
            secure.setblocking(False)
            line = OnLoop(Client(settings=f.settings()), secure)
            line.begins()
            await line.sees("SETTINGS !ack", "SETTINGS ack")
            for stream, act, status in (
                (1, "", 200), (3, "disable", 401), (5, "enable", 200), (7, "none", 401), (9, "key", 200)
            ):  # fmt: skip
                if act in ("disable", "enable"):
                    await here.admin("POST", f"/admin/keys/{id}/{act}")
                elif act == "none":
                    await here.change(id, certificates=[])
                more = ((b"authorization", b"Bearer " + text.encode()),) if act == "key" else ()
                line.says(asks(stream, chat_body("sim"), *more))
                await line.sees(f"HEADERS {stream} :status={status}")
