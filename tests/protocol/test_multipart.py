"""Uploads: the model is found wherever its part stands, nothing else is kept, and what two readers could read differently is
refused. Rows, each in every way in which its bytes can arrive.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.errors import GatewayError
from fastgw.protocol.form_heads import MAX_PART_HEAD_BYTES, MAX_PART_HEADER_LINES
from fastgw.protocol.multipart import MAX_FIELD_BYTES, ModelField
from tests.protocol.forms import END, MODEL, RECORDED, TYPE, UPLOAD, field, part
from tests.protocol.splits import cut, ways

PARTS = 128
FILE = b'Content-Disposition: form-data; name="file"; filename="a.wav"'
HELD_BYTES = MAX_PART_HEAD_BYTES + 3

# What is known after some bytes: the model and where it stands, the stream, the end; or the refusal.
State = tuple[object, ...]


def refusal(error: GatewayError) -> State:
    return error.kind.name, error.message, error.param


def course(pieces: list[bytes], content_type: bytes = TYPE, parts: int = PARTS) -> list[State]:
    """What is known after each piece, up to the first refusal."""
    reader = ModelField(content_type, parts)
    states: list[State] = []
    for piece in pieces:
        try:
            reader.feed(piece)
        except GatewayError as error:
            return [*states, refusal(error)]
        assert reader.held <= HELD_BYTES
        states.append((reader.model, reader.model_span, reader.stream, reader.done))
    return states


def verdict(body: bytes, content_type: bytes = TYPE, needed: bool = True, parts: int = PARTS) -> State:
    """What is known of a whole body: (model, stream), or the refusal."""
    reader = ModelField(content_type, parts)
    try:
        reader.feed(body)
        reader.finish(needed)
    except GatewayError as error:
        return refusal(error)
    if reader.model_span is not None and reader.model is not None:
        assert body[slice(*reader.model_span)] == reader.model.encode()
    assert reader.done
    return reader.model, reader.stream


def same_at_every_byte(body: bytes, content_type: bytes = TYPE, splits: int = 16) -> None:
    """However the body is cut, the same is known at the same byte, and it is refused at the same byte."""
    after: list[State] = [(), *course([body[i : i + 1] for i in range(len(body))], content_type)]
    for pieces in ways(body, splits) if body else ():
        at = 0
        for piece, state in zip(pieces, course(pieces, content_type), strict=False):
            at += len(piece)
            assert state == after[min(at, len(after) - 1)], (pieces, at)


# What is accepted, and what it says: the model (None = it names none), whether it streams.
ACCEPTED = {
    "the model first": (MODEL + UPLOAD + END, "whisper-1", False),
    "the model last": (UPLOAD + MODEL + END, "whisper-1", False),
    "two files, and a stream": (UPLOAD + UPLOAD + MODEL + field(b"stream", b"true") + END, "whisper-1", True),
    "no stream": (field(b"stream", b"false") + MODEL + END, "whisper-1", False),
    "no model": (UPLOAD + END, None, False),
    "no line end at the end": (MODEL + END[:-2], "whisper-1", False),
    "UTF-8": (field(b"model", "mod\u00e8le".encode()) + END, "mod\u00e8le", False),
    "names that only begin alike": (field(b"models", b"no") + field(b"model_id", b"no") + MODEL + END, "whisper-1", False),
    "a file named model": (part(FILE.replace(b"a.wav", b"model"), b"x") + MODEL + END, "whisper-1", False),
    "names with brackets": (field(b"image[]", b"1") + field(b"strategy[type]", b"a") + MODEL + END, "whisper-1", False),
    "empty values": (field(b"prompt", b"") + part(FILE.replace(b"a.wav", b""), b"") + MODEL + END, "whisper-1", False),
    "header names in any case": (MODEL.replace(b"Content-Disposition", b"content-DISPOSITION") + END, "whisper-1", False),
    "no blanks": (MODEL.replace(b": form-data; ", b":form-data;") + END, "whisper-1", False),
    "not quoted, as .NET writes it": (MODEL.replace(b'"model"', b"model") + END, "whisper-1", False),
    "a file's name twice, as .NET writes it": (
        part(b"Content-Disposition: form-data; name=file; filename=\"\xc3\xa9 .wav\"; filename*=utf-8''%C3%A9%20.wav", b"x")
        + MODEL.replace(b'"model"', b"model") + END, "whisper-1", False,
    ),
    "text/plain": (field(b"model", b"whisper-1", b"\r\nContent-Type: text/plain") + END, "whisper-1", False),
    "in UTF-8, as aiohttp and .NET say": (
        field(b"model", "\u00e8".encode(), b"\r\nContent-Type: text/plain; charset=utf-8") + END, "\u00e8", False,
    ),
    "in another charset, but ASCII": (
        field(b"model", b"whisper-1", b"\r\nContent-Type: text/plain; charset=US-ASCII") + END, "whisper-1", False,
    ),
    "lines that almost are the boundary": (
        part(FILE, b"\r\n--XyZ-7f3\r\n--\r\n\n--XyZ-7f3\xff--") + MODEL + END, "whisper-1", False,
    ),
    "one CR before the boundary is content": (part(FILE, b"a\r") + MODEL + END, "whisper-1", False),
    "its length": (field(b"model", b"whisper-1", b"\r\nContent-Length: 9") + END, "whisper-1", False),
    "header lines that mean nothing": (field(b"model", b"whisper-1", b"\r\nX-A: b\r\nX-C: d") + END, "whisper-1", False),
    "odd names of files": (
        part(b'Content-Disposition: form-data; name="file"; filename="C:\\a=b;(1)\'%22\xc3\xa9 .wav"', b"") + MODEL + END,
        "whisper-1", False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", ACCEPTED)
def test_what_is_accepted(row: str) -> None:
    body, model, stream = ACCEPTED[row]
    assert verdict(body, needed=False) == (model, stream)
    same_at_every_byte(body)


@pytest.mark.parametrize("client", RECORDED)
def test_what_clients_send(client: str) -> None:
    content_type, body = RECORDED[client]
    assert verdict(body, content_type) == ("whisper-1", False)
    same_at_every_byte(body, content_type)


def fields(*lines: bytes) -> bytes:
    """A model's part with further header lines."""
    return MODEL.replace(b"\r\n\r\n", b"\r\n" + b"\r\n".join(lines) + b"\r\n\r\n", 1) + END


