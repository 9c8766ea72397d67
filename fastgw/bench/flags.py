"""The flags of ``fastgw bench``: names, ranges, defaults and help. Must never: repeat a flag's value in an error."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from typing import Any, Final, NoReturn

from fastgw.bench.plan import MAX_PROMPT_TOKENS, MAX_REQUESTS, MAX_TURNS, MAX_WORKERS, Slo, slo

_EXAMPLES: Final = """\
examples:
  fastgw bench --model llama                         the two load tables of http://127.0.0.1:8080: plain at 1 4 8 16 workers,
                                                     streams at 1 2 4 8 16 32
  fastgw bench --url http://127.0.0.1:8000 --model llama --stream --workers 8,64 --duration 30
  fastgw bench --model llama --stream --rate 2,4,8 --duration 60 --slo ttft=0.5,tpot=0.05
  fastgw bench --model llama --stream --prompt-tokens 100000 --workers 1 --requests 4 --timeout 600
  fastgw bench --model llama --stream --turns 8 --prompt-tokens 2000 --turn-tokens 100 --workers 16 --per-worker 16
  fastgw bench --model llama --stream --trace trace.jsonl --speed 2 --json report.json --html report.html
  OPENAI_API_KEY=sk-... fastgw bench --url https://api.example.com/v1 --model small --workers 4 --requests 40

