"""Pictures and recordings in a request's body: how many of its bytes they are, and how many tokens.

For the Python twin of ``bodies``; the compiled one finds them in its own pass, with the constants that stand here. Invariant:
linear in the bytes, and an object only for what may be a picture.
"""

from __future__ import annotations

from typing import Final

import msgspec

from fastgw.accel.brackets import deepest, outside
from fastgw.accel.members import MANY, ONES
from fastgw.late import late

IMAGE_TOKENS: Final = 1000
"""What an image is taken for, however small its file is: engines make hundreds of tokens of a single pixel."""
SOUND_BYTES_PER_TOKEN: Final = 256
"""Of sound, and of video: MP3 of 64 kbit/s in base64 is about forty tokens a second, which is what models make of it."""

FEW_VALUES: Final = 24
VALUE_EACH: Final = 400
"""More values than those few, and one in so many bytes, that may be a picture are so small that what they are made of is of no
weight beside what they count as."""
DEEPEST: Final = 24
"""So deep may that nest in which a picture is told from a text."""

# Where a picture or a recording may stand, and nothing else may: any other object or list is OTHER.
OTHER, MESSAGES, MESSAGE, ITEMS, ITEM, PARTS, PART, IMAGE, SOUND, PROMPT_LIST, PROMPT_OBJECT = range(11)
ROOTS: Final = {
    "messages": MESSAGES,
    "input": ITEMS,
    "prompt": PROMPT_LIST,
    **dict.fromkeys((*ONES, *MANY), PARTS),
}

MOST_SOURCE_MEMBERS: Final = 16
"""A ``source`` has four."""

# In a text without blanks, in which no quote is escaped: values that may be one, by their keys.
IMAGE_URL, URL, PICTURE, DATA, SOURCE, MEDIA, ESCAPED = range(1, 8)
_HOLDS: Final = late(rb'_url"|"source"|"input_audio"|"image"|"multimodal_data"|\\u')
_MAY_BE: Final = late(
    rb'"(?:image_url":"([^"]*+)"|url":"([^"]*+)"|image":"([^"]*+)"|data":"([^"]*+)"'
    rb'|source":\{((?:"[^"]*+":(?:"[^"]*+"|[^"\[\]{},]*+),?+)*+)\}|multimodal_data":\[((?:"[^"]*+",?+)*+)\]|((?:[^"\\]++|\\[^u"])*+\\u[^"]*+)":)'
)
_MAY_HOLD: Final = late(rb'_url":|"source":\{|"image":"|"(?:[^"\\]++|\\[^u"])*+\\u[^"]*+":')
_MARK: Final = b"\2"
_OPENINGS: Final = (
    (b'"content":[', b"\3"),
    (b'"output":[', b"\3"),
    (b'"output":{', b"\4"),
    (b'"image_url":{', b"\5"),
    (b'"input_audio":{', b"\6"),
    (b'"audio_url":{', b"\6"),
    (b'"video_url":{', b"\6"),
)
_INNER: Final = {
    (MESSAGES, 123): MESSAGE,
    (ITEMS, 123): ITEM,
    (PARTS, 123): PART,
    (PROMPT_LIST, 123): PROMPT_OBJECT,
    (MESSAGE, 3): PARTS,
    (ITEM, 3): PARTS,
    (ITEM, 4): PART,
    (PART, 3): PARTS,
    (PART, 5): IMAGE,
    (PART, 6): SOUND,
}
_SOURCE_MEMBER: Final = late(rb'"([^"]*+)":(?:"([^"]*+)"|[^",]*+)')
_NOT_MARKS: Final = bytes(c for c in range(256) if c not in b'[]{}"\2\3\4\5\6')
_CLOSED: Final = bytes.maketrans(b"}", b"]")
_TO_OPEN: Final = bytes.maketrans(b"{\3\4\5\6", b"[[[[[")


