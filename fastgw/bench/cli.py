"""``fastgw bench``: the flags, the run, and what is printed and written of it.

Must never: print or write the key, or repeat a flag's value in an error. Exit codes: 0 all answers were good; 1 some were not,
or there were none; 2 wrong command line; 130 it was interrupted, and what there was has been printed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import resource
import signal
import ssl
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
import uvloop

from fastgw.bench import report, tables
from fastgw.bench.arrivals import Arrival, traced
from fastgw.bench.flags import fail, parser
from fastgw.bench.page import html
from fastgw.bench.plan import MAX_REQUESTS, PLAIN_S, PLAIN_WORKERS, STREAM_EACH, STREAM_WORKERS, Plan, Stage
from fastgw.bench.progress import shown
from fastgw.bench.run import Refused, Run
from fastgw.bench.tally import Result
from fastgw.bench.trace import TraceError, read
from fastgw.config import EngineAddress, parse_engine_url
from fastgw.config.grammar import engine_key

RATE_S: Final = 10.0
_LEAST_FILES: Final = 64
_FIELD: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}):[ \t]*([\x20-\x7e]{0,4096})")
_OURS: Final = {"host", "content-length", "transfer-encoding", "connection", "content-type", "accept", "authorization"}


def planned(options: argparse.Namespace, key: str) -> tuple[Plan, list[Stage]]:
    """What the options say, judged. Raises SystemExit with a line that says what is wrong."""
    key = options.api_key or key
    for text in (options.model, options.prompt):
        try:
            text.encode()
        except UnicodeEncodeError:
            fail("--model and --prompt must be text: these bytes are not UTF-8")
    for wrong in engine_key(key) if key else ():
        fail(f"the key: {wrong}")
    if options.turns > 1 and options.trace:
        fail("--turns is of made-up sessions: a trace names its own")
    if options.per_worker and not options.workers and (options.rate or options.trace):
        fail("--per-worker is of --workers: say --requests or --duration")
    plan = Plan(
        address=_address(options), model=options.model, api=options.api, key=key, fields=_fields(options.header),
        prompt=options.prompt, prompt_tokens=options.prompt_tokens, turn_tokens=options.turn_tokens,
        shared_tokens=options.shared_tokens, max_tokens=options.max_tokens, extra=_extra(options.extra),
        usage=not options.no_usage, turns=options.turns, think_s=options.think, seed=options.seed, timeout_s=options.timeout,
        stall_s=options.stall, high_ttft_s=options.high_ttft, slo=options.slo, warmup=options.warmup,
        in_flight=options.in_flight, ca_file=options.ca_file, insecure=options.insecure, traced=bool(options.trace),
    )  # fmt: skip
    return plan, _stages(options)


def _address(options: argparse.Namespace) -> EngineAddress:
    try:
        return parse_engine_url(re.sub(r"/v1/(?:chat/)?completions/?$", "", options.url))
    except ValueError as error:
        fail(f"--url: {str(error).partition(':')[0] if '@' in options.url else error}")


def _fields(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    found = []
    for text in texts:
        match = _FIELD.fullmatch(text.strip())
        if match is None or match[1].lower() in _OURS:
            fail("--header must be 'Name: value', and none that this program sets itself (the key is --api-key)")
        found.append((match[1], match[2]))
    return tuple(found)


def _extra(text: str) -> dict[str, Any]:
    try:
        extra = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        fail("--extra must be a JSON object")
    if "stream" in extra or "model" in extra:
        fail("--extra: stream and model have flags of their own")
    return extra


def _stages(options: argparse.Namespace) -> list[Stage]:
    arrivals = _trace(options) if options.trace else ()
    found = []
    for stream in [False] * (not options.stream) + [True] * (not options.no_stream):
        requests, duration = options.requests or 0, options.duration or 0.0
        nothing = not (requests or duration or options.per_worker)
        if arrivals:
            requests = requests or sum(len(one.turns) for one in arrivals)
            found.append(Stage(stream, trace=arrivals, requests=requests, duration_s=duration))
        elif options.rate:
            duration = RATE_S if nothing else duration
            found += [Stage(stream, rate=rate, requests=requests, duration_s=duration) for rate in options.rate]
        else:
            each = options.per_worker or (STREAM_EACH if nothing and stream else 0)
            duration = PLAIN_S if nothing and not stream else duration
            for workers in options.workers or (STREAM_WORKERS if stream else PLAIN_WORKERS):
                most = min(x for x in (requests, each * workers, MAX_REQUESTS) if x) if requests or each else 0
                found.append(Stage(stream, workers=workers, requests=most, duration_s=duration))
    return found


def _trace(options: argparse.Namespace) -> tuple[Arrival, ...]:
    try:
        with open(options.trace, "rb") as file:
            return tuple(traced(read(file), options.speed))
    except OSError as error:
        fail(f"--trace: {error.strerror}")
    except TraceError as error:
        fail(f"--trace: {error}")


def _open_files(stages: Sequence[Stage], plan: Plan) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most = max(stage.workers or plan.in_flight for stage in stages) + _LEAST_FILES
    if hard != resource.RLIM_INFINITY and most > hard:
        fail(f"so many connections need {most} open files, and {hard} are allowed (ulimit -Hn)")


def main(argv: Sequence[str], key: str) -> int:
    """Run it; ``key`` is what the environment has."""
    options = parser().parse_args(list(argv))
    plan, stages = planned(options, key)
    for path in (options.json, options.html):
        folder = os.path.dirname(path or "") or "."
        if path and (not os.access(folder, os.W_OK) or os.path.isdir(path)):
            fail("a report cannot be written there: name a file in a folder that is there, and can be written to")
    _open_files(stages, plan)
    about = report.about(plan)
    results: list[Result] = []
    refused, interrupted = "", False
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            interrupted = runner.run(_measured(plan, stages, results, options))
    except Refused as error:
        refused = f"fastgw bench: {plan.url}: {error}"
    except (OSError, ssl.SSLError) as error:
        fail(f"--ca-file: {getattr(error, 'strerror', None) or 'not certificates'}")
    if results:
        tables.show(results, plan, sys.stdout, not options.plain)
    if refused:
        print(refused, file=sys.stderr)
        if not results:
            return 1
    try:
        if options.json:
            report.write(options.json, report.json(results, about))
        if options.html:
            report.write(options.html, html(results, plan, about).encode())
    except OSError as error:
        print(f"fastgw bench: the report could not be written: {error.strerror}", file=sys.stderr)
        return 1
    return 130 if interrupted else 1 if refused else verdict(results)


def verdict(results: Sequence[Result]) -> int:
    """The exit code of rows that have run: 0 = all that came were answers, and there were some in each."""
    return 0 if results and all(one.good and not one.failed for one in results) else 1


async def _measured(plan: Plan, stages: Sequence[Stage], results: list[Result], options: argparse.Namespace) -> bool:
    """Run all rows into ``results``; whether somebody ended it."""
    run = Run(plan, stages)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, run.stop)
    with shown(run, sys.stderr, quiet=options.quiet, fancy=not options.plain):
        await run.all(results)
    return run.stopped
