"""The OpenAI Python SDK, unchanged, against an engine directly and through fastgw: it must not be able to tell.

The engine is the simulator. The synchronous client runs in a thread, so that gateway and engine go on beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from fastgw.sim import SimConfig, Simulator
from tests.support.way import Way, both_ways, to_engine

MESSAGES: Any = [{"role": "user", "content": "Tell me about rivers."}]
KEY = "sk-test-key"


@contextlib.asynccontextmanager
async def reach(way: Way, *, key: str = KEY, sim: dict[str, Any] | None = None) -> AsyncIterator[tuple[str, Simulator]]:
    """A simulator that demands ``key``, or a gateway that does in front of a simulator with a key of its own."""
    engine_key = key if way == "direct" else "engine-secret"
    async with (
        Simulator(SimConfig(api_key=engine_key, **(sim or {}))) as engine,
        to_engine(way, engine.url, engine={"api_key": engine_key}, api_keys=(key,)) as url,
    ):
        yield url + "/v1", engine


@contextlib.asynccontextmanager
async def client_to(
    way: Way, *, sim: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[tuple[AsyncOpenAI, Simulator]]:
    async with reach(way, sim=sim) as (url, engine):
        settings: dict[str, Any] = {"api_key": KEY, "max_retries": 0, "timeout": 10.0, **options}
        async with AsyncOpenAI(base_url=url, **settings) as client:
            yield client, engine


def fault(text: str) -> dict[str, str]:
    return {"x-sim-fault": text}


async def until(happened: Callable[[], bool], within_s: float) -> float:
    """Wait for the engine to see something; how long that took."""
    start = time.monotonic()
    while not happened():
        assert time.monotonic() - start < within_s, f"not within {within_s:g} s"
        await asyncio.sleep(0.001)
    return time.monotonic() - start


async def drain(stream: openai.AsyncStream[Any], into: list[Any]) -> None:
    """Read a stream to its end; what came before it breaks is in ``into`` all the same."""
    async for chunk in stream:
        into.append(chunk)  # noqa: PERF401 - a comprehension would lose them all


# Answers.


@both_ways
async def test_plain_chat(way: Way) -> None:
    async with client_to(way) as (client, _):
        answer = await client.chat.completions.create(model="sim", messages=MESSAGES, max_tokens=9)
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 9


@both_ways
async def test_a_stream_says_what_the_plain_answer_says(way: Way) -> None:
    async with client_to(way) as (client, _):
        plain = await client.chat.completions.create(model="sim", messages=MESSAGES, max_tokens=25)
        stream = await client.chat.completions.create(model="sim", messages=MESSAGES, max_tokens=25, stream=True)
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == plain.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "length"
    # Not asked for, so not there: neither on a chunk, nor as the extra chunk without choices.
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


@both_ways
async def test_include_usage_gives_one_extra_chunk_at_the_end(way: Way) -> None:
    async with client_to(way) as (client, _):
        stream = await client.chat.completions.create(
            model="sim", messages=MESSAGES, max_tokens=7, stream=True, stream_options={"include_usage": True}
        )
        *chunks, last = [chunk async for chunk in stream]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 7
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


@both_ways
async def test_the_synchronous_client(way: Way) -> None:
    def talk(url: str) -> None:
        with OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=10.0) as client:
            plain = client.chat.completions.create(model="sim", messages=MESSAGES, max_tokens=12)
            stream = client.chat.completions.create(model="sim", messages=MESSAGES, max_tokens=12, stream=True)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            assert text == plain.choices[0].message.content
            assert [model.id for model in client.models.list()] == ["sim"]
            assert len(client.embeddings.create(model="sim", input="water").data[0].embedding) == 16
            with client.chat.completions.create(model="sim", messages=MESSAGES, max_tokens=5000, stream=True) as left:
                next(iter(left))
            with pytest.raises(openai.NotFoundError):
                client.chat.completions.create(model="no-such-model", messages=MESSAGES)

    async with reach(way, sim={"itl_ms": 2.0}) as (url, engine):
        await asyncio.to_thread(talk, url)
        await until(lambda: engine.state.running == 0, 1.0)
        assert engine.state.cancelled == 1


@both_ways
async def test_twenty_streams_over_one_client(way: Way) -> None:
    async def one(client: AsyncOpenAI, number: int) -> str:
        messages: Any = [{"role": "user", "content": f"Prompt {number}"}]
        stream = await client.chat.completions.create(model="sim", messages=messages, max_tokens=30, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        plain = await client.chat.completions.create(model="sim", messages=messages, max_tokens=30)
        assert text == plain.choices[0].message.content
        return text

    async with client_to(way, sim={"itl_ms": 1.0}) as (client, _):
        texts = await asyncio.gather(*(one(client, number) for number in range(20)))
    assert len(set(texts)) == 20


@both_ways
async def test_legacy_completions(way: Way) -> None:
    async with client_to(way) as (client, _):
        plain = await client.completions.create(model="sim", prompt="Once", max_tokens=8)
        stream = await client.completions.create(model="sim", prompt="Once", max_tokens=8, stream=True)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == plain.choices[0].text != ""


@both_ways
async def test_responses(way: Way) -> None:
    async with client_to(way) as (client, _):
        plain = await client.responses.create(model="sim", input="Once", max_output_tokens=8)
        stream = await client.responses.create(model="sim", input="Once", max_output_tokens=8, stream=True)
        text = "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])
    assert text == plain.output_text != ""


@both_ways
async def test_embeddings_as_floats_and_as_base64(way: Way) -> None:
    async with client_to(way) as (client, _):
        packed = await client.embeddings.create(model="sim", input=["water", "stone"])  # the SDK asks for base64 itself
        floats = await client.embeddings.create(model="sim", input=["water", "stone"], encoding_format="float")
    assert [one.index for one in packed.data] == [0, 1]
    assert packed.data[0].embedding == pytest.approx(floats.data[0].embedding, abs=1e-6)
    assert packed.data[0].embedding != packed.data[1].embedding


@both_ways
async def test_models_are_listed_and_unknown_ones_not_found(way: Way) -> None:
    async with client_to(way, sim={"models": ("sim", "sim-two")}) as (client, _):
        assert [model.id async for model in client.models.list()] == ["sim", "sim-two"]
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model="no-such-model", messages=MESSAGES)
        assert caught.value.status_code == 404
        assert (await client.chat.completions.create(model="sim-two", messages=MESSAGES, max_tokens=2)).model == "sim-two"


@both_ways
async def test_an_upload_arrives_whole_and_is_routed_by_its_model_field(way: Way) -> None:
    sound = bytes(range(256)) * 2000
    async with client_to(way) as (client, _):
        small = await client.audio.transcriptions.create(file=("a.wav", b"RIFF"), model="sim")
        large = await client.audio.transcriptions.create(file=("a.wav", io.BytesIO(sound)), model="sim")
        assert small.text
        assert large.text
        with pytest.raises(openai.NotFoundError):
            await client.audio.transcriptions.create(file=("a.wav", b"RIFF"), model="no-such-model")
    assert len(sound) < large.model_extra["bytes"] < len(sound) + 2000


@both_ways
async def test_binary_answers_come_as_they_are(way: Way) -> None:
    digests = set()
    async with client_to(way) as (client, _):
        for _ in range(2):
            speech = await client.audio.speech.create(model="sim", voice="alloy", input="Say it. " * 50)
            digests.add(hashlib.sha256(speech.content).hexdigest())
            async with client.audio.speech.with_streaming_response.create(
                model="sim", voice="alloy", input="Say it. " * 50
            ) as streamed:
                digests.add(hashlib.sha256(await streamed.read()).hexdigest())
        image = await client.images.generate(model="sim", prompt="A river")
    assert len(digests) == 1
    assert image.data


async def test_a_request_id_comes_back_through_the_gateway_and_may_be_chosen() -> None:
    async with client_to("gateway") as (client, _):
        answer = await client.chat.completions.create(model="sim", messages=MESSAGES, max_tokens=1)
        other = await client.chat.completions.create(model="sim", messages=MESSAGES, max_tokens=1)
        chosen = await client.chat.completions.create(
            model="sim", messages=MESSAGES, max_tokens=1, extra_headers={"x-request-id": "mine-1"}
        )
    assert answer._request_id
    assert answer._request_id != other._request_id
    assert chosen._request_id == "mine-1"


# Refusals.


@both_ways
@pytest.mark.parametrize("key", ["wrong", KEY + "x", KEY[:-1]])
async def test_a_wrong_key_is_an_authentication_error(way: Way, key: str) -> None:
    async with client_to(way, api_key=key) as (client, engine):
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.chat.completions.create(model="sim", messages=MESSAGES)
        assert caught.value.response.headers["www-authenticate"].startswith("Bearer")
        if way == "gateway":
            assert caught.value.type == "authentication_error"
            assert key not in caught.value.message
            assert not [one for one in engine.requests if one.method == "POST"]


async def test_the_clients_key_stays_here_and_the_engines_key_goes_up() -> None:
    async with client_to("gateway") as (client, engine):
        await client.chat.completions.create(model="sim", messages=MESSAGES, max_tokens=1)
        (posted,) = [one for one in engine.requests if one.method == "POST"]
    assert posted.head.fields[b"authorization"] == b"Bearer engine-secret"
    assert KEY.encode() not in repr(posted.head.fields).encode()


@both_ways
async def test_a_bad_request_is_a_bad_request_error(way: Way) -> None:
    async with client_to(way) as (client, _):
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(model="sim", messages=MESSAGES, stream="yes")  # type: ignore[call-overload]


@both_ways
@pytest.mark.parametrize(
    ("status", "error"),
    [(429, openai.RateLimitError), (500, openai.InternalServerError), (503, openai.InternalServerError)],
)
async def test_with_retries_off_the_engine_is_asked_once(way: Way, status: int, error: type[openai.APIStatusError]) -> None:
    async with client_to(way) as (client, engine):
        with pytest.raises(error) as caught:
            await client.chat.completions.create(
                model="sim", messages=MESSAGES, extra_headers=fault(f"status={status},retry-after=7")
            )
        posted = [one for one in engine.requests if one.method == "POST"]
    assert caught.value.status_code == status
    assert caught.value.response.headers["retry-after"] == "7"
    assert len(posted) == 1


@both_ways
async def test_the_sdks_own_retries_work(way: Way) -> None:
    async with client_to(way, max_retries=1) as (client, engine):
        answer = await client.chat.completions.create(
            model="sim", messages=MESSAGES, max_tokens=1, extra_headers=fault("status=503,retry-after=0,times=1")
        )
        posted = [one for one in engine.requests if one.method == "POST"]
    assert answer.choices
    assert len(posted) == 2


# Time and cancelling.


@both_ways
@pytest.mark.parametrize("stream", [False, True])
async def test_the_clients_timeout_ends_the_engines_work(way: Way, stream: bool) -> None:
    async with client_to(way) as (client, engine):
        with pytest.raises(openai.APITimeoutError):
            await client.chat.completions.create(
                model="sim", messages=MESSAGES, stream=stream, timeout=0.2, extra_headers=fault("ttft-ms=20000")
            )
        await until(lambda: engine.state.running == 0, 0.5)
        assert engine.state.cancelled == 1


@both_ways
async def test_a_silent_stream_runs_into_the_clients_timeout(way: Way) -> None:
    async with client_to(way, timeout=0.3) as (client, _):
        stream = await client.chat.completions.create(
            model="sim", messages=MESSAGES, stream=True, extra_headers=fault("stall-after-events=3")
        )
        seen: list[Any] = []
        with pytest.raises(openai.APITimeoutError):
            await drain(stream, seen)
    assert len(seen) == 3


@both_ways
async def test_closing_a_stream_cancels_the_engine(way: Way) -> None:
    async with client_to(way, sim={"itl_ms": 5.0}) as (client, engine):
        stream = await client.chat.completions.create(model="sim", messages=MESSAGES, max_tokens=2000, stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        assert engine.state.running == 1
        await stream.close()
        assert await until(lambda: engine.state.running == 0, 0.5) < 0.5
        assert engine.state.cancelled == 1
        # The client is as good as new.
        assert (await client.chat.completions.create(model="sim", messages=MESSAGES, max_tokens=1)).choices


@both_ways
async def test_cancelling_the_task_cancels_the_engine(way: Way) -> None:
    async with client_to(way) as (client, engine):
        plain = client.chat.completions.create(model="sim", messages=MESSAGES, extra_headers=fault("ttft-ms=20000"))
        task = asyncio.create_task(plain)
        await until(lambda: engine.state.running == 1, 2.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: engine.state.running == 0, 0.5)
        assert engine.state.cancelled == 1


# Streams that break: the SDK must raise, and never take a part for the whole.


@both_ways
@pytest.mark.parametrize(
    "text",
    [
        "close-after-events=4",
        "reset-after-events=4",
        "truncate-chunk,after-events=4",
        "half-chunk,after-events=4",
        "half-event,after-events=4",
        "bad-chunk,after-events=4",
    ],
)
async def test_a_broken_stream_raises(way: Way, text: str) -> None:
    async with client_to(way) as (client, _):
        stream = await client.chat.completions.create(
            model="sim", messages=MESSAGES, max_tokens=20, stream=True, extra_headers=fault(text)
        )
        seen: list[Any] = []
        with pytest.raises(openai.APIError) as caught:
            await drain(stream, seen)
        assert 1 <= len(seen) <= 5
        if way == "gateway":  # it says what happened, where the bare engine leaves the SDK with "Connection error."
            assert caught.value.type == "upstream_error"
        # The next request is not harmed.
        assert (await client.chat.completions.create(model="sim", messages=MESSAGES, max_tokens=1)).choices


@both_ways
async def test_the_engines_own_error_event_arrives_as_it_is(way: Way) -> None:
    async with client_to(way) as (client, _):
        stream = await client.chat.completions.create(
            model="sim", messages=MESSAGES, stream=True, extra_headers=fault("error-event,after-events=2")
        )
        with pytest.raises(openai.APIError, match="EngineCore"):
            await drain(stream, [])


@both_ways
async def test_an_engine_that_dies_before_its_answer(way: Way) -> None:
    async with client_to(way) as (client, _):
        with pytest.raises(openai.APIError) as caught:
            await client.chat.completions.create(model="sim", messages=MESSAGES, extra_headers=fault("close-in-head=20"))
    if way == "gateway":
        assert isinstance(caught.value, openai.InternalServerError)
        assert caught.value.status_code == 502
        assert caught.value.type == "upstream_error"
