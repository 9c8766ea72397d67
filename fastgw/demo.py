"""``fastgw demo``: a simulated engine, the gateway before it, and one answer streamed through both.

Owns: what the first five minutes look like. The simulator is a process of its own, so that the two are told apart in
``ps`` and by their ports. Invariant: however it ends, the simulator ends with it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from fastgw.app import Gateway

MODEL: Final = "demo-model"
DEFAULT_PORT: Final = 8080
_START_S: Final = 20.0
_ANSWER_S: Final = 60.0
_STOP_S: Final = 5.0
# Slow enough that the eye sees tokens arrive, quick enough that `--once` is a matter of seconds.
_ENGINE_FLAGS: Final = ("--port", "0", "--model", MODEL, "--ttft-ms", "150", "--itl-ms", "25", "--ready-json")
_MAX_TOKENS: Final = 64
_ENDS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last: its terminal was closed


class DemoError(Exception):
    """Something without which there is nothing to show; the message is for the person at the terminal."""


def run(*, prompt: str, port: int | None = None, once: bool = False) -> int:
    """Run the demo until Ctrl-C (or until the first answer is complete); returns the exit code.

    ``port`` None is the usual one, or a free one when that is taken; with a number, that port or failure.
    """
    import uvloop

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_main(prompt, port, once))
    except DemoError as error:
        print(f"fastgw demo: error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read the output has left: nothing more to say, and the interpreter's last flush must not say it either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


async def _main(prompt: str, port: int | None, once: bool) -> int:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    ends = [number for number in _ENDS if signal.getsignal(number) is not signal.SIG_IGN]  # as SIGHUP is under nohup
    for number in ends:
        loop.add_signal_handler(number, ended.set)
    show = asyncio.create_task(_show(prompt, port, once, ended), name="demo")
    end = asyncio.create_task(ended.wait(), name="demo-end")
    try:
        await asyncio.wait({show, end}, return_when=asyncio.FIRST_COMPLETED)
        if show.done():
            show.result()
        else:
            _say("\nStopping.")
    finally:
        end.cancel()
        show.cancel()
        await asyncio.wait({show})
        for number in ends:
            loop.remove_signal_handler(number)
    if not show.cancelled() and show.exception() is not None:
        show.result()
    return 0


async def _show(prompt: str, port: int | None, once: bool, ended: asyncio.Event) -> None:
    from fastgw import __version__

    engine = await _start_engine()
    try:
        engine_url = await _engine_url(engine)
        gateway = await _start_gateway(engine_url, port)
        try:
            _say(f"engine simulator  {engine_url}   process {engine.pid}, model {MODEL}: words drawn by a seed")
            _say(f"fastgw {__version__:<9}  {gateway.url}   process {os.getpid()}, {_data_plane()}")
            _say("                  no API key is set, so only this machine can reach it\n")
            await _stream(gateway.url, prompt)
            if not once:
                _say(_try_it(gateway.url))
                await ended.wait()
        finally:
            await gateway.stop()
    finally:
        await _stop_engine(engine)


def _data_plane() -> str:
    from fastgw import twins

    return "native data plane" if twins.native() else "data plane in pure Python"


async def _start_engine() -> asyncio.subprocess.Process:
    # A frozen binary is its own interpreter: it takes the command without `-m fastgw`.
    command = [sys.executable] if getattr(sys, "frozen", False) else [sys.executable, "-m", "fastgw"]
    # A session of its own: Ctrl-C reaches only this process, which lets the engine go after the gateway.
    return await asyncio.create_subprocess_exec(
        *command,
        "sim",
        *_ENGINE_FLAGS,
        stdout=asyncio.subprocess.PIPE,
        stdin=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )


async def _engine_url(engine: asyncio.subprocess.Process) -> str:
    assert engine.stdout is not None
    try:
        line = await asyncio.wait_for(engine.stdout.readline(), _START_S)
        return str(json.loads(line)["listening"])
    except (TimeoutError, ValueError, KeyError) as error:
        raise DemoError("the engine simulator did not start") from error


async def _stop_engine(engine: asyncio.subprocess.Process) -> None:
    if engine.returncode is not None:
        return
    engine.terminate()
    try:
        await asyncio.wait_for(engine.wait(), _STOP_S)
    except TimeoutError:
        engine.kill()
        await engine.wait()


async def _start_gateway(engine_url: str, port: int | None) -> Gateway:
    from fastgw.app import Gateway, StartError
    from fastgw.config import Config, EngineConfig

    engines = (EngineConfig(url=engine_url, name="simulator", models=(MODEL,)),)

    async def start(number: int) -> Gateway:
        gateway = Gateway(Config(engines=engines, port=number, drain_timeout_s=1.0, log_level="warning"))
        await gateway.start()
        return gateway

    try:
        return await start(DEFAULT_PORT if port is None else port)
    except (StartError, OSError) as error:
        if port is not None:
            raise DemoError(str(error)) from error
        _say(f"Port {DEFAULT_PORT} cannot be had ({error}): using a free one.\n")
    try:
        return await start(0)
    except (StartError, OSError) as error:
        raise DemoError(str(error)) from error


async def _stream(url: str, prompt: str) -> None:
    """Ask one question and print the answer's pieces as they come."""
    _say(f"you    {prompt}")
    print("model  ", end="", flush=True)
    started = time.perf_counter()
    first = 0.0
    pieces = 0
    try:
        async with asyncio.timeout(_ANSWER_S):
            async for event in events(url, prompt):
                choices = event.get("choices") or [{}]
                piece = choices[0].get("delta", {}).get("content")
                if piece:
                    first = first or time.perf_counter() - started
                    pieces += 1
                    print(piece, end="", flush=True)
    except TimeoutError as error:
        raise DemoError(f"the answer was not complete after {_ANSWER_S:.0f} s") from error
    except BrokenPipeError:
        raise  # the reader of our output, not the gateway, has gone
    except (OSError, EOFError, ValueError) as error:
        raise DemoError(f"the answer broke off: {error}") from error
    if not pieces:
        raise DemoError("the answer had no content")
    took = time.perf_counter() - started
    _say(f"\n\n{pieces} pieces in {took:.2f} s, the first after {first * 1000:.0f} ms.")


