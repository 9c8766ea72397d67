"""What an engine is told where its key's tokens are counted: as much as was reserved, whoever asks for how much, and how.

In common to all: the engine is one that makes as much as it may, and counts it; so what it says it has made is a key's whole
use, and never beyond its quota. And where nothing is counted, nothing is touched. (What else engines read as a maximum is held
against the simulator: ``tests/e2e/test_told_bounds.py``.)
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.accel.members import PEERS
from tests.conversations.deployed_row import deployed, key_of, tenant_key
from tests.e2e.metered import CHAT, COMPLETIONS, KEY, MESSAGES, RESPONSES
from tests.support.byhand.engine import HandStream
from tests.support.conversation import Conversation, answering, conversation
from tests.support.frame import prompt_estimate
from tests.support.requests import request
from tests.support.scripts import LAST_CHUNK, SSE_HEAD, chunk, ok

FIELD = {CHAT: "max_tokens", COMPLETIONS: "max_tokens", MESSAGES: "max_tokens", RESPONSES: "max_output_tokens"}
WORDS: dict[str, Any] = {
    CHAT: {"messages": [{"role": "user", "content": "hi"}]},
    MESSAGES: {"messages": [{"role": "user", "content": "hi"}]},
    COMPLETIONS: {"prompt": "hi"},
    RESPONSES: {"input": "hi"},
}
IMAGES = "/v1/images/generations"
SPOKEN = "/v1/audio/transcriptions"
RERANKED = "/v1/rerank"
PROMPT = 2
KEYED: dict[str, Any] = {"api_keys": (KEY,)}


def body(path: str = CHAT, **fields: Any) -> bytes:
    return json.dumps({"model": "sim", **WORDS[path], **fields}).encode()


def post(data: bytes, path: str = CHAT, kind: str = "application/json") -> bytes:
    return request("POST", path, headers=[("Content-Type", kind)], body=data, key=KEY)


def form(*, file: bytes = b"sound") -> bytes:
    data = (
        b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\nsim\r\n'
        b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n%b\r\n--x--\r\n'
    )
    return post(data % file, SPOKEN, "multipart/form-data; boundary=x")


class Endless:
    """An engine that makes as many tokens as it is told it may, and counts them."""

    def __init__(self) -> None:
        self.used = 0

    def __call__(self, asked: HandStream) -> None:
        assert asked.start is not None
        path = asked.start.target.decode()
        said = asked.json()
        made = said[FIELD[path]]
        self.used += PROMPT + made
        usage = self._usage(path, made)
        if not said.get("stream"):
            asked.says(ok(json.dumps({"usage": usage}).encode()))
            return
        asked.says(SSE_HEAD, *map(chunk, self._events(path, made, usage)), LAST_CHUNK)

    @staticmethod
    def _usage(path: str, made: int) -> dict[str, int]:
        if path in (MESSAGES, RESPONSES):
            return {"input_tokens": PROMPT, "output_tokens": made}
        return {"prompt_tokens": PROMPT, "completion_tokens": made, "total_tokens": PROMPT + made}

    @staticmethod
    def _events(path: str, made: int, usage: dict[str, int]) -> list[bytes]:
        if path == MESSAGES:
            start = {"type": "message_start", "message": {"usage": {**usage, "output_tokens": 0}}}
            word = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "word "}}
            end = {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": usage}
            said: list[dict[str, Any]] = [start, *[word] * made, end, {"type": "message_stop"}]
        elif path == RESPONSES:
            word = {"type": "response.output_text.delta", "delta": "word "}
            said = [*[word] * made, {"type": "response.completed", "response": {"usage": usage}}]
        else:
            delta = {"text": "word "} if path == COMPLETIONS else {"delta": {"content": "word "}}
            said = [*[{"choices": [{"index": 0, **delta}]}] * made, {"choices": [], "usage": usage}]
        named = path in (MESSAGES, RESPONSES)
        lines = [(b"event: %b\n" % one["type"].encode() if named else b"", json.dumps(one).encode()) for one in said]
        whole = b"".join(b"%bdata: %b\n\n" % line for line in lines) + (b"" if named else b"data: [DONE]\n\n")
        return [whole[at : at + 4096] for at in range(0, len(whole), 4096)]


@pytest.mark.parametrize("path", WORDS, ids=str)
@pytest.mark.parametrize("stream", [False, True])
def test_sixty_that_name_no_maximum_stay_within_the_day(path: str, stream: bool) -> None:
    engine = Endless()

    def later(asked: HandStream) -> None:
        asked.pool.loop.call_later(0.01, engine, asked)  # all of them are there before the first is answered

    with conversation(1, later, **KEYED, daily_token_quota=10_000) as talk:
        data = post(body(path, **({"stream": True} if stream else {})), path)
        clients = [talk.client().says(data) for _ in range(60)]
        talk.passes(1.0)
        assert {client.seen.status for client in clients} == {200, 429}
        assert all(client.seen.complete for client in clients)
        found = talk.settled(KEY)
        assert 5000 < found["total_tokens"] <= 10_000
        assert found["total_tokens"] == engine.used
        assert talk.asked == [found["requests"]]
        # What nobody used of what was reserved has come back, and goes to those who come now.
        assert talk.ask(data).status == 200 or found["total_tokens"] > 9900


@pytest.mark.parametrize("part", ["system", "instructions", "tools"])
def test_two_hundred_kilobytes_are_refused_or_counted(part: str) -> None:
    text: Any = "word " * 40_000
    data = body(**{part: [{"type": "function", "function": {"name": "f", "description": text}}] if part == "tools" else text})
    for quota, status in ((40_000, 429), (60_000, 200)):
        with conversation(1, answering(ok()), **KEYED, daily_token_quota=quota) as talk:
            assert talk.ask(post(data)).status == status
            assert talk.asked == [status == 200]
            talk.settled(KEY)


def came(talk: Conversation) -> list[bytes]:
    """The bodies that the engine has got."""
    return [asked.body for asked in talk.engines[0].asked]


@pytest.mark.parametrize("path", WORDS, ids=str)
def test_bytes_pass_as_they_came_where_nothing_is_counted(path: str) -> None:
    limits = {"max_tokens": 4, "max_output_tokens": 4, "n_predict": -1}
    odd: dict[str, Any] = {**limits, "options": {"num_predict": 9}, "best_of": "x"}
    for fields in ({}, odd):
        data = body(path, **fields).replace(b'", "', b'" ,\n "')
        with conversation(1, answering(ok()), **KEYED) as talk:
            assert talk.ask(post(data, path)).status == 200
            assert came(talk) == [data]


@pytest.mark.parametrize("path", WORDS, ids=str)
def test_what_says_no_more_than_it_may_passes_as_it_came(path: str) -> None:
    with conversation(1, answering(ok()), **KEYED, daily_token_quota=10_000, tokens_per_minute=10_000) as talk:
        data = body(path, **{FIELD[path]: 40}).replace(b'", "', b'" ,\n "')
        assert talk.ask(post(data, path)).status == 200
        assert came(talk) == [data]


@pytest.mark.parametrize("path", WORDS, ids=str)
def test_what_says_nothing_is_told_the_default_and_nothing_else(path: str) -> None:
    with conversation(1, answering(ok()), **KEYED, tokens_per_minute=100_000, default_max_tokens=77) as talk:
        data = body(path)
        assert talk.ask(post(data, path)).status == 200
        assert came(talk) == [b'{"%b":77,' % FIELD[path].encode() + data[1:]]


@pytest.mark.parametrize("fields", [{}, {"max_tokens": 100_000}, {"max_tokens": 50}], ids=json.dumps)
def test_a_stream_that_is_cut_has_its_engine_told_what_is_left(fields: dict[str, Any]) -> None:
    settings: dict[str, Any] = {**KEYED, "on_exhausted": "cut", "default_cost_tokens": 10, "daily_token_quota": 400}
    with conversation(1, Endless(), **settings) as talk:
        data = body(stream=True, stream_options={"include_usage": True}, **fields)
        assert talk.ask(post(data)).status == 200
        told = json.loads(came(talk)[-1])["max_tokens"]
        assert told == min(fields.get("max_tokens", 4096), 400 - prompt_estimate(data))
        assert talk.settled(KEY)["total_tokens"] <= 400


@pytest.mark.parametrize("path", WORDS, ids=str)
@pytest.mark.parametrize(("named", "asked", "status"), [(None, [4096, 256], 200), (900, [900], 400)], ids=["unnamed", "named"])
def test_an_engine_with_less_room_is_asked_for_a_shorter_answer(
    path: str, named: int | None, asked: list[int], status: int
) -> None:
    """Its context has room for 500: nobody who named no maximum need know what he was given as one."""

    def short(one: HandStream) -> None:
        if one.json()[FIELD[path]] > 500:
            one.says(ok(b'{"error":{"message":"maximum context length"}}').replace(b"200 OK", b"400 No"))
        else:
            one.says(ok(b'{"usage":{"total_tokens":9}}'))

    fields = {} if named is None else {FIELD[path]: named}
    with conversation(1, short, **KEYED, daily_token_quota=10_000) as talk:
        assert talk.ask(post(body(path, **fields), path)).status == status
        assert [json.loads(one)[FIELD[path]] for one in came(talk)] == asked
        assert talk.settled(KEY)["requests"] == 1


@pytest.mark.parametrize(("fields", "own"), [
    ({}, "max_completion_tokens"), ({"max_tokens": 90}, "max_tokens"), ({"max_completion_tokens": 90}, "max_completion_tokens"),
    ({"max_tokens": None}, "max_completion_tokens"),
], ids=json.dumps)  # fmt: skip
def test_openais_own_servers_are_told_in_the_word_that_all_their_models_take(fields: dict[str, Any], own: str) -> None:
    engines = [EngineConfig(url="http://127.0.0.1:9", kind="openai", warm_connections=0)]
    with conversation(engines, answering(ok()), **KEYED, tokens_per_minute=100_000, default_max_tokens=77) as talk:
        assert talk.ask(post(body(**fields))).status == 200
        said = json.loads(came(talk)[0])
        limits = {name: said[name] for name in said if name.startswith("max_") and said[name] is not None}
        assert limits == {own: fields.get(own, 77)}
        assert talk.ask(post(body(COMPLETIONS), COMPLETIONS)).status == 200
        assert json.loads(came(talk)[1])["max_tokens"] == 77


@pytest.mark.parametrize("limit", ["daily_token_quota", "tokens_per_minute"])
@pytest.mark.parametrize(("path", "each"), [(IMAGES, 4096), (IMAGES, 8192), (SPOKEN, 4096)], ids=str)
def test_answers_whose_length_no_engine_can_be_told_are_reserved(path: str, each: int, limit: str) -> None:
    """Sixty at once: as many are let through as fit, should each take what one that names no maximum may take."""
    used = each // 2
    usage = {"input_tokens": 10, "output_tokens": used - 10, "total_tokens": used}
    answer = ok(json.dumps({"created": 1, "data": [], "usage": usage}).encode())
    if path == IMAGES:
        data = post(json.dumps({"model": "sim", "prompt": "a river", "n": each // 4096}).encode(), path)
    else:
        data = form()
    settings: dict[str, Any] = {**KEYED, limit: 10_000}
    with conversation(1, **settings) as talk:
        [engine] = talk.engines
        # (Of a day what is left goes to one more.)
        fit = 10_000 // each + (limit == "daily_token_quota")
        clients = [talk.client().says(data) for _ in range(60)]
        assert talk.stats.refused_total == 60 - fit
        engine.play = answering(answer)
        for asked in engine.under_way:
            asked.says(answer)
        assert sorted(client.seen.status for client in clients) == [200] * fit + [429] * (60 - fit)
        assert talk.settled(KEY)["total_tokens"] == fit * used
        # What they did not use has come back.
        left = 10_000 - fit * used
        assert talk.ask(data).status == (200 if left > (each + 100 if limit != "daily_token_quota" else 100) else 429)


@pytest.mark.parametrize("limit", ["daily_token_quota", "tokens_per_minute"])
def test_a_quota_that_is_less_than_an_untold_answer_is_still_one(limit: str) -> None:
    settings: dict[str, Any] = {**KEYED, limit: 500}
    with conversation(1, answering(ok()), **settings) as talk:
        assert talk.ask(post(json.dumps({"model": "sim", "prompt": "a river"}).encode(), IMAGES)).status == 200


UNCOUNTED: list[tuple[str, str, Any]] = [
    (RESPONSES, "background", True), (RESPONSES, "previous_response_id", "resp_1"), (RESPONSES, "conversation", "conv_1"),
    (RESPONSES, "conversation", {"id": "conv_1"}), (RESPONSES, "prompt", {"id": "pmpt_1"}),
    (CHAT, "chat_template", "{{ 'x' * 9 }}"), (RERANKED, "chat_template", "{{ 'x' * 9 }}"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "name", "value"), UNCOUNTED, ids=str)
def test_what_nobody_can_count_before_is_refused_where_tokens_are_limited(path: str, name: str, value: Any) -> None:
    words = {**WORDS, RERANKED: {"query": "x", "documents": ["y"]}}[path]
    data = json.dumps({"model": "sim", **words, name: value}).encode()
    for limit in ("daily_token_quota", "tokens_per_minute"):
        settings: dict[str, Any] = {**KEYED, limit: 10_000}
        with conversation(1, answering(ok()), **settings) as talk:
            answer = talk.ask(post(data, path))
            assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "invalid_parameter", name)
            twice = data.replace(b'"%b"' % name.encode(), b'"%b"' % name.capitalize().encode(), 1)
            assert talk.ask(post(twice, path)).status == 400
            assert talk.asked == [0]
            nothing = json.dumps({"model": "sim", **words, name: False if value is True else None}).encode()
            assert talk.ask(post(nothing, path)).status == 200
            assert talk.asked == [1]
    with conversation(1, answering(ok()), **KEYED, rate_limit_per_minute=100) as talk:
        assert talk.ask(post(data, path)).status == 200
        assert came(talk) == [data]


def test_a_query_that_is_read_a_hundred_times_is_refused() -> None:
    with conversation(1, answering(ok()), **KEYED, daily_token_quota=100_000) as talk:
        data = json.dumps({"model": "sim", "query": "word " * 2000, "documents": ["x"] * 100}).encode()
        answer = talk.ask(post(data, RERANKED))
        assert (answer.status, answer.error["code"]) == (429, "request_exceeds_limit")
        assert talk.asked == [0]


def test_an_upload_needs_no_more_than_is_left() -> None:
    """Nobody knows how long its answer will be: it may have what there is, and others wait meanwhile."""
    answer = ok(b'{"text":"x","usage":{"input_tokens":2,"output_tokens":14,"total_tokens":16}}')
    with conversation(1, answering(answer), **KEYED, daily_token_quota=300) as talk:
        for _ in range(3):
            assert talk.ask(form(file=b"RIFF")).status == 200
        assert talk.settled(KEY)["requests"] == 3


# (path, what is asked for, in pieces that stay as they came and such as say how long an answer may be; what is told; how many
# tokens are reserved for it at most.)
OWN: dict[str, tuple[str, str, list[Any], int]] = {
    "SGLang's usual": ("/generate", '{"text":"hi"}', [128], 128),
    "SGLang's usual, beside others": ("/generate", '{"text":"hi","sampling_params":{"temperature":0}}', [128], 128),
    "SGLang's usual, of one": (
        "/generate", '{"text":["a","b"],"sampling_params":[{"max_new_tokens":200},{}]}', [200, 128], 400),
    "SGLang's endless": ("/generate", '{"text":"hi","sampling_params":{"max_new_tokens":null}}', [500], 500),
    "SGLang, twice": ("/generate", '{"text":"hi","sampling_params":{"max_new_tokens":1,"max_new_tokens":null}}', [1, 500], 500),
    "SGLang, twice, written otherwise": (
        "/generate", '{"text":"hi","sampling_params":{"max_new_tokens":1,"max_new_t\\u006fkens":null}}', [1, 500], 500),
    "SGLang, twice in a row": (
        "/generate", '{"text":["a"],"sampling_params":[{"max_new_tokens":null,"max_new_tokens":-1}]}', [500, 500], 500),
    "TGI": ("/generate", '{"inputs":"hi"}', [500], 500),
    "TGI, twice": ("/generate", '{"inputs":"hi","parameters":{"max_new_tokens":1,"max_new_tokens":null}}', [1, 500], 500),
    "Ollama": ("/api/generate", '{"model":"sim","prompt":"hi"}', [500], 500),
    "Ollama, twice": (
        "/api/generate", '{"model":"sim","prompt":"hi","options":{"num_predict":1,"num_predict":null}}', [1, 500], 500),
}  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_an_engine_is_told_in_its_own_words_each_time_that_they_come(name: str) -> None:
    """Whichever of several counts to it; and where it would make less of itself, that is what it makes."""
    path, data, wanted, most = OWN[name]
    said: list[Any] = []

    def noted(members: list[tuple[str, Any]]) -> dict[str, Any]:
        said.extend(value for member, value in members if member in ("max_new_tokens", "num_predict"))
        return dict(members)

    with conversation(1, **KEYED, daily_token_quota=10_000, default_max_tokens=500) as talk:
        client = talk.client().says(post(data.encode(), path))
        assert most < talk.account(KEY).ledger.reserved <= most + 60
        json.loads(came(talk)[0], object_pairs_hook=noted)
        assert said == wanted
        talk.engines[0].last.says(ok(b"{}"))
        assert client.seen.status == 200


def test_a_usual_length_is_no_reason_to_refuse_what_the_day_has_room_for() -> None:
    with conversation(1, answering(ok(b"{}")), **KEYED, daily_token_quota=100) as talk:
        assert talk.ask(post(b'{"text":"hi"}', "/generate")).status == 200
        assert 50 < json.loads(came(talk)[0])["sampling_params"]["max_new_tokens"] < 100


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES, "/generate", "/v1/passed"])
def test_what_names_an_engines_peers_is_the_operators_to_allow(path: str, allowed: bool) -> None:
    """An engine would fetch what it takes for a prompt's cache from there, or send it: to any address that a client says."""
    said = {
        "kv_transfer_params": {"do_remote_prefill": True, "remote_host": "192.0.2.1", "remote_port": 9},
        "bootstrap_host": "192.0.2.1", "bootstrap_port": 9, "bootstrap_room": 1,
    }  # fmt: skip
    assert set(said) == set(PEERS)
    words = WORDS.get(path, {"text": "hi"})
    settings: dict[str, Any] = {**KEYED, "allow_kv_transfer": allowed, "passthrough_paths": ("/v1/passed",)}
    with conversation(1, answering(ok()), **settings) as talk:
        for name, value in said.items():
            data = json.dumps({"model": "sim", **words, name: value}).encode()
            spelled = data.replace(b"_", b"\\u005f")
            for one in (data, spelled):
                before = talk.asked[0]
                answer = talk.ask(post(one, path))
                if allowed:
                    assert (answer.status, talk.engines[0].last.json()[name]) == (200, value)
                else:
                    assert (answer.status, answer.error["param"], talk.asked[0]) == (400, name, before)
            assert talk.ask(post(data.replace(name.encode(), name.upper().encode(), 1), path)).status == 400
            nothing = json.dumps({"model": "sim", **words, name: None}).encode()
            assert talk.ask(post(nothing, path)).status == 200


