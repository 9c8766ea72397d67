"""Forms for tests: what real clients sent, byte by byte, and the pieces that forms are put together from.

``RECORDED`` was taken from the clients themselves, over a socket; those that are Python's are asked anew by the test.
"""

from __future__ import annotations

TYPE = b"multipart/form-data; boundary=XyZ-7f3a"
END = b"--XyZ-7f3a--\r\n"
FILE_BYTES = b"\x00\xff\r\n--XyY\r\n\r\n--Xy\r\nRIFF" * 40


def part(head: bytes, value: bytes = b"RIFF") -> bytes:
    """A part with these header lines and this content."""
    return b"--XyZ-7f3a\r\n" + head + b"\r\n\r\n" + value + b"\r\n"


def field(name: bytes, value: bytes, fields: bytes = b"") -> bytes:
    """A plain field; ``fields`` are more header lines, each with its line end before it."""
    return part(b'Content-Disposition: form-data; name="' + name + b'"' + fields, value)


MODEL = field(b"model", b"whisper-1")
UPLOAD = part(b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav', FILE_BYTES)


def _recorded(boundary: str, text: str) -> tuple[bytes, bytes]:
    body = text.replace("\n", "\r\n").replace("{b}", "--" + boundary)
    return f"multipart/form-data; boundary={boundary}".encode(), body.encode()


RECORDED = {
    "curl 7.88": _recorded(
        "------------------------71db4631775749ad",
        """{b}
Content-Disposition: form-data; name="model"

whisper-1
{b}
Content-Disposition: form-data; name="file"; filename="a.wav"
Content-Type: application/octet-stream

RIFF
{b}
Content-Disposition: form-data; name="timestamp_granularities[]"

word
{b}--
""",
    ),
    "curl 7.88, a quote and a backslash in the file's name": _recorded(
        "------------------------3a8d8d3033580600",
        r"""{b}
Content-Disposition: form-data; name="model"

whisper-1
{b}
Content-Disposition: form-data; name="file"; filename="my %22odd\name.wav"
Content-Type: application/octet-stream

RIFF
{b}--
""",
    ),
    "curl 7.88, with ;type= and ;encoder=": _recorded(
        "------------------------d54519cca6768ea5",
        """{b}
Content-Disposition: form-data; name="model"
Content-Type: text/plain

whisper-1
{b}
Content-Disposition: form-data; name="file"; filename="a.wav"
Content-Type: application/octet-stream
Content-Transfer-Encoding: binary

RIFF
{b}--
""",
    ),
    "Node 20's fetch (undici 6)": _recorded(
        "----formdata-undici-036784320858",
        """{b}
Content-Disposition: form-data; name="file"; filename="a.wav"
Content-Type: audio/wav

RIFF
{b}
Content-Disposition: form-data; name="model"

whisper-1
{b}--
""",
    ),
    "Node 20's fetch, an odd file's name": _recorded(
        "----formdata-undici-021493325863",
        r"""{b}
Content-Disposition: form-data; name="model"

whisper-1
{b}
Content-Disposition: form-data; name="file"; filename="my %22odd\é%0A.wav"
Content-Type: application/octet-stream

RIFF
{b}--
""",
    ),
    "openai-node 6.49": _recorded(
        "----formdata-undici-006431602983",
        """{b}
Content-Disposition: form-data; name="model"

whisper-1
{b}
Content-Disposition: form-data; name="file"; filename="a.wav"
Content-Type: application/octet-stream

RIFF
{b}
Content-Disposition: form-data; name="timestamp_granularities[]"

word
{b}--
""",
    ),
    "axios with form-data 4": _recorded(
        "--------------------------4bfa4bd62c7170574e1fc886",
        """{b}
Content-Disposition: form-data; name="model"

whisper-1
{b}
Content-Disposition: form-data; name="file"; filename="a.wav"
Content-Type: audio/wave

RIFF
{b}--
""",
    ),
    "Go 1.19's mime/multipart": _recorded(
        "b9a9bcf050acaf0a109b4824b2a2b8b7bceb002199192913b8f51d22dfff",
        """{b}
Content-Disposition: form-data; name="model"

whisper-1
{b}
Content-Disposition: form-data; name="file"; filename="a.wav"
Content-Type: application/octet-stream

RIFF
{b}--
""",
    ),
    "okhttp 3.13": _recorded(
        "3e1b5d45-a234-4d22-befc-f1facabd17ca",
        """{b}
Content-Disposition: form-data; name="model"
Content-Length: 9

whisper-1
{b}
Content-Disposition: form-data; name="file"; filename="a.wav"
Content-Type: audio/wav
Content-Length: 4

RIFF
{b}--
""",
    ),
    "Apache HttpClient 4.5, strict": _recorded(
        "owdvzEMnDnNbcpgHqPujClkeI-6nCFjfM",
        """{b}
Content-Disposition: form-data; name="model"
Content-Type: text/plain; charset=ISO-8859-1
Content-Transfer-Encoding: 8bit

whisper-1
{b}
Content-Disposition: form-data; name="file"; filename="a.wav"
Content-Type: audio/wav
Content-Transfer-Encoding: binary

RIFF
{b}--
""",
    ),
    "Apache HttpClient 4.5, like a browser": _recorded(
        "oJ71fQxHFR5d5hUeBFjCowc1ejx3o1STODJWQTK",
        """{b}
Content-Disposition: form-data; name="model"

whisper-1
{b}
Content-Disposition: form-data; name="file"; filename="a.wav"
Content-Type: audio/wav

RIFF
{b}--
""",
    ),
    "Guzzle's PSR-7 2.4": _recorded(
        "3561e6d06be2a59a9d8ecfc4b5d42e493cd449e3",
        """{b}
Content-Disposition: form-data; name="model"
Content-Length: 9

whisper-1
{b}
Content-Disposition: form-data; name="file"; filename="a.wav"
Content-Length: 4
Content-Type: audio/x-wav

RIFF
{b}--
""",
    ),
    "Perl's LWP 6.68": _recorded(
        "xYzZY",
        """{b}
Content-Disposition: form-data; name="model"

whisper-1
{b}
Content-Disposition: form-data; name="file"; filename="a.wav"
Content-Type: audio/x-wav

RIFF
{b}--
""",
    ),
    "Ruby 3.1's net/http": _recorded(
        "lprP4jBJtzH6NTB9jb3MoJBhTTPyUAVCu8c5gy8TyeApPPn2-slPtA",
        """{b}
Content-Disposition: form-data; name="model"

whisper-1
{b}
Content-Disposition: form-data; name="file"; filename="a.wav"
Content-Type: audio/wav

RIFF
{b}--
""",
    ),
}
