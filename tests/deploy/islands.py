"""A network of one's own for the tests of a module, and who loads a gateway in it."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
NEW_NETWORK = 0x40000000  # CLONE_NEWNET, <linux/sched.h>


@contextlib.contextmanager
def own_network() -> Iterator[None]:
    """Nothing but loopback: every port is free, and nobody outside reaches what listens on all addresses."""
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        assert LIBC.unshare(NEW_NETWORK) == 0, os.strerror(ctypes.get_errno())
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
    finally:
        assert LIBC.setns(before, NEW_NETWORK) == 0
        os.close(before)


@contextlib.contextmanager
def engine(program: Path) -> Iterator[str]:
    words = [str(program), "sim", "--port", "0", "--ready-json", "--ttft-ms", "10", "--itl-ms", "20"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["listening"]
        finally:
            process.terminate()


def ask(port: int, tokens: int = 5) -> http.client.HTTPConnection:
    question = {"model": "sim", "stream": True, "max_tokens": tokens, "messages": [{"role": "user", "content": "x"}]}
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    client.request("POST", "/v1/chat/completions", json.dumps(question),
                   {"Content-Type": "application/json", "Authorization": "Bearer key1"})  # fmt: skip
    return client


def ended(client: http.client.HTTPConnection) -> tuple[int, bool]:
    """The status, and whether the stream came to its end."""
    with contextlib.closing(client), client.getresponse() as answer:
        return answer.status, answer.read().endswith(b"data: [DONE]\n\n")


class Load:
    """Four clients that stream, one answer after the other, until they are told to stop."""

    def __init__(self, port: int) -> None:
        self.answers: list[Any] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._go, args=(port,)) for _ in range(4)]

    def _go(self, port: int) -> None:
        while not self._stop.is_set():
            try:
                self.answers.append(ended(ask(port)))
            except (OSError, http.client.HTTPException) as error:
                self.answers.append(repr(error))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def goes_on(self) -> None:
        """Ten more answers, and all of them whole."""
        before = len(self.answers)
        until(lambda: len(self.answers) >= before + 10, "answers")
        assert set(self.answers) == {(200, True)}


def until(condition: Callable[[], Any], what: str, timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.02)
