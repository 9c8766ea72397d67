"""Made-up JSON for whoever reads a peer's bytes: texts that are all of one kind of token.

Brackets, empty strings, escapes, digits, colons, commas, blanks, names that come again, nesting, and near misses of each word
that is searched for. All of them are functions of a size, and nothing in them is random that a fixed seed does not bring back.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator

Shapes = Iterator[tuple[str, bytes]]


def filled(unit: bytes, size: int, head: bytes = b"", tail: bytes = b"") -> bytes:
    """``head``, as many of ``unit`` as fit, ``tail``."""
    return head + unit * max(1, (size - len(head) - len(tail)) // len(unit)) + tail


def mixed(units: tuple[bytes, ...], size: int, head: bytes = b"", tail: bytes = b"") -> bytes:
    """The same of several units in an order that no branch can learn."""
    chance = random.Random(len(units))
    block = b"".join(chance.choices(units, k=20_000))
    room = max(0, size - len(head) - len(tail))
    if len(block) >= room:
        out, have = [], 0
        for unit in chance.choices(units, k=room):
            have += len(unit)
            if have > room:
                break
            out.append(unit)
        return head + b"".join(out) + tail
    return head + block * (room // len(block)) + tail


VALUES = (b"0", b'""', b"[]", b"{}", b"1.5", b"-0", b"1e9", b'"a"', b"null", b"true", b'{"":0}', b"[[]]", b" 0 ", b'"\\n"',
    b"[0,0]", b'"\\u0041"', '"\u00e9"'.encode(), b'[{"":[]}]', b'{"usage":{}}', b'"\\\\"', b'"usage"',
    b'"' + b"\\\\\\b" * 20 + b'"')  # fmt: skip


def values(size: int, opens: bytes, closes: bytes) -> Shapes:
    """A list, dense in each token, between ``opens`` and ``closes``."""
    for value in VALUES:
        yield f"list of {value!r}", filled(value + b",", size, opens + b"[", b"0]" + closes)
    yield "list of all", mixed(tuple(value + b"," for value in VALUES), size, opens + b"[", b"0]" + closes)
    yield "list of small", mixed((b"0,", b'"",', b"[],", b"{},", b"1,", b'"a",', b"[0],"), size, opens + b"[", b"0]" + closes)
    yield "digits", filled(b"1", size, opens, closes)
    yield "fraction", filled(b"1", size, opens + b"1.", closes)
    yield "blanks", filled(b" ", size, opens, b"1" + closes)
    yield "line ends", filled(b"\r\n", size, opens, b"1" + closes)
    yield "long text", filled(b"x", size, opens + b'"', b'"' + closes)
    yield "quotes in text", filled(b'\\"', size, opens + b'"', b'"' + closes)
    yield "slashes in text", filled(b"\\\\", size, opens + b'"', b'"' + closes)
    yield "escapes in text", mixed((b"\\n", b"\\u00e9", b"a", b"\\ud83d\\ude00", b"bb"), size, opens + b'"', b'"' + closes)
    wide = tuple(text.encode() for text in ("a", "\u00e9", "\u4f60", "\U0001f600", "bc"))
    yield "wide text", mixed(wide, size, opens + b'"', b'"' + closes)
    yield "brackets in text", filled(b"[{", size, opens + b'"', b'"' + closes)
    yield "up and down", filled(b"[" * 40 + b"]" * 40 + b",", size, opens + b"[", b"0]" + closes)
    downs = (b"[[[[]]]],", b"[],", b"[[]],", b'{"":[{}]},', b"[{},{}],")
    yield "down at random", mixed(downs, size, opens + b"[", b"0]" + closes)


def members(size: int, opens: bytes = b"{", closes: bytes = b"}") -> Shapes:
    """An object, dense in members."""

    def made(member: Callable[[int], bytes]) -> bytes:
        out, have, at = [], len(opens) + len(closes), 0
        while have < size:
            out.append(member(at))
            have += len(out[-1]) + 1
            at += 1
        return opens + b",".join(out) + closes

    yield "one name", made(lambda at: b'"a":1')
    yield "one name, other values", made(lambda at: b'"a":%d' % at)
    yield "many names", made(lambda at: b'"%x":1' % at)
    yield "many names, blanks", made(lambda at: b' "%x" : 1 ' % at)
    yield "many names, one escaped", made(lambda at: b'"%x":1' % at if at else b'"\\u0061b":1')
    yield "many escaped names", made(lambda at: b'"\\u0061%x":1' % at)
    yield "one escaped name", made(lambda at: b'"\\u0061":1')
    yield "wide names", made(lambda at: f'"\u00e9{at}":1'.encode())
    yield "long names", made(lambda at: b'"%b%d":1' % (b"n" * 300, at))
    yield "no names", made(lambda at: b'"":1')
    yield "lists", made(lambda at: b'"%x":[[]]' % at)
    yield "upper case", made(lambda at: b'"MODE%x":1' % at)
    yield "almost known", made(lambda at: b'"mode%x":"model"' % at)


NEAR_MISSES = (b'"model"', b'"stream"', b'"stream_options"', b'"include_usage"', b'"usage"', b'"prompt"')


def own_bodies(size: int) -> Shapes:
    """Request bodies in the APIs that are an engine's own, where these look for figures and for prompts."""
    for where, opens, closes in (
        ("options", b'{"model":"m","prompt":"a","options":', b"}"),
        ("a figure", b'{"model":"m","prompt":"a","options":{"num_predict":', b"}}"),
        ("parameters", b'{"text":"a","inputs":"a","parameters":', b"}"),
        ("parameters of each", b'{"text":["a"],"sampling_params":[{"n":', b"}]}"),
        ("vectors", b'{"text":"a","input_embeds":[[[1]],', b"]}"),
    ):
        for name, data in values(size, opens, closes):
            yield f"{name}, as {where}", data
    for name, data in members(size, b'{"text":"a","sampling_params":{'):
        yield name + ", in parameters", data + b"}"


