"""Uploads: the model is found wherever its part stands, and nothing else is kept."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.errors import GatewayError
from fastgw.protocol.multipart import ModelField, boundary_of
from tests.protocol.splits import cut, ways

TYPE = b"multipart/form-data; boundary=XyZ"
FILE = b"\x00\xff\r\n--XyY\r\n\r\n--Xy\r\nRIFF" * 40


def part(name: bytes, value: bytes, more: bytes = b"", fields: bytes = b"") -> bytes:
    head = b'--XyZ\r\nContent-Disposition: form-data; name="' + name + b'"' + more
    return head + b"\r\n" + fields + b"\r\n" + value + b"\r\n"


MODEL = part(b"model", b"whisper-1")
UPLOAD = part(b"file", FILE, b'; filename="a.wav"', b"Content-Type: audio/wav\r\n")
END = b"--XyZ--\r\n"


def read(pieces: list[bytes], content_type: bytes = TYPE) -> tuple[str, str | None, bool, bool]:
    field = ModelField(content_type)
    for piece in pieces:
        try:
            field.feed(piece)
        except GatewayError as error:
            return error.kind.name, None, False, False
        assert field.held <= 64 * 1024
    return "ok", field.model, field.stream, field.done


def same_in_every_way(body: bytes, splits: int = 48) -> tuple[str, str | None, bool, bool]:
    expected = read([body])
    for pieces in ways(body, splits):
        assert read(pieces) == expected, pieces
    return expected


@pytest.mark.parametrize(
    ("body", "model", "stream"),
    [
        (MODEL + UPLOAD + END, "whisper-1", False),
        (UPLOAD + MODEL + END, "whisper-1", False),
        (UPLOAD + UPLOAD + MODEL + part(b"stream", b"true") + END, "whisper-1", True),
        (part(b"stream", b"false") + MODEL + END, "whisper-1", False),
        (UPLOAD + END, None, False),
        (b"preamble to ignore\r\n" + MODEL + END, "whisper-1", False),
        (b"\r\n" + MODEL + END, "whisper-1", False),
        (MODEL + END + b"epilogue --XyZ\r\n" + MODEL, "whisper-1", False),
        (MODEL + b"--XyZ--", "whisper-1", False),
        (part(b"model", b"a\r\n--Xy").replace(b"a\r\n--Xy", b"org/name:7b") + END, "org/name:7b", False),
        (part(b"model", "mod\u00e8le".encode()) + END, "mod\u00e8le", False),
        (part(b"models", b"no") + part(b"file", b"model", b'; filename="model"') + MODEL + END, "whisper-1", False),
        (part(b"model", b"evil", b'; filename="x"') + MODEL + END, "whisper-1", False),
        (part(b"empty", b"") + MODEL + END, "whisper-1", False),
        (MODEL.replace(b"Content-Disposition: form-data;", b"content-disposition:form-data ;") + END, "whisper-1", False),
        (MODEL.replace(b'"model"', b"model") + END, "whisper-1", False),
        (MODEL.replace(b"--XyZ\r\n", b"--XyZ  \r\n") + END, "whisper-1", False),
        (part(b"model", b"whisper-1", b"", b"Content-Type: text/plain\r\n") + END, "whisper-1", False),
        (b"--XyZ\r\n\r\nno headers at all\r\n" + MODEL + END, "whisper-1", False),
        (b"--XyZ\r\n\r\n\r\n" + MODEL + END, "whisper-1", False),
    ],
)  # fmt: skip
def test_the_model_is_found(body: bytes, model: str | None, stream: bool) -> None:
    assert same_in_every_way(body, splits=24) == ("ok", model, stream, True)


def test_the_model_is_known_as_soon_as_its_part_ends() -> None:
    field = ModelField(TYPE)
    field.feed(MODEL)
    assert field.model is None
    field.feed(b"--XyZ")
    assert field.model == "whisper-1"
    assert not field.done
    field.feed(b"\r\n" + UPLOAD[7:] + END)
    assert field.done


@pytest.mark.parametrize(
    "body",
    [
        MODEL + MODEL + END,
        part(b"model", b"a") + UPLOAD + part(b"model", b"b") + END,
        b"--XyZ--\r\n",
        b"--XyZ\r\n" + b"A: " + b"b" * 8200 + b"\r\n\r\nx\r\n" + END,
        b"--XyZ\r\n" + b"A: b\r\n" * 2000,
        b"--XyZ\r\nnocolon\r\n\r\nx\r\n" + END,
        b"--XyZtrailing\r\n\r\nx\r\n" + END,
        b"--XyZ" + b" " * 300 + b"\r\n\r\nx\r\n" + END,
        part(b"a", b"b") * 1001 + END,
        part(b"model", b"m" * 5000) + END,
        b"no boundary at all " * 1000,
        MODEL.replace(b"\r\n\r\n", b'\r\nContent-Disposition: form-data; name="x"\r\n\r\n') + END,
    ],
)
def test_C9_malformed_bodies(body: bytes) -> None:
    expected = read([body])[0]
    assert expected == "invalid_multipart"
    for step in (1, 7, 1000, 40_000):
        assert read([body[i : i + step] for i in range(0, len(body), step)])[0] == expected


@pytest.mark.parametrize("value", [b"", b"m" * 257, b"a\r\nb", b"a\x00", b"\xff\xfe", b"a\tb"])
def test_C7_model_must_be_a_name(value: bytes) -> None:
    assert same_in_every_way(part(b"model", value) + END)[0] == "invalid_parameter"


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        (b"multipart/form-data; boundary=abc", b"abc"),
        (b"Multipart/Form-Data;BOUNDARY=abc", b"abc"),
        (b'multipart/form-data; charset=utf-8; boundary="a b:c?"', b"a b:c?"),
        (b"multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW", b"----WebKitFormBoundary7MA4YWxkTrZu0gW"),
        (b"multipart/form-data; boundary=" + b"a" * 70, b"a" * 70),
        (b'multipart/form-data; boundary="a\\=b"', b"a=b"),
    ],
)
def test_boundary(content_type: bytes, boundary: bytes) -> None:
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [
        (b"multipart/form-data", "invalid_multipart"),
        (b"multipart/form-data; boundary=", "invalid_multipart"),
        (b'multipart/form-data; boundary=""', "invalid_multipart"),
        (b"multipart/form-data; boundary=" + b"a" * 71, "invalid_multipart"),
        (b"multipart/form-data; boundary=a; boundary=b", "invalid_multipart"),
        (b'multipart/form-data; boundary="a "', "invalid_multipart"),
        (b'multipart/form-data; boundary="a\xff"', "invalid_multipart"),
        (b'multipart/form-data; boundary="a\tb"', "invalid_multipart"),
        (b'multipart/form-data; x="; boundary=a"', "invalid_multipart"),
        (b"multipart/form-datax; boundary=a", "unsupported_media_type"),
        (b"multipart/mixed; boundary=a", "unsupported_media_type"),
        (b"application/json", "unsupported_media_type"),
        (b"", "unsupported_media_type"),
    ],
)
def test_C9_content_type(content_type: bytes, kind: str) -> None:
    with pytest.raises(GatewayError) as refusal:
        ModelField(content_type)
    assert refusal.value.kind.name == kind


def test_a_large_file_is_not_kept() -> None:
    field = ModelField(TYPE)
    field.feed(UPLOAD[:200])
    for _ in range(100):
        field.feed(b"\r\n--Xy" * 20_000)
        assert field.held <= 64 * 1024
    field.feed(b"\r\n" + MODEL + END)
    assert (field.model, field.done) == ("whisper-1", True)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([MODEL, UPLOAD, END, b"\r\n", b"--XyZ", b"--", b"XyZ\r\n", b"A: b\r\n", b"\r\n\r\n", b"x"]),
    max_size=7),
       st.lists(st.integers(0, 2000), max_size=9))  # fmt: skip
def test_any_bytes_get_one_verdict(parts: list[bytes], at: list[int]) -> None:
    body = b"".join(parts)
    if body:
        expected = read([body])
        assert read(cut(body, at)) == expected
        assert read([body[i : i + 1] for i in range(len(body))]) == expected