async def events(url: str, prompt: str) -> AsyncIterator[dict[str, Any]]:
    """The JSON events of one streamed completion, by the plainest client there can be: a socket and a few lines."""
    place = urlsplit(url)
    question = {"model": MODEL, "stream": True, "max_tokens": _MAX_TOKENS, "messages": [{"role": "user", "content": prompt}]}
    body = json.dumps(question).encode()
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (place.netloc.encode(), len(body), body)
        )
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            status = head.partition(b"\r\n")[0].decode("latin-1")
            raise ValueError(f"{status}: {(await reader.read(2000)).decode(errors='replace')}")
        kept = b""
        while size := int(await reader.readline(), 16):
            kept += await reader.readexactly(size)
            await reader.readexactly(2)
            *events, kept = kept.replace(b"\r\n", b"\n").split(b"\n\n")
            for event in events:
                data = event.removeprefix(b"data:").strip()
                if event.startswith(b"data:") and data != b"[DONE]":
                    parsed = json.loads(data)
                    if "error" in parsed:
                        raise ValueError(parsed["error"].get("message"))
                    yield parsed
    finally:
        writer.close()


def _try_it(url: str) -> str:
    return f"""
Try it from another terminal:

  curl -N {url}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "{MODEL}", "stream": true, "messages": [{{"role": "user", "content": "Hello!"}}]}}'

or with the OpenAI SDK:

  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="none-needed")
  messages = [{{"role": "user", "content": "Hello!"}}]
  for chunk in client.chat.completions.create(model="{MODEL}", messages=messages, stream=True):
      print(chunk.choices[0].delta.content or "", end="", flush=True)

Serving until Ctrl-C."""


def _say(text: str) -> None:
    print(text, flush=True)
