"""``fastgw sim``: the simulator as a program. Serves until SIGTERM or SIGINT, then exits with 0."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from typing import Final

import msgspec
import uvloop

from fastgw.sim import kinds, metrics
from fastgw.sim.config import H2_PREFACES, H2_PROFILES, SimConfig
from fastgw.sim.faults import TABLE, FaultError
from fastgw.sim.server import Simulator

_EXAMPLES: Final = """\
examples:
  fastgw sim --port 8000                                   an engine that answers at once
  fastgw sim --port 8000 --ttft-ms 80 --itl-ms 20          one that feels like a 50 tokens/s model
  fastgw sim --slots 8 --prefill-us 50 --itl-ms 15         a small batch with a queue in front of it
  fastgw sim --prefill-tokens-per-s 10000 --prefix-cache-tokens 600000    prompts take time, what is known of them none
  fastgw sim --model llama --model qwen --api-key secret   two models behind a key
  fastgw sim --fault status=503,retry-after=1 --fault-rate 0.1 --seed 7
  fastgw sim --port 8000 --h2 --h2-max-streams 8          HTTP/2 with prior knowledge beside HTTP/1.1
  fastgw sim --unix /tmp/engine.sock --debug
  curl -N localhost:8000/v1/chat/completions -H 'x-sim-fault: reset-after-events=3' \\
    -d '{"messages":[{"role":"user","content":"hi"}],"stream":true}'

faults (--fault, or the request header x-sim-fault; comma-separated, %XX decoded in values):
"""


def _fault_help() -> str:
    lines, group = [], ""
    for row in TABLE.values():
        if row.group != group:
            group = row.group
            lines.append(f"  {group}:")
        said = {"flag": "", "count": "=N", "real": "=N", "code": "=CODE", "word": "=WORD"}.get(row.kind, "=...")
        name = row.name + said
        note = f" (default {row.default})" if row.kind != "flag" and row.default else ""
        lines.append(f"    {name:<24} {row.help}{note}")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``fastgw sim``, and its examples."""
    base = SimConfig()
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES + _fault_help()

    def option(name: str, help_text: str, kind: type = int, choices: tuple[str, ...] | None = None) -> None:
        default = getattr(base, name)
        shown = f" (default {default})" if default not in ("", 0, 0.0) else ""
        parser.add_argument(
            "--" + name.replace("_", "-"), type=kind, default=default, choices=choices, help=help_text + shown,
            metavar=None if choices else {int: "N", float: "X", str: "TEXT"}[kind],
        )  # fmt: skip

    option("host", "address to listen on", str)
    option("port", "port to listen on; 0 takes a free one")
    option("unix", "listen on this Unix socket instead", str)
    parser.add_argument("--model", action="append", metavar="NAME", help="model to serve; can be repeated (default sim)")
    parser.add_argument("--any-model", action="store_true", help="serve whatever model is asked for")
    option("api_key", "key to ask for; none by default", str)
    option("max_model_len", "longest prompt and answer together, in tokens")
    option("seed", "seed of texts and of --fault-rate")
    option("output_tokens", "tokens of an answer whose request sets no limit")
    option("ttft_ms", "fixed time to the first token", float)
    option("itl_ms", "time between tokens", float)
    option("stream_interval", "tokens of a stream that leave together, as when an engine is told so; the first leaves alone")
    option("prefill_us", "prefill time per prompt token, in microseconds", float)
    option("prefill_tokens_per_s", "tokens of prompts read in a second, one prompt after the other; 0 reads all at once", float)
    option("prefix_cache_tokens", "tokens of prompts that are kept, and need not be read again; 0 keeps none")
    option("slots", "requests generated at a time, the others wait; 0 for no limit")
    option("max_waiting", "longest queue, 503 beyond it; 0 for no limit")
    option("kv_tokens", "size of the KV cache that the metrics report on")
    option("metrics_kind", "whose names /metrics uses; none for no such page", str, metrics.KINDS)
    option("plays", "what it says that it is, at the paths of that engine", str, kinds.PLAYS)
    option("embedding_size", "numbers in an embedding")
    parser.add_argument("--h2", action="store_true", help="speak HTTP/2 with prior knowledge too, on the same port")
    option("h2_profile", "whose SETTINGS its connections begin with", str, H2_PROFILES)
    option("h2_preface", "what becomes of a client's preface", str, H2_PREFACES)
    option("h2_max_streams", "MAX_CONCURRENT_STREAMS; -1 for the profile's")
    option("h2_window_bytes", "INITIAL_WINDOW_SIZE; -1 for the profile's")
    option("keep_alive_s", "close a connection idle for so long; 0 for never", float)
    option("max_requests", "requests per connection; 0 for no limit")
    parser.add_argument("--close-after-stream", action="store_true", help="close, unannounced, after every streamed answer")
    option("max_body_bytes", "longest request body")
    option("sep", "line ends between SSE events", str, ("lf", "crlf"))
    parser.add_argument("--no-done", action="store_true", help="never send data: [DONE]")
    option("first_chunk", "style of the first chat chunk", str, ("vllm", "llamacpp", "none"))
    parser.add_argument("--early-head", action="store_true", help="send a stream's head before its first token is there")
    option("ping_s", "send a comment on every stream so often; 0 for never", float)
    option("fault", "faults of every API request that names none itself (see below)", str)
    option("fault_rate", "share of requests that --fault hits, 0 to 1", float)
    option("refuse_s", "refuse connections for so long after the start", float)
    parser.add_argument("--refuse", dest="refuse_s", type=float, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument("--debug", action="store_true", help="serve /debug/* (shows prompts and keys)")
    parser.add_argument("--record", type=int, default=None, metavar="N", help="requests to keep for /debug (default 256)")
    parser.add_argument("--ready-json", action="store_true", help="print one JSON line when listening, nothing else")


def config_from(args: argparse.Namespace) -> SimConfig:
    """ValueError, in words, for settings that make no sense."""
    values = {name: getattr(args, name) for name in SimConfig.__struct_fields__ if hasattr(args, name)}
    record = args.record if args.record is not None else (256 if args.debug else 0)
    values.update(models=tuple(args.model or SimConfig().models), done=not args.no_done, record=record)
    return SimConfig(**values)


async def _serve(config: SimConfig, ready_json: bool) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with Simulator(config) as simulator:
        if ready_json:
            line = msgspec.json.encode({"listening": simulator.url, "pid": os.getpid()}).decode()
        else:
            line = f"fastgw sim: {', '.join(config.models)} at {simulator.url} (Ctrl-C ends it)"
        print(line, flush=True)
        await stopping.wait()


def run(args: argparse.Namespace) -> int:
    """Serve with parsed arguments; the exit code."""
    try:
        config = config_from(args)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(config, args.ready_json))
    except (ValueError, FaultError) as error:
        print(f"fastgw sim: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"fastgw sim: error: cannot listen: {error}", file=sys.stderr)
        return 1
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="fastgw sim", description="A simulated LLM engine, with a clock, a queue and faults.")
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
