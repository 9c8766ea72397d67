"""The page for who was woken up: its log lines are lines that fastgw writes, its metrics, alerts and errors are there."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from fastgw.errors import KINDS
from fastgw.observe.metrics import GatewayCollector
from tests.architecture.sources import modules
from tests.observe.test_metrics import Source

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/incidents.md").read_text()
LINES = [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)]
STAMPED = {"timestamp", "level", "message"}


@cache
def written() -> dict[str, set[tuple[str, frozenset[str], bool]]]:
    """By a text of the sources: where a log is told it, at which level, with which fields, and whether with others."""
    found: dict[str, set[tuple[str, frozenset[str], bool]]] = {}
    for tree in modules("fastgw").values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.setdefault(node.value, set())  # there, if not told to a log
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                text, named = node.args[0], [one.arg for one in node.keywords]
                call = node.func.attr, frozenset(name for name in named if name), None in named
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    found.setdefault(text.value, set()).add(call)
    return found


@pytest.mark.parametrize("line", LINES, ids=lambda line: line["message"][:40])
def test_a_line_of_the_log_is_one_that_is_written(line: dict[str, object]) -> None:
    message, fields = str(line["message"]), set(line) - STAMPED
    assert message in written(), "no such line"
    calls = {call for call in written()[message] if call[0] in ("info", "warning", "error")}
    if not calls:  # told from a table, or by a record
        assert fields <= set(written()) | {"what", "error", "hint"}
        return
    assert any(level == line["level"] and (fields <= said or more) for level, said, more in calls), (line["level"], calls)


def test_what_it_quotes_of_the_log_beside_is_written_too() -> None:
    quoted = set(re.findall(r"`([a-z]+(?: [a-z,;:]+){2,})`", PAGE))
    assert len(quoted) > 8
    known = {text.rstrip() for text in written()}
    assert {one for one in quoted if one not in known and not one.startswith(("fastgw ", "systemctl ", "journalctl "))} == set()


def test_metrics_and_errors_that_it_names_are_there() -> None:
    source = Source()
    there = {one.name for one in GatewayCollector(source).families() if one is not None} | {"fastgw_info"}
    assert set(re.findall(r"`((?:gateway|fastgw)_[a-z_]+)`", PAGE)) - there == set()
    why = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| ", PAGE.partition("| `error` |")[2], re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", "".join(why)))
    assert len(named) > 8
    assert named - {kind.code for kind in KINDS.values()} == {"engine"}


def test_every_alert_leads_to_a_section() -> None:
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    assert {name for name in alerts if f"`{name}`" not in PAGE} == set()
    told = re.findall(r"\*Alerts?\*:? (`.*?`)(?: |\.|:)", PAGE)
    assert set(re.findall(r"`(\w+)`", " ".join(told))) - alerts == set()
