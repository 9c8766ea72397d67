"""The kinds of engines: one list of names, and nobody outside of it who asks for a kind."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from fastgw import EngineConfig
from fastgw.config.entries import ENGINE_FIELDS
from fastgw.config.names import ENGINE_KINDS, EngineKind
from fastgw.upstream.kinds.kind import ANY, Kind
from fastgw.upstream.kinds.registry import KINDS, is_of, kind_of, known_by
from fastgw.upstream.target import Engine

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "engines.md").read_text()

# Names that mean nothing else: "auto" and "openai" are words of other settings too.
OWN_NAMES = {"vllm", "sglang", "tgi", "llamacpp", "ollama", "lmstudio"}
# Where they are written: in the kinds, in the one list, and where a variable, a profile or a configuration of another gateway
# stands for one.
MAY_NAME = (
    "fastgw/upstream/kinds/", "fastgw/config/names.py", "fastgw/config/profiles.py", "fastgw/config/variables.py",
    "fastgw/importing/litellm_table.py", "fastgw/importing/tensorzero_table.py",
)  # fmt: skip


def test_the_list_of_names_and_the_files_are_one() -> None:
    assert tuple(kind.name for kind in KINDS) == ENGINE_KINDS
    files = {path.stem for path in (ROOT / "fastgw" / "upstream" / "kinds").glob("*.py")}
    assert files - {"__init__", "kind", "registry"} == set(ENGINE_KINDS)
    help_ = next(row.help for row in ENGINE_FIELDS if row.name == "kind")
    assert [name for name in ENGINE_KINDS if not re.search(rf"\b{name}\b", help_)] == []


@pytest.mark.once
def test_nobody_outside_asks_for_a_kind_by_its_name() -> None:
    """The simulator excepted, which stands alone and plays some of them."""
    wrong = []
    for path in sorted((ROOT / "fastgw").rglob("*.py")):
        place = str(path.relative_to(ROOT))
        if place.startswith(("fastgw/sim/", *MAY_NAME)):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and node.value in OWN_NAMES:
                wrong.append(f"{place}:{node.lineno}: {node.value}")
            elif isinstance(node, ast.Compare):
                sides = (node.left, *node.comparators)
                kind = any("engine.kind" in ast.unparse(one) for one in sides)
                named = any(isinstance(one, ast.Constant) and one.value in ENGINE_KINDS for one in sides)
                wrong += [f"{place}:{node.lineno}: {ast.unparse(node)}"] if kind and named else []
    assert wrong == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_kind_can_be_asked(kind: object) -> None:
    assert isinstance(kind, type(KINDS[0]))
    assert kind.probe_paths
    assert all(path.startswith(b"/") for path in (*kind.probe_paths, kind.models_path))
    assert kind.knows_completion_tokens or not kind.refuses_max_tokens, "there is no word left for it"


@pytest.mark.parametrize(
    ("given", "models", "told"),
    [
        ("auto", b'{"data":[{"id":"m","owned_by":"vllm"}]}', "vllm"),
        ("auto", b'{"data":[{"id":"m","owned_by":"llamacpp"}]}', "llamacpp"),
        ("auto", b'{"data":[{"id":"m","owned_by":"sglang"}]}', "sglang"),
        ("auto", b'{"data":[{"id":"m","owned_by":"me"}]}', "auto"),
        ("auto", b'{ "data" : [ { "id" : "m", "owned_by" : "sglang" } ] }', "sglang"),
        ("auto", b'{"data":[{"owned_by":"vllm","id":"a"},\n {"owned_by":\t"vllm"},{"id":"c","owned_by":"me"}]}', "vllm"),
        ("auto", b'{"data":[{"id":"a","owned_by":"vllm"},{"id":"b","owned_by":"sglang"}]}', "auto"),  # a gateway's
        ("auto", b'{"data":[{"id":"x\\"owned_by\\":\\"vllm\\"","owned_by":7}],"note":{"owned_by":"vllm"}}', "auto"),
        ("auto", b"nonsense", "auto"),
        ("openai", b'{"data":[{"id":"m","owned_by":"vllm"}]}', "openai"),  # what the operator has said stays
    ],
)
def test_an_engine_that_nobody_has_named_is_known_by_its_own_list(given: EngineKind, models: bytes, told: EngineKind) -> None:
    assert known_by(kind_of(given), models) is kind_of(told)


@pytest.mark.parametrize(("name", "answer"), [
    ("llamacpp", b'{ "default_generation_settings" : {}, "total_slots" : 4 }'),
    ("tgi", b'{"model_id":"m",\n"max_total_tokens": 4096}'),
    ("ollama", b'{ "version": "0.12.3" }'), ("sglang", b'{"model_path" : "m"}'),
    ("lmstudio", b'{ "data": [ { "id": "m", "max_context_length" : 4096 } ] }'),
])  # fmt: skip
def test_a_path_of_its_own_tells_a_kind_however_it_is_written(name: EngineKind, answer: bytes) -> None:
    assert [kind.name for kind in KINDS if kind.asked[0] and is_of(kind, answer)] == [name]
    assert not is_of(kind_of(name), b'["%b"]' % answer.replace(b'"', b'\\"').replace(b"\n", b"")), "a text that says so is none"


@pytest.mark.parametrize(("said", "cancels"), [(None, True), (True, True), (False, False)])
def test_what_is_said_of_a_cancel_outweighs_the_kind(said: bool | None, cancels: bool) -> None:
    engine = Engine(EngineConfig(url="http://127.0.0.1:1", cancel=said))
    assert engine.cancel is cancels
    engine.become(kind_of("vllm"))
    assert (engine.cancel, engine.kind.name) == (cancels, "vllm")


ANSWER = {True: "yes", False: "no"}


def told_by(kind: Kind) -> str:
    found = [*(["its models"] if kind.owned_by else []), *([f"`{kind.asked[0].decode()}`"] if kind.asked[0] else [])]
    return ", ".join(found) or "no"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_page_says_of_each_kind_what_the_code_does(kind: object) -> None:
    assert isinstance(kind, type(KINDS[0]))
    bound = "either" if kind.knows_completion_tokens else "`max_tokens`"
    if kind.refuses_max_tokens:
        bound = "`max_completion_tokens`"
    row = " | ".join([
        f"| `{kind.name}`", ", ".join(f"`{path.decode()}`" for path in kind.probe_paths), f"`{kind.models_path.decode()}`",
        told_by(kind), f"`{kind.more[0].decode()}`" if kind.more[0] else "no",
        ANSWER[kind.gauges is not None], ANSWER[kind.asks_usage], bound,
        ANSWER[kind.counts_one_answer], "as needed" if kind.max_idle == ANY else str(kind.max_idle),
    ])  # fmt: skip
    assert f"{row} |" in PAGE