def attached_in(value: bytes | msgspec.Raw, state: int) -> tuple[int, int]:
    """Bytes of the value ``value`` that are pictures and recordings, and how many tokens those are. ``state``: one of
    :data:`ROOTS`, what it is. (Blanks are no part of a picture, nor of a name.)

    One counts as such only where no engine takes a text: ``url`` of ``image_url`` and its like, ``data`` of ``input_audio``, or
    of a ``source`` that says of itself to be an image in base64, each in a part of a message's content. Where so many values
    may be one that their bytes are of no weight, all is text, and each picture that may be there is one as well; and what nests
    deeper than anything that has a picture in it is all text.
    """
    text = bytes(value)
    if text[:1] not in (b"[", b"{"):
        return 0, 0
    most = FEW_VALUES + len(text) // VALUE_EACH
    text = text.translate(None, b" \t\r\n")
    if not _HOLDS().search(text):
        return 0, 0
    if b"\\" in text:
        text = text.replace(b"\\\\", b"\1\1").replace(b'\\"', b"\1\1")
    # What may matter is cut out, and a mark left there; of the rest only the brackets are kept, those that matter as others.
    found: list[tuple[int, int, bytes]] = []
    between: list[bytes] = []
    done = 0
    for match in _MAY_BE().finditer(text):
        if len(found) == most:
            return 0, _roughly(text)
        kind = match.lastindex or 0
        start, end = match.span(kind)
        found.append((kind, end - start, text[start : min(end, start + 11)] if kind < SOURCE else text[start:end]))
        between.append(text[done : match.start()])
        done = match.end()
    between.append(text[done:])
    text = _MARK.join(between)
    for opening, mark in _OPENINGS:
        text = text.replace(opening, mark)
    marks = outside(text.translate(_CLOSED, _NOT_MARKS).replace(b'""', b""))
    if deepest(marks.translate(_TO_OPEN, _MARK)) > DEEPEST:
        return 0, _roughly(text)
    size = 0
    while size != len(marks):
        size = len(marks)
        marks = marks.replace(b"[]", b"").replace(b"{]", b"")
        if len(marks) == size:
            for _, mark in _OPENINGS:
                marks = marks.replace(mark + b"]", b"")
    return _counted(marks, found, state)


def _counted(marks: bytes, found: list[tuple[int, int, bytes]], state: int) -> tuple[int, int]:
    """What ``found`` counts as, by where it stands among the brackets."""
    attached = tokens = 0
    stack = [OTHER]
    values = iter(found)
    for mark in marks:
        if mark == 93:
            stack.pop()
            continue
        state_now = stack[-1]
        if mark != 2:
            stack.append(_inner(state_now, mark) if len(stack) > 1 else _root(state, mark))
            continue
        key, size, lead = next(values)
        if key == ESCAPED:
            if state_now != OTHER:
                tokens += IMAGE_TOKENS  # spelt by nobody who is not hiding one
        elif key == MEDIA:
            if state_now == PROMPT_OBJECT:
                for one in lead.split(b'"')[1::2]:
                    attached += len(one)
                    tokens += max(IMAGE_TOKENS, len(one) // SOUND_BYTES_PER_TOKEN)
        elif (
            (key == URL and state_now == IMAGE)
            or (key == IMAGE_URL and state_now == PART)
            or (key == PICTURE and state_now in (PART, ITEM))
        ):
            tokens += IMAGE_TOKENS
            if lead.startswith(b"data:image"):
                attached += size
        elif state_now == SOUND:
            if key == URL and not lead.startswith(b"data:"):
                tokens += IMAGE_TOKENS
            elif (key == URL and lead.startswith((b"data:audio", b"data:video"))) or key == DATA:
                attached += size
                tokens += size // SOUND_BYTES_PER_TOKEN + 1
        elif key == SOURCE and state_now == PART:
            some, more = _source(lead)
            attached += some
            tokens += more
    return attached, tokens


def _source(text: bytes) -> tuple[int, int]:
    """The same of what the members ``text`` of a ``source`` say."""
    tokens = data = kind = 0
    for at, match in enumerate(_SOURCE_MEMBER().finditer(text)):
        if at == MOST_SOURCE_MEMBERS:
            return 0, IMAGE_TOKENS * at
        key, value = match[1], match[2] or b""
        if b"\\u" in key:
            tokens += IMAGE_TOKENS
            kind = -1
        elif key == b"data":
            data += len(value)
        elif key == b"url":
            tokens += IMAGE_TOKENS
        elif key == b"type":
            kind = kind | 1 if kind >= 0 and value == b"base64" else -1
        elif key == b"media_type":
            kind = kind | 2 if kind >= 0 and value.startswith(b"image") else -1
    if not data or kind < 1 or kind == 2:
        return 0, tokens
    return data if kind == 3 else 0, tokens + IMAGE_TOKENS  # (there are engines to which one in base64 is an image anyway)


def _roughly(text: bytes) -> int:
    """Tokens of so many pictures as may be there at most."""
    pictures = len(_MAY_HOLD().findall(text))
    if b'"multimodal_data"' in text:
        pictures += text.count(b'"') // 2
    return IMAGE_TOKENS * pictures


def _root(state: int, mark: int) -> int:
    if mark == 91:
        return state
    return {PARTS: PART, PROMPT_LIST: PROMPT_OBJECT}.get(state, OTHER) if mark == 123 else OTHER


def _inner(state: int, mark: int) -> int:
    """What a list or an object is that opens in a ``state``."""
    return _INNER.get((state, mark), OTHER)
