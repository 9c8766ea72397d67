"""How a request walks through fastgw, as a picture: ``docs/walk.svg``, written by ``make docs``.

The stages and their words are here; which filters stand at each, in which order, and which strategies there are, is read off
``policy.ORDER``, the hooks that each class overrides and the registry of strategies. A test keeps the file equal to
:func:`drawn`, and every hook on one stage.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Final, NamedTuple, get_args

from fastgw.config import Config, EngineConfig, RouteConfig
from fastgw.config.names import Policy
from fastgw.exchange.filter import hooks
from fastgw.policy import build

FILE: Final = Path(__file__).resolve().parents[2] / "docs" / "walk.svg"


class Stage(NamedTuple):
    title: str
    words: str
    hooks: tuple[str, ...] = ()


STAGES: Final = (
    Stage("A request is read", "strictly, within bounds: what two servers could read differently is refused"),
    Stage(
        "Its head is judged", "address, origin, key, size: refused before its body is read",
        ("on_origin", "on_arrival", "on_head", "on_request", "preflight"),
    ),
    Stage("Its body is whole", "model and lengths are read off its bytes; tokens are reserved", ("on_body",)),
    Stage(
        "Engines are found for it", "those of its model, with room; where none has room it waits in a fair queue", ("on_route",)
    ),
    Stage("One is picked", "by the strategy of its group, if its breaker agrees; a warm connection is lent"),
    Stage(
        "It is sent", "the engine's own key and name for the model; once more elsewhere, while that is safe",
        ("on_attempt", "rewrite"),
    ),
    Stage(
        "It is answered", "each byte goes to the client as it comes; a broken stream never looks like a whole one",
        ("on_response", "on_data", "on_said", "on_allowance", "on_refused"),
    ),
    Stage("It ends, once", "what was taken is given back, tokens are charged, one record is written", ("on_finish",)),
)  # fmt: skip
PICKED: Final = 4
ASKED_AGAIN: Final = {"on_full", "on_crowded", "on_lost", "on_turn"}
"""Between two attempts, or two turns of a session: no stage of their own."""
OF_NO_REQUEST: Final = {"on_room"}

WIDTH, LEFT, INNER, TOP, GAP, CHIP, LETTER = 860, 60, 700, 16, 30, 26, 7.6
TEXT: Final = 'font-family="ui-sans-serif, system-ui, sans-serif"'


def everything() -> Config:
    """A configuration for which every filter is there."""
    return Config(
        engines=[EngineConfig(url="http://127.0.0.1:8000")],
        routes=[RouteConfig(model="a", mirror_to="b")],
        cors_origins=("https://a.test",), sse_heartbeat_s=15.0, explain_keys=("a",), enable_otlp_tracing=True,
        trace_contents=True,
    )  # fmt: skip


def chips() -> list[tuple[str, ...]]:
    """The names that stand at each stage."""
    filters = build(everything())

    def at(names: Iterable[str]) -> tuple[str, ...]:
        found = {type(hook.__self__).__name__ for name in names for hook in hooks(filters, name)}
        return tuple(dict.fromkeys(type(one).__name__ for one in filters if type(one).__name__ in found))

    made = [at(stage.hooks) for stage in STAGES]
    made[PICKED] = get_args(Policy)
    return made


def _rows(names: Iterable[str]) -> list[list[tuple[str, float, float]]]:
    """Names in rows: each with its place from the left, and its width."""
    rows: list[list[tuple[str, float, float]]] = [[]]
    x = 0.0
    for name in names:
        wide = len(name) * LETTER + 18
        if x + wide > INNER - 32:
            rows.append([])
            x = 0.0
        rows[-1].append((name, x, wide))
        x += wide + 8
    return rows if rows[0] else []


def drawn() -> str:
    """The picture; it has its own colours, and reads on a light page as on a dark one."""
    said: list[str] = []
    y = TOP
    tops = []
    for number, (stage, names) in enumerate(zip(STAGES, chips(), strict=True)):
        rows = _rows(names)
        high = 56 + len(rows) * (CHIP + 6) + (8 if rows else 0)
        tops.append((y, high))
        said.append(f'<rect x="{LEFT}" y="{y}" width="{INNER}" height="{high}" rx="8" fill="#eef6f5" stroke="#00897b"/>')
        said.append(f'<text x="{LEFT + 16}" y="{y + 24}" {TEXT} font-size="16" font-weight="600" fill="#004d40">'
                    f"{number + 1}. {escape(stage.title)}</text>")  # fmt: skip
        said.append(f'<text x="{LEFT + 16}" y="{y + 44}" {TEXT} font-size="13" fill="#37474f">{escape(stage.words)}</text>')
        for at, row in enumerate(rows):
            top = y + 56 + at * (CHIP + 6)
            for name, x, wide in row:
                said.append(f'<rect x="{LEFT + 16 + x:g}" y="{top}" width="{wide:g}" height="{CHIP}" rx="13" fill="#00796b"/>')
                said.append(f'<text x="{LEFT + 16 + x + wide / 2:g}" y="{top + 17}" text-anchor="middle" font-size="12.5" '
                            f'font-family="ui-monospace, monospace" fill="#ffffff">{escape(name)}</text>')  # fmt: skip
        if number:
            middle = WIDTH // 2 - 20
            said.append(f'<path d="M{middle} {y - GAP + 2} V{y - 4}" stroke="#78909c" stroke-width="2" marker-end="url(#to)"/>')
        y += high + GAP
    again, sent = tops[PICKED], tops[PICKED + 1]
    right = LEFT + INNER
    way = f"M{right} {sent[0] + sent[1] // 2} h34 V{again[0] + again[1] // 2} h-28"
    said.append(
        f'<path d="{way}" fill="none" stroke="#ef6c00" stroke-width="2" stroke-dasharray="5 4" marker-end="url(#again)"/>'
    )
    middle = (sent[0] + again[0] + again[1]) // 2
    said.append(f'<text x="{right + 50}" y="{middle}" {TEXT} font-size="12" fill="#ef6c00" text-anchor="middle" '
                f'transform="rotate(90 {right + 50} {middle})">the engine fails, nothing was answered</text>')  # fmt: skip
    arrow = '<marker id="{}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">' \
            '<path d="M0 0L10 5L0 10z" fill="{}"/></marker>'  # fmt: skip
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y - GAP + TOP}" role="img" '
        'aria-label="The eight stages of a request, with the filters that stand at each">\n'
        "<!-- Written by `make docs`; edit scripts/site/walk.py instead. -->\n"
        f"<defs>{arrow.format('to', '#78909c')}{arrow.format('again', '#ef6c00')}</defs>\n"
    )
    return head + "\n".join(said) + "\n</svg>\n"


def main() -> int:
    FILE.write_text(drawn(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
