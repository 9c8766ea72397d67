"""Which path answers what. A request becomes an Answer (ready) or a Shape (work for the engine).

Owns: the table of endpoints, authentication, the check of the model's name. Must never: write to a connection.
"""

from __future__ import annotations

import base64
import hmac
import struct
from collections.abc import Callable
from typing import Any, Final

import msgspec

import fastgw
from fastgw.sim import kinds, metrics, text
from fastgw.sim.config import SimConfig
from fastgw.sim.debug import Debug
from fastgw.sim.dialects import OllamaRequest, OllamaShape, TgiRequest, TgiShape
from fastgw.sim.engine import Answer, Engine, Shape
from fastgw.sim.events import MessagesShape, ResponsesShape
from fastgw.sim.received import Received
from fastgw.sim.shapes import CREATED, JSON, BadRequestError, Generate, OpenAIShape, Overrides, flatten
from fastgw.sim.work import AudioShape, Embed, Images, Rank, Score, Speech, WorkShape, form_field, transcript

_PLAIN: Final = b"text/plain; charset=utf-8"
_NO_OVERRIDES: Final = Overrides()
# What needs no key, as with vLLM: only its /v1 paths are guarded.
_GUARDED: Final = ("/v1/", "/tokenize", "/detokenize")

Handler = Callable[[Received, Overrides], "Answer | Shape"]


def answer_json(value: Any, status: int = 200) -> Answer:
    return Answer(status, JSON, msgspec.json.encode(value))


class Tokenize(msgspec.Struct):
    model: str | None = None
    prompt: Any = None
    messages: list[Any] = []
    tokens: list[int] = []