@pytest.mark.parametrize(("path", "said"), [
    (CHAT, {"lora_path": "secret"}), (COMPLETIONS, {"lora_path": "secret"}), (RESPONSES, {"lora": [{"id": 0, "scale": 1}]}),
    ("/generate", {"lora_path": ["secret"]}), ("/generate", {"parameters": {"adapter_id": "secret"}}),
    (CHAT, {"fallbacks": ["secret"]}), (MESSAGES, {"models": ["sim", "secret"]}),
    (CHAT, {"lora_path": "mine", "fallbacks": "secret"}),
    ("/generate", {"parameters": {"adapter_id": "mine"}, "lora": "secret"}),
])  # fmt: skip
def test_a_key_has_no_model_beside_those_that_it_lists(path: str, said: dict[str, Any]) -> None:
    """Engines take the name of one, or of an adapter, beside their model's; and anybody else may say what he likes."""
    keys = tenant_key("x", "sim", "mine"), tenant_key("y")
    words = {"model": "sim", **WORDS.get(path, {"text": "hi"})}
    kind = [("content-type", "application/json")]
    with deployed({"a": {"models": ("sim",)}}, keys=keys) as row:

        def status(tenant: str, body: bytes) -> int:
            return row.ask(request("POST", path, headers=kind, body=body, key=key_of(tenant))).status

        data = json.dumps({**words, **said}).encode()
        for letter in (b"_", b"lora", b"ls", b"no such"):
            spelled = data.replace(letter, b"\\u%04x" % letter[0] + letter[1:])
            assert (status("x", spelled), row.asked["a"]) == (403, 0), spelled
        assert status("x", json.dumps({**words, **dict.fromkeys(said)}).encode()) == status("y", data) == 200
        if b"[" not in json.dumps(said).encode():
            assert status("x", data.replace(b"secret", b"mine")) == 200
