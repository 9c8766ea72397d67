"""Retries by policy (S2): what is never sent twice, what is once more, and what is carried no further."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from tests.conversations.engine_row import BACK_PRESSURE, fine, row, status
from tests.support.byhand.engine import HandStream, Play
from tests.support.conversation import kills, silent
from tests.support.requests import chat, request
from tests.support.scripts import EVENT, SSE_HEAD, chunk


class TestNeverTwice:
    """What may have reached a client, or has gone out of our hands, is not repeated, whatever is configured."""

    SETTINGS: ClassVar[dict[str, Any]] = {
        "retry_statuses": BACK_PRESSURE,
        "retry_fresh": True,
        "max_retries": 5,
        "quarantine_after": 0,
    }

    @pytest.mark.parametrize("how", ["fin", "reset"])
    def test_S2_nothing_after_the_first_byte_of_a_stream(self, how: Any) -> None:
        with row(lambda asked: asked.says(SSE_HEAD + chunk(EVENT)).closes(how), fine, **self.SETTINGS) as talk:
            answer = talk.ask(chat(stream=True))
            assert answer.status == 200
            assert not answer.complete
            assert b"[DONE]" not in answer.body
            assert talk.asked == [1, 0]

    def test_S2_nothing_after_half_a_head(self) -> None:
        with row(lambda asked: asked.says(b"HTTP/1.1 200 OK\r\ncontent-ty").closes(), fine, **self.SETTINGS) as talk:
            answer = talk.ask(chat())
            assert (answer.status, answer.error["code"]) == (502, "bad_gateway")
            assert talk.asked == [1, 0]

    @pytest.mark.parametrize(("failure", "seen"), [(status(503), 503), (kills, 502)], ids=["503", "dies"])
    def test_S2_no_upload_that_has_begun(self, failure: Play, seen: int) -> None:
        head, part, _ = upload()
        with row(silent, fine, **self.SETTINGS) as talk:
            client = talk.client().says(head + part)
            assert not talk.engines[0].last.whole
            failure(talk.engines[0].last)
            client.sees(seen)
            assert (talk.asked, talk.stats.retries_total) == ([1, 0], 0)

    def test_S2_an_upload_that_is_all_here_goes_again_as_it_came(self) -> None:
        head, part, rest = upload()
        with row(status(503), fine, **self.SETTINGS) as talk:
            assert talk.ask(head + part + rest).status == 200
            assert talk.asked == [1, 1]
            assert talk.engines[0].last.body == talk.engines[1].last.body == part + rest


def upload() -> tuple[bytes, bytes, bytes]:
    """(head, the first part with the model, the file) of a transcription."""
    part = b'--xx\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n--xx\r\n'
    rest = (
        b'content-disposition: form-data; name="file"; filename="a.wav"\r\ncontent-type: audio/wav\r\n\r\n'
        + bytes(range(256)) * 8
        + b"\r\n--xx--\r\n"
    )
    kind = [("Content-Type", "multipart/form-data; boundary=xx")]
    whole = request("POST", "/v1/audio/transcriptions", headers=kind, body=part + rest)
    return whole[: -len(part + rest)], part, rest


class TestFresh:
    """``retry_fresh``: a connection that died, or stayed silent, under the whole request."""

    @pytest.mark.parametrize(("play", "failures"), [(kills, 1), (silent, 1)], ids=["dies", "silent"])
    def test_S2_it_goes_to_the_next_engine(self, play: Play, failures: int) -> None:
        with row(play, fine, retry_fresh=True, first_byte_timeout_s=3.0) as talk:
            assert talk.ask(chat()).status == 200
            assert talk.asked == [1, 1]
            assert talk.engines[0].engine.failures_total == failures

    @pytest.mark.parametrize(("policy", "asked"), [("ordered", 2), ("round_robin", 1)])
    def test_S2_by_itself_only_in_an_ordered_list(self, policy: str, asked: int) -> None:
        with row(kills, kills, policy=policy, retry_fresh=None, quarantine_after=0) as talk:
            assert talk.ask(chat()).status == 502
            assert sum(talk.asked) == asked


class TestQuarantine:
    """A request that kills the engine that serves it is not carried from one to the next."""

    SETTINGS: ClassVar[dict[str, Any]] = {"retry_fresh": True, "max_retries": 5}

    def test_S2_after_two_engines_it_is_told_why_and_the_third_never_sees_it(self) -> None:
        with row(kills, kills, fine, **self.SETTINGS) as talk:
            answer = talk.ask(chat())
            assert (answer.status, answer.error["type"]) == (422, "invalid_request_error")
            assert answer.error["code"] == "request_quarantined"
            assert "lost its connection" in answer.error["message"]
            assert answer.header("x-should-retry") == "false"
            assert talk.asked == [1, 1, 0]
            assert talk.stats.quarantined == 1
            [record] = talk.records
            assert (record["status"], record["error"]) == (422, "request_quarantined")
            assert talk.engines[1].engine.name in record["detail"]

    def test_S2_other_requests_go_on_meanwhile(self) -> None:
        def picky(asked: HandStream) -> None:
            (kills if b"poison" in asked.body else fine)(asked)

        with row(picky, picky, picky, **self.SETTINGS) as talk:
            contents = ["poison" if at % 5 == 0 else "bread" for at in range(25)]
            clients = [talk.client().says(chat(content=content)) for content in contents]
            talk.passes(1.0)
            assert [one.seen.status for one in clients] == [422 if content == "poison" else 200 for content in contents]
            assert talk.asked[2] == 0
            assert talk.stats.quarantined == 5

    @pytest.mark.parametrize(
        ("after", "wanted", "asked"), [(1, 422, [1, 0, 0, 0]), (3, 422, [1, 1, 1, 0]), (0, 200, [1, 1, 1, 1])]
    )
    def test_S2_as_many_kills_as_are_configured(self, after: int, wanted: int, asked: list[int]) -> None:
        with row(kills, kills, kills, fine, quarantine_after=after, **self.SETTINGS) as talk:
            assert talk.ask(chat()).status == wanted
            assert talk.asked == asked

    def test_S2_silence_and_refusals_are_no_kills(self) -> None:
        with row(silent, silent, fine, fine, first_byte_timeout_s=0.5, **self.SETTINGS) as talk:
            talk.engines[2].dial = "refused"
            assert talk.ask(chat()).status == 200
            assert talk.asked == [1, 1, 0, 1]

    def test_S2_an_idle_connection_that_was_dead_already_is_no_kill(self) -> None:
        """The engine tidies up between two requests: the second is replayed, and no verdict falls."""

        def once(asked: HandStream) -> None:
            """One answer for each connection."""
            (kills if asked.kept_before else fine)(asked)

        with row(once, quarantine_after=1, retry_fresh=True) as talk:
            client = talk.client()
            for _ in range(4):
                client.says(chat()).sees(200)
            assert talk.stats.replays_total == 3
            assert (talk.stats.quarantined, talk.engines[0].engine.failures_total) == (0, 0)

    def test_a_repeated_request_takes_only_new_connections(self) -> None:
        """Two engines restart at once: what met a dead connection at the first does not meet another at the second."""
        with row(fine, fine, policy="round_robin") as talk:
            client = talk.client()
            for _ in range(2):  # an idle connection to each
                client.says(chat()).sees(200)
            first, second = talk.engines
            assert (first.parked, second.parked) == (1, 1)
            first.play, first.dial = kills, "refused"
            second.play = lambda asked: kills(asked) if asked.kept_before else fine(asked)
            client.says(chat()).sees(200)
            assert (talk.stats.replays_total, talk.stats.failovers_total) == (1, 1)