Latencies are counted from the moment at which a request was due, to the reads that brought its first token and its last byte.
An answer counts when it is one: status 200, whole, well-formed, with text and a finish_reason. docs/bench.md has all of it.
"""
_NUMBER: Final = re.compile(r"\d{1,9}(\.\d{1,9})?")
_MOST_S: Final = 30 * 86400.0
_MOST_ROWS: Final = 64

Add = Callable[..., object]


def fail(message: str) -> NoReturn:
    print(f"fastgw bench: error: {message} (see fastgw bench --help)", file=sys.stderr)
    raise SystemExit(2)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # What argparse would repeat may be a key.
        message = re.sub(r"(unrecognized arguments: -*[^\s=]*).*", r"\1", message, flags=re.DOTALL)
        fail(re.sub(r"invalid choice: .* \(choose", "it is none of these (choose", message, flags=re.DOTALL))


def _whole(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"\d{1,9}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}")
        return int(text)

    return read


def _number(least: float, most: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        if not _NUMBER.fullmatch(text) or not least <= float(text) <= most:
            raise argparse.ArgumentTypeError(f"must be a number from {least:g} to {most:g}")
        return float(text)

    return read


def _several(one: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    def read(text: str) -> tuple[Any, ...]:
        parts = text.split(",")
        if len(parts) > _MOST_ROWS:
            raise argparse.ArgumentTypeError(f"must be {_MOST_ROWS} at most")
        return tuple(one(part.strip()) for part in parts)

    return read


def _slo(text: str) -> Slo:
    try:
        return slo(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


_SECONDS: Final = _number(0.001, _MOST_S)
_COUNT: Final = _whole(1, MAX_REQUESTS)
_TOKENS: Final = _whole(1, MAX_PROMPT_TOKENS)


def parser() -> argparse.ArgumentParser:
    made = _Parser(
        prog="fastgw bench",
        usage="fastgw bench --model NAME [--url URL] [options]",
        description="Put load on an OpenAI-compatible server; tell how long it took, how evenly it came, and what was wrong.",
        epilog=_EXAMPLES,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _whom(made.add_argument)
    mode = made.add_mutually_exclusive_group()
    mode.add_argument("--stream", action="store_true", help="streams alone (default: plain answers, then streams)")
    mode.add_argument("--no-stream", action="store_true", help="plain answers alone")
    _load(made.add_argument_group("load, a row of the table for each").add_mutually_exclusive_group().add_argument)
    _many(made.add_argument_group("how many, in each row").add_argument)
    _asked(made.add_argument_group("what is asked").add_argument)
    _told(made.add_argument_group("what is told").add_argument)
    return made


def _whom(add: Add) -> None:
    add("--url", metavar="URL", default="http://127.0.0.1:8080", help="http://, https:// or unix: (default %(default)s)")
    add("--model", metavar="NAME", required=True, help="the model to ask")
    add("--api", choices=("chat", "completions"), default="chat", help="which path (default chat)")
    add("--api-key", metavar="KEY", help="the key; better in the variable OPENAI_API_KEY, for arguments show in `ps`")
    add("--header", metavar="FIELD", action="append", default=[], help="'Name: value' of each request; can be repeated")
    add("--ca-file", metavar="FILE", default="", help="whose certificates are believed (default: the system's)")
    add("--insecure", action="store_true", help="believe any certificate")


def _load(add: Add) -> None:
    add("--workers", metavar="N,N", type=_several(_whole(1, MAX_WORKERS)),
        help="closed: so many, each of which asks again once it is answered (default 1,4,8,16; streams to 32)")  # fmt: skip
    add("--rate", metavar="X,X", type=_several(_number(0.001, 100_000)),
        help="open: so many a second on average, at random (Poisson)")  # fmt: skip
    add("--trace", metavar="FILE", help="open: when and as long as a file says (JSON lines, or CSV)")


def _many(add: Add) -> None:
    add("--requests", metavar="N", type=_COUNT, help="so many requests")
    add("--per-worker", metavar="N", type=_COUNT, help="so many for each worker (streams: 3 where nothing is said)")
    add("--duration", metavar="SECONDS", type=_SECONDS,
        help="begin none later; what is under way is waited for (where nothing is said: plain 5, --rate 10)")  # fmt: skip
    add("--warmup", metavar="N", type=_whole(0, 10_000), default=1, help="before each table, not counted (default 1)")
    add("--in-flight", metavar="N", type=_whole(1, MAX_WORKERS), default=1_000,
        help="of --rate and --trace: the most at a time; others wait, and are told (default %(default)s)")  # fmt: skip
    add("--speed", metavar="X", type=_number(0.001, 1_000_000), default=1.0, help="of --trace: so many times as fast")
    add("--timeout", metavar="SECONDS", type=_SECONDS, default=120.0, help="of each answer (default 120)")


def _asked(add: Add) -> None:
    add("--prompt", metavar="TEXT", default="hi", help="the same for all (default: hi)")
    add("--prompt-tokens", metavar="N", type=_TOKENS, default=0,
        help="made-up words instead, others each time: so many tokens, by the estimate of 4 bytes each")  # fmt: skip
    add("--shared-tokens", metavar="N", type=_TOKENS, default=0, help="so many of them, at the beginning, are the same for all")
    add("--max-tokens", metavar="N", type=_TOKENS, default=32, help="the longest answer (default 32)")
    add("--turns", metavar="N", type=_whole(1, MAX_TURNS), default=1, help="sessions of so many, each with all that was said")
    add("--turn-tokens", metavar="N", type=_TOKENS, default=0, help="of later turns (default: as the first)")
    add("--think", metavar="SECONDS", type=_number(0, 86400), default=0.0, help="between a session's turns")
    add("--extra", metavar="JSON", default="{}", help="members of each body, such as '{\"temperature\":0}'")
    add("--no-usage", action="store_true", help="do not ask streams for their usage")
    add("--seed", metavar="N", type=_whole(0, 999_999_999), default=1, help="of texts and arrivals (default 1)")


def _told(add: Add) -> None:
    add("--slo", metavar="NAME=SECONDS,..", type=_slo, default=Slo(),
        help="goodput: answers within all of ttft, itl (longest gap), tpot (mean per token), e2e")  # fmt: skip
    add("--stall", metavar="SECONDS", type=_SECONDS, default=1.0, help="a longer gap in a stream is a stall (default 1)")
    add("--high-ttft", metavar="SECONDS", type=_SECONDS, default=1.0,
        help="a P99 TTFT above it, or above the SLO's, is told as high latency (default 1)")  # fmt: skip
    add("--json", metavar="FILE", help="write all figures")
    add("--html", metavar="FILE", help="write a page with plots")
    add("--plain", action="store_true", help="plain text, also where rich is installed")
    add("--quiet", action="store_true", help="no progress")
