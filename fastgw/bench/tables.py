"""The tables of a run, for a terminal: by rich where it is installed, plain text elsewhere. The same words either way.

The two load tables have the columns that such tables have; what else was measured stands in one of its own below. Where a
percentile is of too few answers it is their greatest, and has a star.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, TextIO

from fastgw.bench.percentiles import Spread, enough
from fastgw.bench.plan import Plan
from fastgw.bench.tally import Result

_MARKS: Final = {"ok": "✅ OK", "high": "⚠️ High Latency", "bad": "❌ "}
WORDS: Final = ("Status", "Stability", "Mode")
"""Columns that are no figures."""
FEW: Final = "* of too few answers for this percentile: it is the greatest"


class Table(NamedTuple):
    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f}"


def at(spread: Spread, permille: int) -> str:
    """A percentile in ms, marked where there are too few values."""
    if not spread.n:
        return "-"
    value = {500: spread.p50, 900: spread.p90, 950: spread.p95, 990: spread.p99}[permille]
    return ms(value) + ("" if enough(spread.n, permille) else "*")


def mean(spread: Spread) -> str:
    return ms(spread.mean) if spread.n else "-"


def unmarked(cell: str) -> str:
    """Without its emoji, where nobody may have the glyph."""
    for mark in _MARKS.values():
        sign = mark.split(" ")[0] + " "
        cell = cell.removeprefix(sign)
    return cell


def stability(result: Result, plan: Plan) -> str:
    if result.status != "ok":
        return _MARKS["bad"] + result.status
    slow = result.stream and result.ttft_s.p99 > (plan.slo.ttft or plan.high_ttft_s)
    return _MARKS["high" if slow else "ok"]


def tables(results: Sequence[Result], plan: Plan) -> list[Table]:
    """All tables that there is something to say in."""
    found = []
    plain, streams = [[one for one in results if one.stream is stream] for stream in (False, True)]
    if plain:
        found.append(Table("Non-stream", (load(plain), "RPS", "Avg(ms)", "P95(ms)", "P99(ms)", "Status"), [
            (one.name, f"{one.rps:.2f}", mean(one.latency_s), at(one.latency_s, 950), at(one.latency_s, 990),
             stability(one, plan))
            for one in plain
        ]))  # fmt: skip
    if streams:
        names = (load(streams), "Total Reqs", "Avg TTFT", "P50 TTFT", "P99 TTFT", "Stability")
        found.append(Table("Stream, time to first token in ms", names, [
            (one.name, str(one.good), mean(one.ttft_s), at(one.ttft_s, 500), at(one.ttft_s, 990), stability(one, plan))
            for one in streams
        ]))  # fmt: skip
        found.append(Table("Stream, between tokens", (
            load(streams), "RPS", "Tokens/s", "ITL P50(ms)", "ITL P99(ms)", "TPOT avg(ms)", "Stalls", "Coalesced",
        ), [
            (one.name, f"{one.rps:.2f}", f"{one.tokens_per_s:.0f}", at(one.gap_s, 500), at(one.gap_s, 990), mean(one.tpot_s),
             str(one.stalls), _share(one.coalesced, one.tokens.texts))
            for one in streams
        ]))  # fmt: skip
    if plan.slo:
        found.append(Table(f"Within {plan.slo.text}", (load(results), "Mode", "Good", "Of", "Goodput(req/s)"), [
            (one.name, _mode(one), str(one.within_slo), str(one.begun - one.left), f"{one.goodput:.2f}") for one in results
        ]))  # fmt: skip
    found.append(Table("This client", (load(results), "Mode", "Core(%)", "CPU/request(us)", "Late P99(ms)", "Connections"), [
        (one.name, _mode(one), f"{one.client.cpu_share:.0%}", f"{one.client.cpu_s * 1e6 / max(1, one.good):.0f}",
         ms(one.client.late_p99_s), str(one.connections)) for one in results
    ]))  # fmt: skip
    return found


def remarks(results: Sequence[Result], plan: Plan) -> list[str]:
    """What is to be known with the figures."""
    found = []
    if any(cell.endswith("*") for table in tables(results, plan) for row in table.rows for cell in row):
        found.append(FEW)
    if any(one.load == "closed" for one in results):
        found.append(
            "closed load: a server that stalls is asked less meanwhile, so that tails look better than clients who do not wait"
            " would see them (--rate)"
        )
    for one in results:
        where = f"{_mode(one)} {one.name}"
        found += [f"{where}: {failure.count} x {failure.kind}{': ' if failure.first else ''}{failure.first}"
                  for failure in one.failures]  # fmt: skip
        found += [f"{where}: {text}" for text in _remarks_of(one, plan)]
    return found


def _remarks_of(one: Result, plan: Plan) -> Iterable[str]:
    tokens = one.tokens
    if one.left:
        yield f"{one.left} were under way when it was stopped"
    if one.delayed:
        yield f"{one.delayed} waited because {plan.in_flight} were under way (--in-flight)"
    if one.client.cpu_share > 0.8:
        yield "this client was busy nearly all the time: it may be what was measured"
    if one.stream and one.good and tokens.answers_told < one.good:
        yield f"{one.good - tokens.answers_told} answers told no usage"
    if tokens.differ:
        yield (f"{tokens.differ} streams told another number of tokens than they had events with text: "
               f"{tokens.completion_told} told, {tokens.texts_of_told} came")  # fmt: skip
    if tokens.prompt_estimated and tokens.prompt_told:
        yield f"prompts: {tokens.prompt_estimated} tokens by estimate, {tokens.prompt_told} by the server's count"
    if one.without_done:
        yield f"{one.without_done} streams ended without [DONE]"
    if one.without_reason:
        yield f"{one.without_reason} streams had no finish_reason"
    if one.redialled:
        yield f"{one.redialled} were sent again: the server had closed a connection that was kept"
    if one.stalls:
        yield f"{one.stalled} streams stalled, {one.stalls} gaps above {plan.stall_s:g} s"
    if one.gaps_left_out:
        yield f"the last {one.gaps_left_out} gaps are in no figure: memory for them is bounded"


def load(results: Sequence[Result]) -> str:
    return {"closed": "Workers", "poisson": "Rate", "trace": "Load"}[results[0].load]


def _mode(result: Result) -> str:
    return "stream" if result.stream else "plain"


def _share(part: int, of: int) -> str:
    return f"{part / of:.1%}" if of else "-"


def text(table: Table) -> str:
    """Columns set with blanks, a line below the names."""
    lines = [table.columns, *table.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.columns))]
    rule = tuple("-" * width for width in widths)
    laid = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in (table.columns, rule, *table.rows)]  # fmt: skip
    return "\n".join([table.title, "", *laid, ""])


def show(results: Sequence[Result], plan: Plan, out: TextIO, fancy: bool = True) -> None:
    """Print all of it."""
    found, said = tables(results, plan), remarks(results, plan)
    encoding = out.encoding or "ascii"
    try:
        "".join(_MARKS.values()).encode(encoding)
    except UnicodeEncodeError:
        found = [table._replace(rows=[tuple(map(unmarked, row)) for row in table.rows]) for table in found]
    if fancy and out.isatty() and importlib.util.find_spec("rich") is not None:
        _rich(found, said, out)
        return
    printed = "\n".join([text(table) for table in found] + said) + "\n"
    out.write(printed.encode(encoding, "replace").decode(encoding))


def _rich(found: Sequence[Table], said: Sequence[str], out: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(file=out)
    for table in found:
        shown = RichTable(title=table.title, title_justify="left")
        for number, column in enumerate(table.columns):
            shown.add_column(column, justify="left" if not number or column in WORDS else "right")
        for row in table.rows:
            shown.add_row(*(Text(cell) for cell in row))  # (a server's words are no markup)
        console.print(shown)
    for remark in said:
        console.print(Text(remark))
