"""The report as one page: no script, nothing loaded from elsewhere, readable in light, in dark, on paper and aloud."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from fastgw.bench import plots, tables
from fastgw.bench.percentiles import Spread
from fastgw.bench.plan import Plan
from fastgw.bench.report import About
from fastgw.bench.tally import Result

_STYLE: Final = """\
:root{color-scheme:light dark;--ground:#fff;--text:#1f2328;--dim:#59636e;--grid:#e3e7eb;--axis:#8c959f;--panel:#f6f8fa;
--s0:#2a78d6;--s1:#0f8a5f;--s2:#b26a00;--s3:#7a4fd0;--s4:#c93a3a;--s5:#57606a}
@media (prefers-color-scheme:dark){:root{--ground:#0d1117;--text:#e6edf3;--dim:#9198a1;--grid:#262c34;--axis:#6e7681;
--panel:#161b22;--s0:#5aa2f2;--s1:#35b98a;--s2:#e0a03a;--s3:#a98bf0;--s4:#f07a7a;--s5:#9aa4af}}
*{box-sizing:border-box}
body{background:var(--ground);color:var(--text);margin:0 auto;max-width:60rem;padding:1.5rem 1.25rem 4rem;
font:15px/1.5 system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif}
h1{font-size:1.5rem;margin:0 0 .25rem}h2{font-size:1.2rem;margin:2.5rem 0 .5rem}h3{font-size:1rem;margin:1.5rem 0 .25rem}
p,figcaption{color:var(--dim);margin:.25rem 0}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.5rem 0 1rem;white-space:nowrap}
caption{text-align:left;font-weight:600;padding:.25rem 0}
th,td{padding:.3rem .8rem;text-align:right;border-bottom:1px solid var(--grid)}
th{color:var(--dim);font-weight:600}.words,th:first-child,td:first-child{text-align:left}th:first-child,td:first-child{padding-left:0}
figure{margin:1rem 0 1.5rem;background:var(--panel);border-radius:8px;padding:.75rem 1rem 1rem}
figure>svg{display:block;width:100%;height:auto}
svg text{font-size:12px;fill:var(--dim)}svg text.text{fill:var(--text)}
.grid{stroke:var(--grid)}.axis{stroke:var(--axis)}
.series{fill:none;stroke-width:2;stroke-linejoin:round}.dot{fill-opacity:.6}
.s0{--c:var(--s0)}.s1{--c:var(--s1)}.s2{--c:var(--s2)}.s3{--c:var(--s3)}.s4{--c:var(--s4)}.s5{--c:var(--s5)}
.series{stroke:var(--c)}.bar,.dot{fill:var(--c)}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;margin:.25rem 0 .5rem;padding:0}
.legend svg{width:14px;height:10px;margin-right:.4rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;margin:1rem 0}dt{color:var(--dim)}dd{margin:0}
dd,li{overflow-wrap:anywhere}
"""


def html(results: Sequence[Result], plan: Plan, about: About) -> str:
    """The whole page."""
    facts = {
        "server": about.url, "model": about.model, "when": about.date,
        "prompts": f"{about.prompt}; up to {about.max_tokens} tokens asked for",
        "measured by": f"fastgw bench {about.version} ({about.twin}), Python {about.python}, {about.cores} cores",
    }  # fmt: skip
    if plan.turns > 1:
        facts["sessions"] = f"{plan.turns} turns each"
    parts = ["<h1>Load on an OpenAI-compatible server</h1>", "<dl>"]
    parts += [f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items()]
    parts += ["</dl>", "<h2>Tables</h2>", *(_table(table) for table in tables.tables(results, plan))]
    if remarks := tables.remarks(results, plan):
        parts += ["<ul>", *(f"<li>{escape(remark)}</li>" for remark in remarks), "</ul>"]
    for stream in (False, True):
        rows = [one for one in results if one.stream is stream]
        if any(row.plots.curve for row in rows):
            parts += _plots(rows, stream)
    return "\n".join([
        "<!doctype html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>Load on {escape(about.url)}</title>", f"<style>\n{_STYLE}</style>", "</head>", "<body><main>", *parts,
        "</main></body></html>", "",
    ])  # fmt: skip


def _plots(rows: Sequence[Result], stream: bool) -> list[str]:
    what = "Time to the first token" if stream else "Latency"
    name = "stream" if stream else "plain"
    drawn = plots.chosen(rows)
    only = "" if len(drawn) == len(rows) else f" Drawn are {', '.join(row.name for row in drawn)}; the tables have all."
    key = plots.legend(rows, tables.load(rows))
    parts = [f"<h2>{'Streams' if stream else 'Plain answers'}</h2>"]
    caption = f"How large a share of answers took no longer.{only}"
    parts += _figure(what, plots.curves(f"{name}-curve", rows, what), caption, key)
    parts.append(_spreads(rows, what, [row.ttft_s if stream else row.latency_s for row in rows]))
    if stream and (drawing := plots.histograms(f"{name}-gaps", rows)):
        caption = "How many gaps of which length: between two arrivals that brought text. What came in one read is one arrival."
        parts += _figure("Gaps between tokens", drawing, caption)
        parts.append(_spreads(rows, "Gaps", [row.gap_s for row in rows]))
    caption = "Each dot is an answer, at the moment at which its request was due."
    return parts + _figure(f"{what}, over the run", plots.timelines(f"{name}-time", rows, what), caption)


def _figure(title: str, drawing: str, caption: str, key: str = "") -> list[str]:
    return [f"<h3>{escape(title)}</h3>", "<figure>", key, drawing, f"<figcaption>{escape(caption)}</figcaption>", "</figure>"]


def _spreads(rows: Sequence[Result], what: str, spreads: Sequence[Spread]) -> str:
    names = ("Load", "n", "mean", "least", "P50", "P90", "P95", "P99", "greatest")
    lines = [
        (row.name, str(one.n), tables.mean(one), tables.ms(one.least), *(tables.at(one, p) for p in (500, 900, 950, 990)),
         tables.ms(one.most)) for row, one in zip(rows, spreads, strict=True) if one.n
    ]  # fmt: skip
    return _table(tables.Table(f"{what}, ms", names, lines))


def _table(table: tables.Table) -> str:
    kinds = ['class="words"' if column in tables.WORDS else "" for column in table.columns]
    head = "".join(f'<th scope="col" {kind}>{escape(column)}</th>' for kind, column in zip(kinds, table.columns, strict=True))
    lines = ("".join(f"<td {kind}>{escape(tables.unmarked(cell))}</td>" for kind, cell in zip(kinds, row, strict=True))
             for row in table.rows)  # fmt: skip
    rows = "".join(f"<tr>{line}</tr>\n" for line in lines)
    title = escape(table.title)
    return (f'<div class="wide" tabindex="0" role="region" aria-label="{title}"><table><caption>{title}</caption>\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>")  # fmt: skip