def bodies(size: int) -> Shapes:
    """Request bodies, good and bad."""
    head = b'{"model":"m","max_tokens":5,"stream":true,"stream_options":{"include_usage":false},"x":'
    yield from values(size, head, b"}")
    for name, data in values(size, head, b"]"):
        yield name + ", then wrong", data
    for name, data in values(size, head, b',"y":"\xff"}'):
        yield name + ", then no text", data
    for name, data in values(size, b'{"model":"m","max_tokens":5.0,"stream_options":{"x":', b"}}"):
        yield name + ", odd", data
    for name, data in values(size, b'{"prompt":', b',"max_tokens":"5"}'):
        yield name + ", of a wrong type", data
    for name, data in values(size, b'{"max_tokens":', b',"model":"m"}'):
        yield name + ", where a number belongs", data
    for name, data in values(size, b'{"model":', b"}"):
        yield name + ", where a name belongs", data
    yield from members(size, b'{"model":"m",')
    for name, data in members(size, b'{"model":"m","mode\\u006c2":1,"b":1,"b":1,'):
        yield name + ", one twice", data
    for name, data in members(size, b'{"model":"m","stream":true,"stream_options":{'):
        yield name + ", in the options", data + b"}"
    for name, data in members(size, b'{"model":"m","x":{'):
        yield name + ", in another", data + b"}"
    for name, data in values(size, b'{"messages":[{"content":[{"source":{"type":"base64"},"image_url":', b'}]}],"model":"m"}'):
        yield name + ", where a picture belongs", data
    for name, data in values(size, b'{"model":"m","n_predict":', b"}"):
        yield name + ", where another limit belongs", data
    for name, data in values(size, b'{"model":"m","max_tokens":5,"input":[', b"]}"):
        yield name + ", where numbers of tokens belong", data
    for name, data in members(size, b'{"model":"m","options":{'):
        yield name + ", in an engine's options", data + b"}"
    parts = (b'{"image_url":{"url":"x"}},', b'{"source":{}},', b'{"ur\\u006c":1},', b'"_url",', b'{"input_audio":{"data":""}},')
    for word in parts:
        yield f"parts of {word!r}", filled(word, size, b'{"model":"m","messages":[{"content":[', b"1]}]}")
    for word in (
        b'{"image_url":"%b"},' % (b"x" * 390),
        b'{"source":{"type":"base64","media_type":"image/x","data":"%b"}},' % (b"A" * 360),
        b'{"a":[[[[[[]]]]]]},', b'{"source":{"a":1,"b":2,"c":3}},' + b'{"x":0},' * 48, b'"x y",', b'{"conte nt":1},',
        b'{"content":[{"source":{}}]},', b"[" * 20 + b"]" * 20 + b",",
    ):
        tail = b'{"image_url":{"url":"data:image/png;base64,AAAA"}}]}]}'
        yield f"a picture behind {word[:25]!r}", filled(word, size, b'{"model":"m","messages":[{"content":[', tail)
    for name in (b"query", b"documents", b"input", b"prompt"):
        for word in (b'"",', b'"a",', b"1,", b"[],", b"{},", b'{"a":"b"},', b'"\\",'):
            head = b'{"model":"m","text_1":["a"],"texts":["a"],"%b":[' % name
            yield f"{name!r} of {word!r}", filled(word, size, head, b'"a"]}')
    yield "include_usage", filled(b'"include_usage":true,', size, b'{"model":"m","stream_options":{', b'"a":1}}')
    asked = b'1],"model":"m","stream":true,"stream_options":{}}'
    for word in NEAR_MISSES:
        yield f"texts of {word!r}", filled(json.dumps(word.decode()).encode() + b",", size, b'{"x":[', asked)
        yield f"names of {word!r}", filled(b"{%b:{}}," % word, size, b'{"x":[', asked)
    yield "opening", filled(b"[", size)
    yield "opening names", filled(b'{"a":', size)
    yield "closing", filled(b"]", size)
    yield "opening, one level too few", filled(b"[" * 62 + b"]" * 62 + b",", size, b'{"a":[', b"0]")
    yield "quotes", filled(b'"', size)
    yield "nothing but slashes", filled(b"\\", size)
    yield "zeros", filled(b"\x00", size)
    yield "no text", filled(b"\xff", size)
    yield "blanks alone", filled(b" ", size)
    yield "colons", filled(b":", size)
    yield "commas", filled(b",", size)


