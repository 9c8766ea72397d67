"""What the members of an answer mean that say what it has used: one table for every API, read by both twins of ``usage``.

Engines count under the names of the API that they speak, and each name means the same wherever it is met; so the table is
by name, and not by endpoint. docs/limits.md has it in words. Invariant: a member that is not in the table, or stands
elsewhere, says nothing.
"""

from __future__ import annotations

from typing import Final, NamedTuple

# Where a member may stand: in the answer itself (or an event's data), in an object that wraps the answer, in what Cohere has
# for it, among the counts, in what they are made of, among llama.cpp's timings.
ANSWER, WRAPPED, META, USAGE, PROMPT_PARTS, ANSWER_PARTS, TIMINGS = range(7)

# Whose counts they are, the first that says anything before all others: the answer's own, those of the answer that an event
# repeats (Responses) or begins with (Messages), Cohere's two, and what llama.cpp has measured.
OWN, RESPONSE, MESSAGE, TOKENS, BILLED, TIMED = range(6)
PLACES: Final = 6

# What is counted.
PROMPT, COMPLETION, INPUT, OUTPUT, TOTAL, CACHE_READ, CACHE_WRITTEN, SECONDS = range(8)
PROMPT_CACHED, INPUT_CACHED, COMPLETION_THOUGHT, OUTPUT_THOUGHT, THOUGHT = range(8, 13)
COUNTS: Final = 13

DIGITS: Final = 12  # of a count, at most
NUMBER_BYTES: Final = 32  # of one that is read
NAME_BYTES: Final = 192  # of a name that is read: the longest one, each letter as an escape
MAX_DEPTH: Final = 512
QUICK_BYTES: Final = 1024  # the end of an answer up to this size is looked at alone, first
WORDS_BYTES: Final = 1024  # of what an error says: more of it than that is nobody's code
WORD_BYTES: Final = 64  # of each text in it
MOST_NAMES: Final = 64  # that are in the table, or could be by an escape, are looked at; an honest answer has twenty


# What a member tells that is no count, unless it is empty: that there was an error, of which type, or that there is an answer.
FAILED, FAILED_SO, ANSWERED = range(1, 4)


class Member(NamedTuple):
    """A member that says something: where it stands, its name, and the count that it is, what it opens, or what it tells."""

    where: int
    name: bytes
    slot: int = -1
    opens: int = -1
    place: int = -1  # whose counts are in what it opens; -1 = as around it
    tells: int = 0  # as one of these


