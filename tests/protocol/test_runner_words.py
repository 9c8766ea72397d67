"""The words of runners: both names of each, what is passed over, and every bound."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import asdict

from fastgw.protocol import runner_words as words
from tests.support.runners import TOKEN, heartbeat, register, status


def read(message: dict[str, Any] | bytes) -> Any:
    return words.from_runner(message if isinstance(message, bytes) else json.dumps(message))


@pytest.mark.parametrize(("name", "page"), [
    ("register", "Registration"), ("heartbeat", "Heartbeat"), ("status_update", "StatusUpdate"),
    ("command_response", "CommandResponse"),
])  # fmt: skip
def test_S4_05_a_runner_may_use_either_name(name: str, page: str) -> None:
    bodies = {"register": register(), "command_response": {"request_id": "1", "success": True}}
    body = bodies.get(name, heartbeat())
    one, other = read({**body, "type": name}), read({**body, "type": page})
    assert isinstance(other, type(one))
    assert words.by_page(other) is (name == "register")
    assert asdict(one) == asdict(other)


@pytest.mark.parametrize(("message", "name", "page"), [
    (words.RegisterAck(runner_id="r"), "register_ack", "Welcome"),
    (words.LoadModel(model_id="m", request_id="1"), "load_model", "LoadModel"),
    (words.UnloadModel(model_id="m", request_id="1"), "unload_model", "UnloadModel"),
    (words.RequestStatus(request_id="1"), "request_status", "RequestStatus"),
    (words.Ping(timestamp=1), "ping", "ping"),
    (words.Error(code="TIMEOUT", message="late"), "error", "error"),
])  # fmt: skip
def test_S4_05_a_gateway_speaks_either_language_and_is_understood(message: Any, name: str, page: str) -> None:
    for by_page, said in ((False, name), (True, page)):
        text = words.written(message, by_page)
        assert json.loads(text)["type"] == said
        assert isinstance(words.from_gateway(text), type(message))


def test_S4_06_members_that_are_not_known_are_passed_over_and_some_may_be_null() -> None:
    message = register(later={"a": [1, {"b": None}]})
    message["status"]["engines"][0].update(version=None, error=None, odd=[[]])
    message["status"]["capabilities"] = [
        {"capability": "chat", "status": "ready", "model_id": "m", "active_requests": 1, "metadata": {"x": [1]}}
    ]
    message["status"]["metrics"] = {"requests_processed": 7, "gpu_memory_used": 8e10, "cpu_usage_percent": None}
    read_ = read(message)
    assert read_.runner_id == "r1"
    assert read_.status.metrics.requests_processed == 7


def test_the_token_is_in_no_repr() -> None:
    assert TOKEN not in repr(read(register()))


def long(size: int) -> str:
    return "x" * size


@pytest.mark.parametrize(("message", "code"), [
    (b"", words.PARSE_ERROR), (b"{", words.PARSE_ERROR), (b"[]", words.PARSE_ERROR), (b'"register"', words.PARSE_ERROR),
    (b"\xff\xfe", words.PARSE_ERROR), (b'{"type":"heartbeat","health":' + b"[" * 100_000, words.PARSE_ERROR),
    (b'{"type":"heartbeat","health":"healthy","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", words.PARSE_ERROR),
    ({}, words.PROTOCOL_ERROR), ({"type": "hello"}, words.PROTOCOL_ERROR), ({"type": 3}, words.PROTOCOL_ERROR),
    ({"type": "register_ack", "runner_id": "r"}, words.PROTOCOL_ERROR),
    (heartbeat(health="splendid"), words.PARSE_ERROR),
    ({"type": "heartbeat"}, words.PARSE_ERROR),
    (register(id=""), words.PARSE_ERROR), (register(id="a/b"), words.PARSE_ERROR), (register(id="a\nb"), words.PARSE_ERROR),
    (register(id=long(129)), words.PARSE_ERROR), (register(runner_name=long(201)), words.PARSE_ERROR),
    (register(http_port=0), words.PARSE_ERROR), (register(http_port=65536), words.PARSE_ERROR),
    (register(http_port="8000"), words.PARSE_ERROR), (register(protocol_version="1"), words.PARSE_ERROR),
    (register(auth_token=long(4097)), words.PARSE_ERROR), (register(url=long(513)), words.PARSE_ERROR),
    (heartbeat(long(201)), words.PARSE_ERROR), (heartbeat(""), words.PARSE_ERROR),
    (heartbeat(*(f"m{at}" for at in range(words.MAX_NAMES + 1))), words.PARSE_ERROR),
    (heartbeat(engines=[status()["engines"][0]] * (words.MAX_ENGINES + 1)), words.PARSE_ERROR),
    (heartbeat(capabilities=[{"capability": "c"}] * (words.MAX_NAMES + 1)), words.PARSE_ERROR),
    (heartbeat(model_aliases={f"a{at}": "m" for at in range(words.MAX_NAMES + 1)}), words.PARSE_ERROR),
    # Each list has room for all, and all of them together no more.
    (heartbeat(*(f"m{at}" for at in range(600)), available=[f"a{at}" for at in range(401)]), words.PARSE_ERROR),
    (heartbeat(engines=[status(f"m{at}")["engines"][0] for at in range(60)],
               model_aliases={f"a{at}": "m" for at in range(941)}), words.PARSE_ERROR),
    (register(status=status("m", model_aliases={"a": "m"}, capabilities=[{"capability": "c"}] * 1000)), words.PARSE_ERROR),
    (heartbeat(metrics={"requests_processed": -1}), words.PARSE_ERROR),
    (heartbeat(metrics={"requests_processed": 1 << 60}), words.PARSE_ERROR),
    (heartbeat(metrics={"kv_cache_usage": 1.5}), words.PARSE_ERROR),
    ({"type": "command_response", "request_id": long(201), "success": True}, words.PARSE_ERROR),
    ({"type": "command_response", "request_id": "1", "success": True, "error": long(words.MAX_TEXT_CHARS + 1)},
     words.PARSE_ERROR),
])  # fmt: skip
def test_S4_06_what_cannot_be_read_is_told_by_its_code(message: dict[str, Any] | bytes, code: str) -> None:
    with pytest.raises(words.Unreadable) as found:
        read(message)
    assert found.value.code == code
    assert "\n" not in str(found.value)


def test_models_are_those_of_engines_that_are_well_the_loaded_first_and_the_aliases_of_those() -> None:
    said = read({
        "type": "heartbeat", "health": "healthy",
        "engines": [
            {"engine_type": "a", "is_healthy": True, "loaded_models": ["two"], "available_models": ["one", "two"]},
            {"engine_type": "b", "is_healthy": False, "loaded_models": ["ill"], "available_models": []},
        ],
        "model_aliases": {"fast": "one", "none": "ill"},
    })  # fmt: skip
    assert said.models() == ("two", "one", "fast")
    assert said.loaded() == {"two"}
