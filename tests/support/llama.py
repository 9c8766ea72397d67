"""llama.cpp's own HTTP server, from the ``xllamacpp`` wheel, as a process of its own beside the tests.

Owns: that process. It runs on a free port over the tiny random model, says on its first line where it listens, and ends
when its standard input closes, so that it cannot outlive the tests, however they end.
Run by hand: ``python -m tests.support.llama --model tiny.gguf`` (Ctrl-D ends it).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0


class LlamaServer:
    """One engine process: a context manager, plain or asynchronous, with ``url`` once it is entered.

    ``slots`` requests run at a time, each with ``slot_tokens`` of context. ``http_threads`` is llama.cpp's number of
    HTTP threads (0: its own choice); each open connection occupies one. ``pooling`` ("mean", "rank"): it embeds, or ranks,
    instead of generating. ``cache``: a prompt that a slot has seen is not read again.
    """

    def __init__(
        self, directory: Path, *, slots: int = 4, slot_tokens: int = 16384, http_threads: int = 0, pooling: str = "",
        cache: bool = False,
    ) -> None:  # fmt: skip
        self.url = ""
        self.log = directory / "llama.log"
        self._directory = directory
        self._options = [f"--slots={slots}", f"--slot-tokens={slot_tokens}", f"--http-threads={http_threads}"]
        self._options += [f"--pooling={pooling}"] if pooling else []
        self._options += ["--cache"] if cache else []
        self._process: subprocess.Popen[str] | None = None

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def slots(self) -> list[dict[str, Any]]:
        """What each slot does now (``is_processing``), asked of the engine itself and not through any gateway."""
        with urllib.request.urlopen(self.url + "/slots", timeout=5) as answer:
            found: list[dict[str, Any]] = json.loads(answer.read())
        return found

    def busy(self) -> int:
        """How many slots are generating."""
        return sum(slot["is_processing"] for slot in self.slots())

    def start(self) -> LlamaServer:
        from tests.support import tinymodel

        model = self._directory / "tiny.gguf"
        if not model.exists():
            tinymodel.write(model)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.llama", f"--model={model}", *self._options],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        first = self._process.stdout.readline()  # ends as well when the process does
        if not first:
            self.stop()
            raise RuntimeError(f"llama.cpp did not start:\n{self.log.read_text()[-2000:]}")
        self.url = json.loads(first)["listening"]
        self._await_health()
        return self

    def _await_health(self) -> None:
        end = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                with urllib.request.urlopen(self.url + "/health", timeout=2) as answer:
                    if answer.status == 200:
                        return
            except OSError as error:
                if time.monotonic() > end:
                    self.stop()
                    raise RuntimeError(f"llama.cpp is not healthy: {error}") from error
            time.sleep(0.02)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def __enter__(self) -> LlamaServer:
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    async def __aenter__(self) -> LlamaServer:
        return await asyncio.to_thread(self.start)

    async def __aexit__(self, *_exc: object) -> None:
        await asyncio.to_thread(self.stop)


def main(argv: list[str] | None = None) -> int:
    """The engine's process: serve until standard input closes."""
    parser = argparse.ArgumentParser(prog="llama", description="llama.cpp's server over one model file")
    parser.add_argument("--model", required=True)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--slot-tokens", type=int, default=16384)
    parser.add_argument("--http-threads", type=int, default=0)
    parser.add_argument("--pooling", default="")
    parser.add_argument("--cache", action="store_true")
    options = parser.parse_args(argv)

    # llama.cpp writes to descriptors 1 and 2 itself: standard output is ours alone.
    ready = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.model_alias = {"tiny-random"}
    params.port = 0
    params.n_parallel = options.slots
    params.n_ctx = options.slots * options.slot_tokens
    params.fit_params = False
    params.warmup = False
    params.ui = False
    params.endpoint_metrics = True
    params.cache_prompt = options.cache  # a cached prompt changes the batch's shape, and with it the last bits of the sums
    params.cache_ram_mib = 0
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.sampling.temp = 0.0
    params.sampling.seed = 1
    if options.pooling:
        params.embedding = True
        params.pooling_type = getattr(xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{options.pooling.upper()}")
    if options.http_threads:
        params.n_threads_http = options.http_threads
    server = xllamacpp.Server(params)
    ready.write(json.dumps({"listening": server.listening_address, "pid": os.getpid()}) + "\n")
    ready.flush()
    sys.stdin.buffer.read()
    # Its own clean-up waits for requests still running: what they hold dies with the process.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
