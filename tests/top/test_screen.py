"""A reading as people see it: the same words by rich and without, in 80 columns, and nothing that moves the cursor."""

from __future__ import annotations

import io
import re

import pytest
from msgspec.structs import replace

from fastgw.top.samples import Page
from fastgw.top.screen import screen, shown, text, trouble
from fastgw.top.view import EventTold, reading
from tests.top import pages
from tests.top.pages import looked


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def words(said: str) -> list[str]:
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", said).split()


def test_the_tables() -> None:
    said = text(shown(looked(), "127.0.0.1:9090"))
    assert "fastgw 1.2.3 at 127.0.0.1:9090  up 1d 02:03" in said
    assert "requests 125/s  5xx 0.7/s  refused 4/s  under way 43  waiting 3" in said
    assert re.search(r"first token .* broken off 2/s$", said, re.MULTILINE)
    assert "STORE DOWN: usage only in memory  settings wait for a restart\nGPU DRIVER: does not answer\n" in said
    assert re.search(r"^b +draining +40/64 +90 +0 +- +4[23]%$", said, re.MULTILINE)
    assert re.search(r"^b +120/457/12500 +21/30/41$", said, re.MULTILINE)
    assert re.search(r"^llama +120 +2000 +83 ms +19[78] ms$", said, re.MULTILINE)
    assert re.search(r"^0 +ok +97% +71.5/79.6 GiB +64 C +411 W$", said, re.MULTILINE)
    assert re.search(r"^0 +lost ", said, re.MULTILINE)
    assert re.search(r"^key_2 +30 +1800$", said, re.MULTILINE)
    assert re.search(r"^queue_timeout +5$", said, re.MULTILINE)
    assert "breaker_open" in said


@pytest.mark.parametrize("plain", [True, False])
def test_what_others_call_themselves_does_not_move_the_cursor(plain: bool) -> None:
    for once in (True, False):
        out = Terminal()
        with screen(out, plain, once) as show:
            show(shown(looked(), "x"))
        said = out.getvalue()
        assert "\x1b[2J" not in said.partition("fastgw 1.2.3")[2]
        assert "\r" not in said.partition("fastgw 1.2.3")[2].replace("\r\n", "\n")
        assert 'b"\\??[2J' in said


ODD = ("1e308", "-1e308", "1e18", "-1e18", "1e17", "0.5")


@pytest.mark.parametrize("first", ODD)
@pytest.mark.parametrize("then", ODD)
def test_whatever_numbers_are_said_they_are_shown(first: str, then: str) -> None:
    """Of every metric that there is, on top of itself; and an event of a time that no clock shows."""
    names = set(re.findall(r"(?m)^(\w+(?:\{.*\})?) ", pages.text(0)))
    one, other = (Page("".join(f"{name} {number}\n" * 3 for name in names), at) for number, at in ((first, 1.0), (then, 3.0)))
    found = reading(one, other, float(then), 20, events=[EventTold(float(first), "engine_added", "a")])
    assert len(text(shown(found, "x")).splitlines()) > 3


def test_eighty_columns_are_enough_and_more_is_said_to_be_there() -> None:
    found = looked(most=1)
    wide = replace(found.engines[0], name="n" * 200, state="breaker half-open", inflight=1e6, slots=1e6)
    said = text(trouble(["x" * 200], shown(replace(found, engines=[wide]), "y" * 200)))
    assert max(map(len, said.splitlines())) <= 80
    assert said.count("(--rows)") == 5


def test_rich_and_plain_text_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    found = {}
    for name, plain in (("rich", False), ("plain", True)):
        out = Terminal()
        with screen(out, plain, True) as show:
            show(shown(looked(), "127.0.0.1:9090"))
        found[name] = out.getvalue()
    assert words(found["rich"]) == words(found["plain"])
    assert "\x1b[31m" in found["rich"], "what is not well is red"
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    with screen(out, False, True) as show:
        show(shown(looked(), "127.0.0.1:9090"))
    assert "\x1b[31m" not in out.getvalue()