MEMBERS: Final = (
    Member(ANSWER, b"usage", opens=USAGE, place=OWN),
    Member(ANSWER, b"timings", opens=TIMINGS, place=TIMED),
    Member(ANSWER, b"response", opens=WRAPPED, place=RESPONSE, tells=ANSWERED),  # (an object is an event's)
    Member(ANSWER, b"message", opens=WRAPPED, place=MESSAGE),
    Member(ANSWER, b"meta", opens=META),
    Member(ANSWER, b"error", tells=FAILED),
    Member(ANSWER, b"error_type", tells=FAILED_SO),  # TGI
    Member(ANSWER, b"choices", tells=ANSWERED),
    Member(ANSWER, b"content", tells=ANSWERED),
    Member(ANSWER, b"data", tells=ANSWERED),
    Member(ANSWER, b"generated_text", tells=ANSWERED),
    Member(ANSWER, b"meta_info", tells=ANSWERED),
    Member(ANSWER, b"output", tells=ANSWERED),
    Member(ANSWER, b"results", tells=ANSWERED),
    Member(ANSWER, b"segments", tells=ANSWERED),
    Member(ANSWER, b"text", tells=ANSWERED),
    Member(WRAPPED, b"usage", opens=USAGE),
    Member(WRAPPED, b"error", tells=FAILED),  # the response that an event repeats has failed
    Member(META, b"tokens", opens=USAGE, place=TOKENS),
    Member(META, b"billed_units", opens=USAGE, place=BILLED),
    Member(USAGE, b"prompt_tokens", PROMPT),
    Member(USAGE, b"completion_tokens", COMPLETION),
    Member(USAGE, b"input_tokens", INPUT),
    Member(USAGE, b"output_tokens", OUTPUT),
    Member(USAGE, b"total_tokens", TOTAL),
    Member(USAGE, b"cache_read_input_tokens", CACHE_READ),
    Member(USAGE, b"cache_creation_input_tokens", CACHE_WRITTEN),
    Member(USAGE, b"seconds", SECONDS),
    Member(USAGE, b"reasoning_tokens", THOUGHT),  # SGLang
    Member(USAGE, b"prompt_tokens_details", PROMPT_CACHED, PROMPT_PARTS),
    Member(USAGE, b"input_tokens_details", INPUT_CACHED, PROMPT_PARTS),
    Member(USAGE, b"input_token_details", INPUT_CACHED, PROMPT_PARTS),  # the Realtime API, and transcriptions
    Member(USAGE, b"output_token_details", OUTPUT_THOUGHT, ANSWER_PARTS),
    Member(USAGE, b"completion_tokens_details", COMPLETION_THOUGHT, ANSWER_PARTS),
    Member(USAGE, b"output_tokens_details", OUTPUT_THOUGHT, ANSWER_PARTS),
    Member(PROMPT_PARTS, b"cached_tokens"),
    Member(ANSWER_PARTS, b"reasoning_tokens"),
    # llama.cpp leaves out of `prompt_n` what its cache had, as Anthropic does.
    Member(TIMINGS, b"prompt_n", INPUT),
    Member(TIMINGS, b"cache_n", CACHE_READ),
    Member(TIMINGS, b"predicted_n", OUTPUT),
)
"""(A count in parts is that of the member which they are: they say which part it is, and that which count.)"""

ANSWERS: Final = frozenset(one.name.decode() for one in MEMBERS if one.tells == ANSWERED)
"""What there is of an answer, in whatever API."""

EMPTY_WORDS: Final = frozenset((b"null", b"false", b"0"))
"""Values that tell of nothing, beside texts, lists and objects with nothing in them: engines write them for no error."""

TOKENS_PER_SECOND: Final = 10
"""Of audio, where an engine tells its length alone: an estimate."""


def meaning(counts: list[int]) -> tuple[int, int, int, int]:
    """(prompt, completion, cached, reasoning) of one place's counts, -1 = not said.

    The prompt has what came from a cache in it, the completion what nobody sees of it.
    """
    completion = counts[COMPLETION] if counts[COMPLETION] >= 0 else counts[OUTPUT]
    prompt = counts[PROMPT]
    if prompt < 0 and counts[INPUT] >= 0:
        # What is named beside the input is not in it; in its details it would be.
        prompt = counts[INPUT] + max(counts[CACHE_READ], 0) + max(counts[CACHE_WRITTEN], 0)
    total = counts[TOTAL]
    if total >= 0:
        if prompt < 0:
            prompt = max(total - max(completion, 0), 0)
        if completion < 0:
            completion = max(total - prompt, 0)
    cached = counts[PROMPT_CACHED]
    if cached < 0:
        cached = counts[INPUT_CACHED] if counts[INPUT_CACHED] >= 0 else counts[CACHE_READ]
        if cached < 0 <= counts[CACHE_WRITTEN]:
            cached = 0
    reasoning = counts[COMPLETION_THOUGHT]
    if reasoning < 0:
        reasoning = counts[OUTPUT_THOUGHT] if counts[OUTPUT_THOUGHT] >= 0 else counts[THOUGHT]
    if total >= 0 and reasoning > 0 and total == prompt + completion + reasoning:
        completion += reasoning  # it is told beside the completion (xAI, Gemini)
    return prompt, completion, cached, reasoning