def disposition(value: bytes) -> bytes:
    """A part with this Content-Disposition, and a model behind it."""
    return part(b"Content-Disposition: " + value) + MODEL + END


# What is refused, and what the message has to say. One row for each kind of thing that readers make different things of.
REFUSED = {
    # the frame
    "empty": (b"", "ends before its closing boundary"),
    "another boundary": (MODEL.replace(b"XyZ", b"XyY") + END, "must begin with the boundary"),
    "JSON": (b'{"model":"m"}', "must begin with the boundary"),
    "a preamble": (b"preamble\r\n" + MODEL + END, "must begin with the boundary"),
    "a line end before": (b"\r\n" + MODEL + END, "must begin with the boundary"),
    "1 MB before (GHSA-59g5-xgcq-4qw3)": (b"\r\n" * 500_000 + MODEL + END, "must begin with the boundary"),
    "an epilogue": (MODEL + END + b"epilogue", "goes on after its closing boundary"),
    "a second form behind the first": (MODEL + END + MODEL + END, "goes on after its closing boundary"),
    "1 MB behind (GHSA-mj87-hwqh-73pj)": (MODEL + END + b"\n" * 1_000_000, "goes on after its closing boundary"),
    "two line ends behind": (MODEL + END + b"\r\n", "goes on after its closing boundary"),
    "half a line end behind": (MODEL + END[:-1], "ends before its closing boundary"),
    "a bare LF behind": (MODEL + END[:-2] + b"\n", "goes on after its closing boundary"),
    "no end": (MODEL + UPLOAD, "ends before its closing boundary"),
    "half an end": (MODEL + END[:-3], "ends before its closing boundary"),
    "no parts": (END, "has no parts"),
    "the end inside a file": (part(FILE, b"a\r\n" + END) + MODEL + END, "goes on after its closing boundary"),
    "blanks after the boundary": (MODEL.replace(b"7f3a\r\n", b"7f3a \t\r\n") + END, "A boundary is followed by something else"),
    "a boundary that goes on": (MODEL.replace(b"7f3a\r\n", b"7f3ab\r\n") + END, "A boundary is followed by something else"),
    "a line that begins like it": (part(FILE, b"a\r\n--XyZ-7f3abc\r\nb") + END, "A boundary is followed by something else"),
    "a boundary after a bare LF": (part(FILE, b"a\n--XyZ-7f3a\r\nb") + END, "stands inside a part"),
    "a boundary after a bare CR": (part(FILE, b"a\r--XyZ-7f3a\r\nb") + END, "stands inside a part"),
    "a boundary before a bare LF": (part(FILE, b"a\r\n--XyZ-7f3a\nb") + END, "A boundary is followed by something else"),
    "a boundary within a line": (part(FILE, b"a--XyZ-7f3a\r\nb") + END, "stands inside a part"),
    "a boundary at once (Go: an empty part)": (b"--XyZ-7f3a\r\n" + FILE + b"\r\n\r\n" + MODEL + END, "stands inside a part"),
    "a boundary in a head": (part(FILE + b"\r\nX-A: --XyZ-7f3a") + MODEL + END, "in the head of a part"),
    "too many parts (GO-2023-1569)": (field(b"a", b"") * 129 + END, "more than 128 parts"),
    # the head of a part
    "no head": (b"--XyZ-7f3a\r\n\r\nx\r\n" + MODEL + END, "has no Content-Disposition"),
    "no disposition": (part(b"Content-Type: text/plain") + MODEL + END, "has no Content-Disposition"),
    "two dispositions": (fields(b'Content-Disposition: form-data; name="x"'), "`content-disposition` is repeated"),
    "two types": (part(FILE + b"\r\nContent-Type: a/b\r\ncontent-type: a/b") + END, "`content-type` is repeated"),
    "a folded line": (fields(b"X-A: b", b' name="x"'), "goes on in a second line"),
    "a line folded by a tab": (fields(b"X-A: b", b"\tc"), "goes on in a second line"),
    "a bare LF": (fields(b'X-A: b\nContent-Disposition: form-data; name="x"'), "has a control character"),
    "a bare CR": (fields(b"X-A: b\rX-B: c"), "has a control character"),
    "NUL": (fields(b"X-A: \x00"), "has a control character"),
    "a tab": (MODEL.replace(b"; name", b";\tname") + END, "has a control character"),
    "a blank before the colon": (fields(b"Content-Type : text/plain"), "has a blank before its colon"),
    "a blank in a name": (fields(b"Content Type: text/plain"), "is malformed: send `Name: value`"),
    "no colon": (fields(b"Content-Type"), "is malformed: send `Name: value`"),
    "an underscore": (fields(b"Content_Disposition: form-data"), "is malformed: send `Name: value`"),
    "not ASCII": (fields(b"X-A: \xc3\xa9"), "`x-a` is not ASCII"),
    "an encoding": (fields(b"Content-Transfer-Encoding: base64"), "may only be 7bit, 8bit or binary"),
    "a coding": (fields(b"Content-Encoding: gzip"), "Leave the part header `content-encoding` out"),
    "another length": (fields(b"Content-Length: 8"), "not as long as its Content-Length says"),
    "no length": (fields(b"Content-Length: -9"), "Content-Length is malformed"),
    "nine lines": (part(FILE + b"".join(b"\r\nX-%d: a" % n for n in range(8))) + END, "more than 8 header lines"),
    "a long head": (part(FILE + b"\r\nX-A: " + b"a" * 4096) + END, "longer than 4096 bytes"),
    "1 MB of header (GHSA-m5qp-6w8w-w647)": (part(FILE + b"\r\nX-A: " + b"a" * 1_000_000) + END, "longer than 4096 bytes"),
    "1 MB of header lines (CVE-2026-42561)": (part(b"\r\n".join([b"A: b"] * 170_000)) + END, "longer than 4096 bytes"),
    "a head without an end": (b"--XyZ-7f3a\r\nX-A: " + b"a" * 1_000_000, "longer than 4096 bytes"),
    "nested": (part(FILE + b"\r\nContent-Type: multipart/mixed; boundary=B") + MODEL + END, "is multipart itself"),
    "half a type": (part(FILE + b"\r\nContent-Type: audio") + MODEL + END, "Content-Type is malformed"),
    # the disposition
    "another disposition": (disposition(b'attachment; name="x"'), 'must be `form-data; name="..."`'),
    "form-data in capitals": (disposition(b'Form-Data; name="x"'), 'must be `form-data; name="..."`'),
    "almost form-data": (disposition(b'form-data-x; name="x"'), 'must be `form-data; name="..."`'),
    "no name": (disposition(b"form-data"), "A part has no name"),
    "only a file's name": (disposition(b'form-data; filename="a"'), "A part has no name"),
    "an empty name": (disposition(b'form-data; name=""'), "The name of a part must be"),
    "a hidden file's name": (disposition(b'form-data; name="model"; x="; filename=y"'), "Leave the parameter `x` out"),
    "a hidden name": (disposition(b'form-data; x="; name=y"; name="model"'), "Leave the parameter `x` out"),
    "two names": (disposition(b'form-data; name="x"; name="model"'), "`name` of the Content-Disposition is repeated"),
    "two file's names": (disposition(b'form-data; name="x"; filename=a; filename=b'), "`filename` of the Content-Disposition"),
    "name*": (disposition(b"form-data; name=\"x\"; name*=utf-8''model"), "`name` of the Content-Disposition plain, without"),
    "filename*": (disposition(b"form-data; name=\"x\"; filename*=utf-8''a"), "`filename` of the Content-Disposition plain"),
    "filename* first": (disposition(b"form-data; name=x; filename*=utf-8''a; filename=a"), "plain, without `*`"),
    "filename* of no form": (disposition(b"form-data; name=x; filename=a; filename*=utf-16''a"), "plain, without `*`"),
    "filename* that is quoted": (
        disposition(b"form-data; name=x; filename=a; filename*=\"utf-8''a; b\""), "plain, without `*`",
    ),
    "filename* of a field": (disposition(b"form-data; name=model; filename*=utf-8''a"), "plain, without `*`"),
    "filename* and filename of a field": (
        disposition(b"form-data; name=model; filename=a; filename*=utf-8''a"), "The field model comes as a file",
    ),
    "filename* twice": (disposition(b"form-data; name=x; filename=a; filename*=utf-8''a; filename*=utf-8''b"), "is repeated"),
    "name*0": (disposition(b'form-data; name*0="mod"; name*1="el"'), "`name` of the Content-Disposition plain, without"),
    "an unknown parameter": (disposition(b'form-data; name="x"; size=1'), "Leave the parameter `size` out"),
    "a parameter in capitals": (disposition(b'form-data; Name="model"'), "`name` of the Content-Disposition in lower case"),
    "the file's name first": (disposition(b'form-data; filename="model"; name="x"'), "Put `name` before `filename`"),
    "blanks around =": (disposition(b'form-data; name = "model"'), "write each parameter as"),
    "a blank before ;": (disposition(b'form-data ; name="model"'), 'must be `form-data; name="..."`'),
    "a blank behind": (disposition(b'form-data; name="model" '), "write each parameter as"),
    "a ; behind": (disposition(b'form-data; name="model";'), "write each parameter as"),
    "an open quote": (disposition(b'form-data; name="model'), "write each parameter as"),
    "half a quote": (disposition(b'form-data; name=mo"del"'), "write each parameter as"),
    "an escaped quote": (disposition(b'form-data; name="x"; filename="a\\"; name=\\"model"'), 'has a backslash before a `"`'),
    "an escape at the end": (disposition(b'form-data; name="x"; filename="a\\\\"'), 'has a backslash before a `"`'),
    "an escape in a name": (disposition(b'form-data; name="mode\\l"'), "The name of a part must be"),
    "a parameter in a file's name": (disposition(b'form-data; name="x"; filename="a; name=model"'), "has a `;` and then a `=`"),
    "a file's name that is not UTF-8": (disposition(b'form-data; name="x"; filename="\xff"'), "is not UTF-8"),
    "a file's name of two lines": (disposition('form-data; name="x"; filename="a\u2028b"'.encode()), "more than one line"),
    # the name
    "another case": (field(b"Model", b"m") + END, "almost `model`"),
    "a list": (field(b"model[]", b"m") + END, "almost `model`"),
    "an item": (field(b"model[0]", b"m") + END, "almost `model`"),
    "a list of streams": (field(b"stream[]", b"1") + MODEL + END, "almost `stream`"),
    "blanks": (field(b" model", b"m") + END, "The name of a part must be"),
    "blanks behind": (field(b"model ", b"m") + END, "The name of a part must be"),
    "a slash (aiohttp drops it)": (field(b"/model", b"m") + END, "The name of a part must be"),
    "percent signs": (field(b"%6dodel", b"m") + END, "The name of a part must be"),
    "RFC 2047": (field(b"=?utf-8?q?model?=", b"m") + END, "The name of a part must be"),
    "other letters": (field("\uff4dodel".encode(), b"m") + END, "The name of a part must be"),
    "a long name": (field(b"a" * 129, b"m") + END, "The name of a part must be"),
    "_charset_": (field(b"_charset_", b"utf-16") + MODEL + END, "`_charset_` out"),
    # the fields
    "two models": (MODEL + UPLOAD + MODEL + END, "The field model is repeated"),
    "two models, a large file between": (MODEL + part(FILE, b"a" * (3 << 20)) + MODEL + END, "The field model is repeated"),
    "two streams": (MODEL + field(b"stream", b"true") + field(b"stream", b"false") + END, "The field stream is repeated"),
    "a model that is a file": (part(FILE.replace(b'"file"', b'"model"'), b"m") + END, "comes as a file"),
    "a model that is a file without a name": (disposition(b'form-data; name="model"; filename=""'), "comes as a file"),
    "a stream that is a file": (part(FILE.replace(b'"file"', b'"stream"'), b"1") + MODEL + END, "comes as a file"),
    "a model in JSON": (fields(b"Content-Type: application/json"), "as plain text in UTF-8"),
    "a model in UTF-16": (fields(b"Content-Type: text/plain; charset=utf-16"), "as plain text in UTF-8"),
    "a model in UTF-7": (fields(b"Content-Type: text/plain; charset=utf-7"), "as plain text in UTF-8"),
    "a model of TEXT": (fields(b"Content-Type: TEXT/plain"), "as plain text in UTF-8"),
    "a model of a strange type": (fields(b"Content-Type: text/plain; x=y"), "as plain text in UTF-8"),
    "a model in Latin-1": (field(b"model", b"\xc3\xa9", b"\r\nContent-Type: text/plain; charset=iso-8859-1") + END, "in UTF-8"),
    "a long model": (field(b"model", b"m" * 1025) + END, "longer than 1024 bytes"),
    "1 MB of model": (field(b"model", b"m" * 1_000_000) + END, "longer than 1024 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("row", REFUSED)
def test_C9_what_is_refused(row: str) -> None:
    body, words = REFUSED[row]
    kind, message, _ = verdict(body)
    assert kind == "invalid_multipart"
    assert words in str(message)
    if len(body) < 1500:
        same_at_every_byte(body)
        return
    for step in (1000, 40_000):
        assert course([body[i : i + step] for i in range(0, len(body), step)])[-1] == (kind, message, _)


@pytest.mark.parametrize("value", [b"", b"m" * 257, b"a\r\nb", b"a\x00", b"\xff\xfe", b"a\tb"])
def test_C7_model_must_be_a_name(value: bytes) -> None:
    body = field(b"model", value) + END
    assert verdict(body)[0::2] == ("invalid_parameter", "model")
    same_at_every_byte(body)


def test_a_model_that_is_needed_and_not_there() -> None:
    kind, message, param = verdict(UPLOAD + END)
    assert (kind, param) == ("missing_model", "model")
    assert "form field named `model`" in str(message)


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_as_many_parts_as_are_allowed(parts: int) -> None:
    assert verdict(MODEL + field(b"a", b"") * (parts - 1) + END, parts=parts) == ("whisper-1", False)
    too_many = verdict(MODEL + field(b"a", b"") * parts + END, parts=parts)
    assert too_many == ("invalid_multipart", f"The form has more than {parts} parts: send fewer.", None)


def test_limits_of_a_head_to_the_byte() -> None:
    start = FILE + b"\r\nX-A: "
    fits = start + b"a" * (MAX_PART_HEAD_BYTES - len(start))
    lines = FILE + b"".join(b"\r\nX-%d: a" % n for n in range(MAX_PART_HEADER_LINES - 1))
    for head, ok in ((fits, True), (fits + b"a", False), (lines, True), (lines + b"\r\nX-A: b", False)):
        assert (verdict(part(head) + MODEL + END) == ("whisper-1", False)) is ok
    endless = b"--XyZ-7f3a\r\n" + b"a" * (HELD_BYTES + 1)
    assert course([endless[:-1]]) == [(None, None, False, False)]
    assert course([endless])[0][0] == "invalid_multipart"


@pytest.mark.parametrize("value", [b"true", b"1", b"True", b"yes", b"on"])
def test_streams(value: bytes) -> None:
    assert verdict(MODEL + field(b"stream", value) + END) == ("whisper-1", True)


def test_the_model_is_known_as_soon_as_its_part_ends() -> None:
    reader = ModelField(TYPE, PARTS)
    reader.feed(MODEL + UPLOAD[:11])
    assert reader.model is None
    reader.feed(UPLOAD[11:12])
    assert (reader.model, reader.done) == ("whisper-1", False)
    assert reader.model_span == (MODEL.index(b"whisper"), len(MODEL) - 2)
    reader.feed(UPLOAD[12:] + END)
    assert reader.done
    reader.finish()


@pytest.mark.parametrize("client", ["curl 7.88", "okhttp 3.13", "Guzzle's PSR-7 2.4", "Node 20's fetch (undici 6)"])
@pytest.mark.parametrize("new", ["m", "org/a-much-longer-name", "mod\u00e8le"])
def test_another_model_is_spliced_in(client: str, new: str) -> None:
    """Also where the part tells its length, which must not lie afterwards."""
    content_type, body = RECORDED[client]
    reader = ModelField(content_type, PARTS)
    assert reader.edits(new) == []
    reader.feed(body)
    assert reader.edits("whisper-1") == []
    for start, end, replacement in reversed(reader.edits(new)):
        body = body[:start] + replacement + body[end:]
    assert verdict(body, content_type) == (new, False)


def test_a_large_file_is_not_kept() -> None:
    reader = ModelField(TYPE, PARTS)
    reader.feed(UPLOAD[:200])
    for _ in range(100):
        reader.feed(b"\r\n--Xy" * 20_000)
        assert reader.held < len(b"\r\n--XyZ-7f3a")
    reader.feed(b"\r\n" + MODEL + END)
    assert (reader.model, reader.done) == ("whisper-1", True)


def test_what_was_received_is_not_held_on_to() -> None:
    """A buffer of a socket would stay alive, be it for one byte of it."""
    reader = ModelField(TYPE, PARTS)
    piece = MODEL[:6]
    reader.feed(piece)
    assert reader._rest == piece
    assert reader._rest is not piece


PIECES = [
    MODEL, UPLOAD, END, b"\r\n", b"--XyZ-7f3a", b"--", b"\r\n--XyZ-7f3a\r\n", b"A: b\r\n", b"\r\n\r\n", b"x", FILE,
    field(b"stream", b"1"), field(b"model", b"m" * (MAX_FIELD_BYTES - 1)), b"\n", b'Content-Disposition: form-data; name="',
    b'"; filename="', b"\r\nContent-Length: 4", b"m" * 600,
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=7), st.lists(st.integers(0, 3000), max_size=9))
def test_any_bytes_get_one_verdict_at_one_byte(parts: list[bytes], at: list[int]) -> None:
    body = b"--XyZ-7f3a\r\n" + b"".join(parts)
    after: list[State] = [(), *course([body[i : i + 1] for i in range(len(body))])]
    pieces = cut(body, at)
    done = 0
    for piece, state in zip(pieces, course(pieces), strict=False):
        done += len(piece)
        assert state == after[min(done, len(after) - 1)]