def embeddings(size: int) -> Shapes:
    """Requests to embed something."""
    for name, data in values(size, b'{"input":', b',"model":"m"}'):
        yield name, data
    for name, data in values(size, b'{"input":["a"],"x":', b"}"):
        yield name + ", beside", data
    for name, data in values(size, b'{"input":["a",', b'],"model":"m"}'):
        yield name + ", within", data
    yield from members(size, b'{"input":"a",')
    yield "tokens", filled(b"1,", size, b'{"input":[', b"1]}")
    yield "lists of tokens", filled(b"[1],", size, b'{"input":[', b"[1]]}")
    yield "short texts", filled(b'"ab",', size, b'{"input":[', b'"c"]}')


def vectors(size: int) -> Shapes:
    """Answers of an engine that was to embed eight inputs."""
    for name, data in values(size, b'{"data":', b"}"):
        yield name, data
    for name, data in values(size, b'{"data":[{"index":0,"embedding":', b"}]}"):
        yield name + ", as a vector", data
    for name, data in values(size, b'{"data":[],"usage":', b"}"):
        yield name + ", as usage", data
    for name, data in members(size, b'{"data":[{"index":0,'):
        yield name + ", of an item", data + b"]}"
    for name, data in members(size, b'{"data":[{"index":0,"embedding":1}],"usage":{'):
        yield name + ", of usage", data + b"}"
    yield from members(size)
    yield "items", filled(b"{},", size, b'{"data":[', b"{}]}")
    yield "good items", filled(b'{"index":0,"embedding":[]},', size, b'{"data":[', b"{}]}")
    yield "usage in usage", filled(b'"a":{"a":{"a":{}}},', size, b'{"data":[],"usage":{', b'"b":1}}')


def model_lists(size: int) -> Shapes:
    """Lists of models."""
    for name, data in values(size, b'{"data":', b"}"):
        yield name, data
    for name, data in values(size, b"", b""):
        yield name + ", bare", data
    yield from members(size)
    for name, data in members(size, b'{"data":[{'):
        yield name + ", of a model", data + b"]}"
    yield "short ids", filled(b'{"id":"a"},', size, b'{"data":[', b'{"id":"b"}]}')
    yield "ids", b'{"data":[' + b",".join(b'{"id":"%x"}' % at for at in range(size // 14)) + b"]}"
    yield "no ids", filled(b'{"id":null},', size, b'{"data":[', b'{"id":"b"}]}')
    yield "texts", b"[" + b",".join(b'"%x"' % at for at in range(size // 7)) + b"]"


def answers(size: int) -> Shapes:
    """Answers that may say their usage."""
    for name, data in values(size, b'{"usage":{"x":', b"}}"):
        yield name, data
    for name, data in values(min(size, 8000), b'{"usage":{"x":', b""):
        yield name + ", open", data
    for name, data in members(min(size, 8000), b'{"usage":{'):
        yield name, data + b"}"
    for name, data in members(min(size, 8000), b'{"usage":{"prompt_tokens":1.5,'):
        yield name + ", odd", data + b"}"
    for unit in (b'"usage":', b'"usage":{', b'\\"usage":{', b'"usage"', b'sage"', b'"usagf"', b'"', b"e", b"g", b"[", b"}",
        b'"prompt_tokens":1,'):  # fmt: skip
        yield f"all {unit!r}", filled(unit, size)
        yield f"{unit!r} in usage", filled(unit, min(size, 8000), b'{"usage":{')
