"""A reset that arrives together with data: the data is read, and the reset is met at once all the same."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from time import monotonic

from fastgw.sim import SimConfig, Simulator
from tests.support.client import RawClient, chat
from tests.support.gateway import running

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends RST
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'


async def test_a_client_that_sends_and_resets_frees_its_engine_at_once() -> None:
    async with Simulator(SimConfig(models=("m",), ttft_ms=60_000)) as sim, running([sim.url]) as gw:
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", gw.port)) as sock:
                # Nothing else runs between these lines: the gateway finds the request and the reset in one look.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                sock.sendall(chat("m", True))
            await asyncio.sleep(0)
        begun = monotonic()
        await gw.idle()
        await gw.until("the engine is free", lambda: sim.state.running == 0)
        assert monotonic() - begun < 2.0
        assert {record["outcome"] for record in gw.records} <= {"client_closed"}


class Breaker:
    """An engine that answers with one event and a reset in the same breath."""

    def __init__(self) -> None:
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                conn, _ = self.sock.accept()
            except OSError:
                return
            # Each in a thread of its own: one that the gateway only keeps warm must not hold up the others.
            threading.Thread(target=self.answer, args=(conn,), daemon=True).start()

    @staticmethod
    def answer(conn: socket.socket) -> None:
        with conn, contextlib.suppress(OSError):
            conn.settimeout(5.0)
            asked = conn.recv(65536)
            if asked.startswith(b"GET"):
                conn.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            elif asked:
                conn.sendall(HEAD + b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
                conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def close(self) -> None:
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        self.thread.join(5.0)


async def test_an_engine_that_sends_and_resets_ends_its_streams_at_once() -> None:
    engine = Breaker()
    try:
        async with running([f"http://127.0.0.1:{engine.port}"], cb_failure_threshold=0) as gw:
            for _ in range(50):
                async with RawClient.connect("127.0.0.1", gw.port) as client:
                    await client.send(chat("m", True))
                    begun = monotonic()
                    answer = await client.read_response(timeout=5.0)
                    # The engine's event may be lost with its connection; that it broke off never is.
                    assert not answer.complete or answer.status == 502
                    assert monotonic() - begun < 1.0
            await gw.idle()
    finally:
        await asyncio.to_thread(engine.close)