class Routes:
    """The endpoints of one simulator."""

    def __init__(self, config: SimConfig, engine: Engine, debug: Debug | None) -> None:
        self._config = config
        self._engine = engine
        self._expected = b"Bearer " + config.api_key.encode()
        self._generate = msgspec.json.Decoder(Generate)
        self.healthy = True
        self._table: dict[str, dict[str, Handler]] = {
            "/v1/chat/completions": {"POST": self._chat},
            "/v1/completions": {"POST": self._completions},
            "/v1/responses": {"POST": self._responses},
            "/v1/messages": {"POST": self._messages},
            "/api/chat": {"POST": self._ollama_chat},
            "/api/generate": {"POST": self._ollama_generate},
            "/generate": {"POST": self._tgi},
            "/generate_stream": {"POST": self._tgi_stream},
            "/v1/embeddings": {"POST": self._embeddings},
            "/v1/rerank": {"POST": self._rerank},
            "/v1/score": {"POST": self._score},
            "/v1/audio/transcriptions": {"POST": self._transcriptions},
            "/v1/audio/speech": {"POST": self._speech},
            "/v1/images/generations": {"POST": self._images},
            "/v1/models": {"GET": self._models},
            "/tokenize": {"POST": self._tokenize},
            "/detokenize": {"POST": self._detokenize},
            "/health": {"GET": self._health},
            "/healthz": {"GET": self._health},
            "/version": {"GET": self._version},
            "/metrics": {"GET": self._metrics},
            "/api/tags": {"GET": self._tags},
        }
        for path, document in kinds.documents(config).items():
            self._table[path] = {"GET": lambda _request, _overrides, said=document: answer_json(said())}  # type: ignore[misc]
        if config.plays == "ollama":
            self._table["/api/show"] = {"POST": self._show}
        for path in (*kinds.without(config.plays), *(["/metrics"] if config.metrics_kind == "none" else [])):
            self._table.pop(path, None)
        if debug is not None:
            self._table.update(debug.table())

    def prepare(self, request: Received, overrides: Overrides = _NO_OVERRIDES) -> Answer | Shape:
        """What to answer. Never raises for anything a client can send."""
        path = request.path
        methods = self._table.get(path)
        if methods is None:
            return answer_json({"detail": "Not Found"}, 404)
        method = "GET" if request.method == "HEAD" else request.method
        handler = methods.get(method)
        if handler is None:
            allow = ", ".join(methods).encode()
            return Answer(405, JSON, b'{"detail":"Method Not Allowed"}', ((b"allow", allow),))
        if self._config.api_key and path.startswith(_GUARDED):
            sent = request.head.fields.get(b"authorization", b"")
            if not hmac.compare_digest(sent, self._expected):
                return Answer(401, JSON, b'{"error":"Unauthorized"}', ((b"www-authenticate", b"Bearer"),))
        try:
            return handler(request, overrides)
        except BadRequestError as error:
            return error.answer()
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            return BadRequestError(f"The body cannot be read: {error}").answer()

    def _model(self, name: str | None) -> str:
        if name is None:
            return self._config.models[0]
        if name not in self._config.models and not self._config.any_model:
            raise BadRequestError(f"The model `{name}` does not exist.", 404, "NotFoundError", "model")
        return name

    def _chat(self, request: Received, overrides: Overrides) -> Shape:
        asked = self._generate.decode(request.body)
        return OpenAIShape(self._config, asked, self._model(asked.model), True, overrides)

    def _completions(self, request: Received, overrides: Overrides) -> Shape:
        asked = self._generate.decode(request.body)
        return OpenAIShape(self._config, asked, self._model(asked.model), False, overrides)

    def _responses(self, request: Received, overrides: Overrides) -> Shape:
        asked = self._generate.decode(request.body)
        return ResponsesShape(self._config, asked, self._model(asked.model), overrides)

    def _messages(self, request: Received, overrides: Overrides) -> Shape:
        asked = self._generate.decode(request.body)
        return MessagesShape(self._config, asked, self._model(asked.model), overrides)

    def _ollama_chat(self, request: Received, overrides: Overrides) -> Shape:
        asked = msgspec.json.decode(request.body, type=OllamaRequest)
        return OllamaShape(self._config, asked, self._model(asked.model), True, overrides)

    def _ollama_generate(self, request: Received, overrides: Overrides) -> Shape:
        asked = msgspec.json.decode(request.body, type=OllamaRequest)
        return OllamaShape(self._config, asked, self._model(asked.model), False, overrides)

    def _tgi(self, request: Received, overrides: Overrides) -> Shape:
        return TgiShape(self._config, msgspec.json.decode(request.body, type=TgiRequest), False, overrides)

    def _tgi_stream(self, request: Received, overrides: Overrides) -> Shape:
        return TgiShape(self._config, msgspec.json.decode(request.body, type=TgiRequest), True, overrides)

    def _embeddings(self, request: Received, _: Overrides) -> Shape:
        asked = msgspec.json.decode(request.body, type=Embed)
        model = self._model(asked.model)
        many = isinstance(asked.input, list) and not (asked.input and isinstance(asked.input[0], int))
        inputs = [flatten(item).encode() for item in (asked.input if many else [asked.input])]
        size = asked.dimensions or self._config.embedding_size
        if not inputs or not 1 <= size <= 65_536:
            raise BadRequestError("input: at least one text; dimensions: 1 to 65536.")
        tokens = sum(text.count_tokens(item) for item in inputs)

        def whole() -> Answer:
            vectors: list[Any] = [text.embedding(self._config.seed, item, size) for item in inputs]
            if asked.encoding_format == "base64":
                vectors = [base64.b64encode(struct.pack(f"<{size}f", *vector)).decode() for vector in vectors]
            data = [{"index": i, "object": "embedding", "embedding": vector} for i, vector in enumerate(vectors)]
            usage = {"prompt_tokens": tokens, "total_tokens": tokens}
            return answer_json({"object": "list", "data": data, "model": model, "usage": usage})

        return WorkShape(tokens, whole)

    def _rerank(self, request: Received, _: Overrides) -> Shape:
        asked = msgspec.json.decode(request.body, type=Rank)
        model = self._model(asked.model)
        documents = [flatten(item) for item in asked.documents]
        tokens = sum(text.count_tokens(item) for item in (asked.query, *documents))

        def whole() -> Answer:
            scored = sorted(((-self._relevance(asked.query, item), i) for i, item in enumerate(documents)))[
                : asked.top_n or None
            ]
            rows = [{"index": i, "document": {"text": documents[i]}, "relevance_score": -score} for score, i in scored]
            return answer_json({"id": "rerank-sim", "model": model, "usage": {"total_tokens": tokens}, "results": rows})

        return WorkShape(tokens, whole)

    def _score(self, request: Received, _: Overrides) -> Shape:
        asked = msgspec.json.decode(request.body, type=Score)
        model = self._model(asked.model)
        left = asked.text_1 if isinstance(asked.text_1, list) else [asked.text_1]
        right = asked.text_2 if isinstance(asked.text_2, list) else [asked.text_2]
        if len(left) not in (1, len(right)):
            raise BadRequestError("text_1: one text, or as many as text_2.")
        pairs = list(zip(left * len(right) if len(left) == 1 else left, right, strict=True))
        tokens = sum(text.count_tokens(a) + text.count_tokens(b) for a, b in pairs)

        def whole() -> Answer:
            data = [{"index": i, "object": "score", "score": self._relevance(a, b)} for i, (a, b) in enumerate(pairs)]
            usage = {"prompt_tokens": tokens, "total_tokens": tokens}
            return answer_json({"id": "score-sim", "object": "list", "model": model, "data": data, "usage": usage})

        return WorkShape(tokens, whole)

    def _relevance(self, query: str, document: str) -> float:
        return text.score(self._config.seed, query.encode("utf-8", "surrogatepass"), document.encode("utf-8", "surrogatepass"))

    def _transcriptions(self, request: Received, _: Overrides) -> Shape:
        kind = request.head.fields.get(b"content-type", b"")
        if not kind.lower().startswith(b"multipart/form-data"):
            raise BadRequestError("The body must be multipart/form-data.", 415)
        name = form_field(request.body, b"model")
        self._model(None if name is None else name.decode("utf-8", "replace"))
        return WorkShape(text.count_tokens(b"a" * 64), lambda: answer_json(transcript(self._config.seed, request)))

    def _speech(self, request: Received, _: Overrides) -> Shape:
        asked = msgspec.json.decode(request.body, type=Speech)
        self._model(asked.model)
        return AudioShape(self._config.seed, asked)

    def _images(self, request: Received, _: Overrides) -> Shape:
        asked = msgspec.json.decode(request.body, type=Images)
        self._model(asked.model)
        return WorkShape(text.count_tokens(asked.prompt), lambda: answer_json(asked.answer(CREATED)))

    def _models(self, request: Received, _: Overrides) -> Answer:
        return answer_json(kinds.listed(self._config, CREATED))

    def _show(self, request: Received, _: Overrides) -> Answer:
        self._model(msgspec.json.decode(request.body, type=Tokenize).model)
        return answer_json(kinds.shown(self._config))

    def _tokenize(self, request: Received, _: Overrides) -> Answer:
        asked = msgspec.json.decode(request.body, type=Tokenize)
        self._model(asked.model)
        tokens = text.tokenize(flatten(asked.messages) if asked.prompt is None else flatten(asked.prompt))
        return answer_json({"count": len(tokens), "max_model_len": self._config.max_model_len, "tokens": tokens})

    def _detokenize(self, request: Received, _: Overrides) -> Answer:
        asked = msgspec.json.decode(request.body, type=Tokenize)
        self._model(asked.model)
        try:
            return answer_json({"prompt": text.detokenize(asked.tokens)})
        except ValueError as error:
            raise BadRequestError(str(error), param="tokens") from error

    def _health(self, request: Received, _: Overrides) -> Answer:
        return Answer(200 if self.healthy else 503, _PLAIN, b"")

    def _version(self, request: Received, _: Overrides) -> Answer:
        return answer_json({"version": f"fastgw-sim {fastgw.__version__}"})

    def _metrics(self, request: Received, _: Overrides) -> Answer:
        return Answer(200, metrics.CONTENT_TYPE, metrics.render(self._config, self._engine.state))

    def _tags(self, request: Received, _: Overrides) -> Answer:
        rows = [{"name": name, "model": name, "modified_at": "2026-01-01T00:00:00Z", "size": 0} for name in self._config.models]
        return answer_json({"models": rows})
