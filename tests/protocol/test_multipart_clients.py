"""What the clients of Python that are installed send, asked anew: it is accepted, and names the model.

Those of other languages are recorded, in ``forms.py``.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import aiohttp
import httpx
import openai
import pytest
import requests
import urllib3

from fastgw.protocol.multipart import ModelField
from tests.support.form_readers import READERS

Form = tuple[bytes, bytes]
NAMES = ("a.wav", "my file (1).wav", 'a "quoted" one.wav', "\u00e8\u6f22.wav", "C:\\a\\b.wav", "a;b.wav", "a=b.wav", "100%.wav")
CONTENT = b"RIFF\x00\xff\r\n--\r\n"


def of_httpx(name: str) -> Form:
    sent = httpx.Request("POST", "http://x", data={"model": "m"}, files={"file": (name, CONTENT)})
    return sent.headers["content-type"].encode(), sent.read()


def of_requests(name: str) -> Form:
    sent = requests.Request("POST", "http://x", data={"model": "m"}, files={"file": (name, CONTENT)}).prepare()
    assert isinstance(sent.body, bytes)
    return sent.headers["Content-Type"].encode(), sent.body


def of_urllib3(name: str) -> Form:
    body, content_type = urllib3.encode_multipart_formdata({"model": "m", "file": (name, CONTENT)})
    return content_type.encode(), body


def of_openai(name: str) -> Form:
    """The SDK itself, over whatever it brings to send with."""
    seen: list[Form] = []
    transport = openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0]
    http = __import__(transport)

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.headers["content-type"].encode(), request.read()))
        return http.Response(200, json={"text": "x"})  # type: ignore[no-any-return]

    client = openai.OpenAI(api_key="k", base_url="http://x", http_client=http.Client(transport=http.MockTransport(answer)))
    with client:
        client.audio.transcriptions.create(model="m", file=(name, io.BytesIO(CONTENT)), timestamp_granularities=["word"])
    return seen[0]


class _Sink:
    def __init__(self) -> None:
        self.body = b""

    async def write(self, data: bytes) -> None:
        self.body += data


def of_aiohttp(name: str) -> Form:
    form = aiohttp.FormData()
    form.add_field("model", "m", content_type="text/plain; charset=utf-8")
    form.add_field("file", CONTENT, filename=name, content_type="audio/wav")
    payload = form()
    sink = _Sink()
    work = payload.write(sink)  # type: ignore[arg-type]
    with pytest.raises(StopIteration):
        work.send(None)
    return payload.headers["Content-Type"].encode(), sink.body


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("client", [of_httpx, of_requests, of_urllib3, of_openai, of_aiohttp])
def test_what_clients_send(client: Callable[[str], Form], name: str) -> None:
    content_type, body = client(name)
    reader = ModelField(content_type, 128)
    reader.feed(body)
    reader.finish()
    assert reader.model == "m"
    for read in READERS.values():
        assert read(content_type, body).models == ("m",)
