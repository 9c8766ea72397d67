"""Known vulnerabilities: what is found fails, and silence of any kind is not taken for an answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from scripts.audit import rules
from scripts.audit.vulnerabilities import Answer, Ask, Found, Unreachable, answer, ask, check

CANARY, OLD, IDENTITY = rules.CANARY


def row(name: str, version: str, *vulns: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "version": version, "vulns": list(vulns)}


def skipped(name: str, why: str = "not found") -> dict[str, Any]:
    return {"name": name, "skip_reason": why}


def listed(*rows: dict[str, Any]) -> str:
    return json.dumps({"dependencies": rows, "fixes": []})


BAD = {"id": "PYSEC-1", "fix_versions": ["1.1", "2.0"], "aliases": ["CVE-1"], "description": "..."}
FOUND = Found("a", "1.0", ("PYSEC-1", "CVE-1"), ("1.1", "2.0"))


@pytest.mark.parametrize(
    ("rows", "found", "silent"),
    [
        ([row("a", "1.0")], [], []),
        ([row("A", "1.0.0")], [], []),
        ([row("a", "1.0", BAD)], [FOUND], []),
        ([row("a", "1.0", {"id": "X", "fix_versions": []})], [Found("a", "1.0", ("X",), ())], []),
        ([skipped("a")], [], ["a"]),
        ([], [], ["a"]),
        ([row("b", "1.0", BAD)], [], ["a"]),
        ([row("a", "0.9", BAD)], [], ["a"]),
    ],
)
def test_an_answer(rows: list[dict[str, Any]], found: list[Found], silent: list[str]) -> None:
    read = answer(listed(*rows), {"a": "1.0"})
    assert (list(read.found), list(read.silent)) == (found, silent)


def test_what_is_told_of_one() -> None:
    assert str(FOUND) == "a 1.0: PYSEC-1, CVE-1 (fixed in 1.1, 2.0)"
    assert str(FOUND._replace(fixed_in=())) == "a 1.0: PYSEC-1, CVE-1 (no fixed version)"


def saying(stdout: str = "", stderr: str = "", status: int = 0) -> Sequence[str]:
    """Something in pip-audit's place, that takes its options and ends so."""
    return (sys.executable, "-S", "-c", f"import sys; print({stdout!r}); sys.stderr.write({stderr!r}); sys.exit({status})")


DNS = (
    'Traceback (most recent call last):\n  ...\nrequests.exceptions.ConnectionError: HTTPSConnectionPool(host="h", port=443): '
    'Max retries exceeded with url: /q (Caused by NameResolutionError("h: Failed to resolve \'h\' ([Errno -2] not known)"))\n'
)


@pytest.mark.parametrize(
    ("stdout", "stderr", "status", "said"),
    [
        ("", DNS, 1, "h: Failed to resolve 'h' ([Errno -2] not known)"),
        ("", "/bin/python: No module named pip_audit\n", 1, "/bin/python: No module named pip_audit"),
        ("No known vulnerabilities found", "", 0, "an answer that cannot be read"),
        ("", "", 0, "an answer that cannot be read"),
        ("[]", "", 0, "an answer that cannot be read"),
        ("{}", "", 0, "an answer that cannot be read"),
        ('{"dependencies": [{"name": "a"}]}', "", 0, "an answer that cannot be read"),
        ('{"dependencies": [{"name": "a", "version": "1.0"}]}', "", 0, "an answer that cannot be read"),
        ('{"dependencies": [{"name": "a", "version": "1.0", "vulns": null}]}', "", 0, "an answer that cannot be read"),
        ('{"dependencies": [null]}', "", 0, "an answer that cannot be read"),
    ],
)
def test_what_is_no_answer(stdout: str, stderr: str, status: int, said: str) -> None:
    with pytest.raises(Unreachable) as error:
        ask({"a": "1.0"}, (), saying(stdout, stderr, status))
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


def test_the_status_does_not_matter_where_there_is_an_answer() -> None:
    """pip-audit ends with 1 when it has found something, and with 0 when it has checked nothing at all."""
    assert ask({"a": "1.0"}, (), saying(listed(row("a", "1.0", BAD)), "Found 1 known", 1)).found == (FOUND,)


def source(*known: str, canary: str = "known", down: bool = False) -> Callable[[Mapping[str, str]], Answer]:
    """A service: what of `known` is asked for is vulnerable; the canary is known, not known, or left out."""

    def answers(versions: Mapping[str, str]) -> Answer:
        if down:
            raise Unreachable("connection refused")
        if versions == {CANARY: OLD}:
            told = (Found(CANARY, OLD, (IDENTITY,), ("0.16.0",)),) if canary == "known" else ()
            return Answer(told, {CANARY: "not found"} if canary == "left out" else {})
        return Answer(tuple(Found(name, version, ("X",), ()) for name, version in versions.items() if name in known), {})

    return answers


def asking(**services: Callable[[Mapping[str, str]], Answer]) -> Ask:
    return lambda versions, options: services[options[-1]](versions)


SETS = {"shipped": {"a": "1.0"}, "worked with": {"b": "2.0"}}
DOWN = source(down=True)


def test_the_first_source_that_answers() -> None:
    checked = check(SETS, ask=asking(osv=source("b"), pypi=DOWN, esms=DOWN))
    assert (checked.source, checked.obstacles) == ("osv", ())
    assert [str(one) for answer in checked.answers.values() for one in answer.found] == ["b 2.0: X (no fixed version)"]


@pytest.mark.parametrize(
    ("first", "obstacle"),
    [
        (DOWN, "osv (connection refused)"),
        (source(canary="not known"), f"osv does not know {IDENTITY} of {CANARY} {OLD}"),
        (source(canary="left out"), f"osv does not know {IDENTITY} of {CANARY} {OLD} (not found)"),
    ],
)
def test_a_source_that_knows_nothing_is_passed_over(first: Callable[[Mapping[str, str]], Answer], obstacle: str) -> None:
    checked = check(SETS, ask=asking(osv=first, pypi=source("a"), esms=DOWN))
    assert (checked.source, checked.obstacles) == ("pypi", (obstacle,))
    assert len(checked.answers["shipped"].found) == 1


def test_no_source_is_no_answer() -> None:
    checked = check(SETS, ask=asking(osv=DOWN, pypi=source(canary="left out"), esms=DOWN))
    assert (checked.source, checked.answers) == ("", {})
    assert len(checked.obstacles) == len(rules.SOURCES) == 3


def test_a_source_that_breaks_off_has_answered_nothing() -> None:
    def once(versions: Mapping[str, str]) -> Answer:
        if "b" in versions:
            raise Unreachable("broke off")
        return source("a")(versions)

    checked = check(SETS, ask=asking(osv=once, pypi=DOWN, esms=DOWN))
    assert (checked.source, checked.answers) == ("", {})


def test_a_mirror_is_the_only_one_asked() -> None:
    asked: list[Sequence[str]] = []

    def mirror(versions: Mapping[str, str], options: Sequence[str]) -> Answer:
        asked.append(options)
        return source(canary="not known")(versions)

    checked = check(SETS, "http://127.0.0.1:9/query", mirror)
    assert asked == [("--vulnerability-service", "osv", "--osv-url", "http://127.0.0.1:9/query")]
    assert checked.source == "", "it knows nothing, so it has checked nothing"
