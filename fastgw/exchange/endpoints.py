"""The endpoint table: exact paths to what is done with them. No normalisation: another spelling is another path.

A path that is not here answers 404, whatever it would mean to an engine; ``passthrough_paths`` adds to the table.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from typing import Final

from fastgw.exchange.dialects import OLLAMA, TGI


class Mode(enum.Enum):
    """How the request's body is treated."""

    JSON = "json"  # read whole, bounded; routed by its `model`
    UPLOAD = "upload"  # multipart or binary: streamed through, routed by the `model` field
    LOCAL = "local"  # answered here
    TUNNEL = "tunnel"  # upgraded and passed through


JSON: Final = Mode.JSON
UPLOAD: Final = Mode.UPLOAD
LOCAL: Final = Mode.LOCAL
TUNNEL: Final = Mode.TUNNEL


class Endpoint:
    """A path and what is done with it; never changes.

    ``label`` is what logs and metrics call it, from a bounded set. ``model``: the body must name one. ``usage``: streams take
    ``stream_options.include_usage``. ``metered``: its tokens count; ``generates``: its answers are generated, so that they
    have tokens of their own. ``dialect``: whose own API it is (``dialects``), "" = one that many speak. ``untold``: it answers
    with tokens whose number no engine can be told. ``stored``: engines may keep what it makes, or it speaks of such
    (``responses``), and its body is JSON whatever it is called; ``by_id``: by its path. ``foreign``: its body is the engine's
    alone to judge. ``light``: an engine answers it from
    what it has, beside what it generates, so that it takes no place there. ``local``: the local handler's name. ``ends``: how
    a stream of it has to end. ``others``: what it is by further methods (:meth:`by`).
    """

    __slots__ = (
        "auth", "by_id", "dialect", "ends", "foreign", "generates", "label", "light", "local", "merges", "metered", "methods",
        "mode", "model", "others", "stored", "untold", "usage",
    )  # fmt: skip

    def __init__(
        self,
        label: str,
        methods: frozenset[bytes],
        mode: Mode,
        *,
        auth: bool = True,
        model: bool = True,
        usage: bool = False,
        metered: bool = False,
        generates: bool = False,
        local: str = "",
        dialect: str = "",
    ) -> None:
        self.label = label
        self.dialect = dialect
        self.methods = methods
        self.mode = mode
        self.auth = auth
        self.model = model
        self.usage = usage
        self.metered = metered or generates
        self.generates = generates
        self.untold = label in (IMAGES, COMPACT) or (mode is UPLOAD and self.metered)
        self.by_id = label in _STORED or (label.encode().startswith(BELOW_RESPONSES) and label not in _OF_RESPONSES)
        self.stored = label in (RESPONSES, TURNS) or label in _OF_RESPONSES or self.by_id
        self.foreign = mode is UPLOAD and not self.metered and not self.stored
        self.others: dict[bytes, Endpoint] = {}
        self.light = label in _STORED or label in _LIGHT
        self.ends = _ENDS.get(label, ANYHOW)
        self.merges = label == "/v1/embeddings"  # several requests may share one call
        self.local = local

    def by(self, method: bytes, upgrades: bool, keyed: bool) -> Endpoint | None:
        """What it is by a ``method`` that it does not have itself, None = nothing: to who asks for a WebSocket (``upgrades``,
        or a CONNECT), and, where no key is asked for (``keyed``), to anybody."""
        if upgrades or method == b"CONNECT":
            session = self.others.get(b"CONNECT")
            if session is not None and (method == b"CONNECT" or method in session.methods):
                return session
        return None if keyed else self.others.get(method)

    def allow(self, keyed: bool) -> str:
        """The methods that it has, for ``Allow``; ``keyed`` as above."""
        methods = {*self.methods, *(() if keyed else self.others)} - {b"CONNECT"}
        if b"GET" in self.methods:
            methods.add(b"HEAD")
        methods.add(b"OPTIONS")
        return ", ".join(sorted(method.decode() for method in methods))


CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
RESPONSES: Final = "/v1/responses"
TURNS: Final = "GET /v1/responses"
"""The same API over a WebSocket (``turns``)."""
MESSAGES: Final = "/v1/messages"
IMAGES: Final = "/v1/images/generations"
HEARING: Final = ("/v1/audio/transcriptions", "/v1/audio/translations")
"""What is asked what is said in a recording, which may be nothing."""

ANYHOW: Final = 0
AT_A_REASON: Final = 1
AT_A_MARK: Final = 2
AT_ITS_LAST: Final = 3
"""How a stream has to end, whatever its framing says: that is not judged; when it has said why it ends, or ``[DONE]``; with
``[DONE]``; with the event behind which its API has no other."""
_STORED_RESPONSE: Final = "/v1/responses/{id}"
_ENDS: Final = {
    CHAT: AT_A_REASON, COMPLETIONS: AT_A_REASON, RESPONSES: AT_ITS_LAST, _STORED_RESPONSE: AT_ITS_LAST, MESSAGES: AT_ITS_LAST,
}  # fmt: skip

BELOW_RESPONSES: Final = b"/v1/responses/"
MAX_ID_BYTES: Final = 256
"""Of a response's id; a longer one is none."""
# The ways below it that no server reads otherwise: nothing that decoding, merging slashes, taking dots out or cutting off
# parameters (RFC 3986 §3.3) would change. An id is whose it is under one name alone.
_PLAIN: Final = rb"[0-9A-Za-z_][0-9A-Za-z_.~:=@-]*"
_PLAIN_BELOW: Final = re.compile(rb"%b%b(?:/%b)*" % (BELOW_RESPONSES, _PLAIN, _PLAIN)).fullmatch
_PLAIN_CHAT: Final = re.compile(rb"/v1/chat/completions/(%b)(?:/(%b))?" % (_PLAIN, _PLAIN)).fullmatch

_POST: Final = frozenset({b"POST"})
_GET: Final = frozenset({b"GET"})
_ANY: Final = frozenset({b"GET", b"POST", b"PUT", b"PATCH", b"DELETE"})

INPUT_TOKENS: Final = "/v1/responses/input_tokens"
COMPACT: Final = "/v1/responses/compact"
_OF_RESPONSES: Final = (INPUT_TOKENS, COMPACT)
"""They are asked of responses that are still to be made, and may go on from one that is stored."""

_JSON_PATHS: Final = (
    "/v1/embeddings",
    RESPONSES,
    *_OF_RESPONSES,
    MESSAGES,
    "/v1/messages/count_tokens",
    "/v1/rerank",
    "/v2/rerank",
    "/rerank",
    "/v1/score",
    "/score",
    "/tokenize",
    "/detokenize",
    "/v1/tokenize",
    "/v1/detokenize",
    "/v1/audio/speech",
    IMAGES,
)
_UPLOAD_PATHS: Final = (*HEARING, "/v1/images/edits", "/v1/images/variations")
_GENERATES: Final = frozenset({RESPONSES, MESSAGES})
_METERED: Final = frozenset({
    "/v1/embeddings", "/v1/rerank", "/v2/rerank", "/rerank", "/v1/score", "/score", "/v1/audio/speech",
    IMAGES, COMPACT,
})  # fmt: skip
# vLLM takes these without a model.
_MODEL_OPTIONAL: Final = frozenset({"/tokenize", "/detokenize", "/v1/tokenize", "/v1/detokenize", "/rerank", "/score"})
# They count, and generate nothing.
_LIGHT: Final = frozenset({
    "/v1/messages/count_tokens", INPUT_TOKENS, "/tokenize", "/detokenize", "/v1/tokenize", "/v1/detokenize",
})  # fmt: skip
_LOCAL_PATHS: Final = {
    "/liveness": "liveness",
    "/readiness": "readiness",
    "/health": "health",
    "/healthz": "healthz",
    "/ready": "ready",
}

OF_LIFE: Final = frozenset({"liveness", "health", "healthz"})
"""Those by which a supervisor asks whether the process is to be started anew: in its drain too it is not."""

# Of engines' own APIs: (whose, whether the body must name a model; TGI serves one).
_OWN_PATHS: Final = {
    "/api/chat": (OLLAMA, True),
    "/api/generate": (OLLAMA, True),
    "/generate": (TGI, False),
    "/generate_stream": (TGI, False),
}


# Of a response that an engine has stored: what stands behind its id in a path, and the endpoint's own name.
_STORED: Final = {
    _STORED_RESPONSE: (b"", frozenset({b"GET", b"DELETE"})),
    "/v1/responses/{id}/cancel": (b"cancel", _POST),
    "/v1/responses/{id}/input_items": (b"input_items", _GET),
}

# Of a chat completion that an engine has stored, the same. Whose it is, nobody says: who has no key may have it by its id.
_BELOW_CHAT: Final = b"/v1/chat/completions/"
_STORED_CHATS: Final = {
    "/v1/chat/completions/{id}": (b"", frozenset({b"GET", b"POST", b"DELETE"})),
    "/v1/chat/completions/{id}/messages": (b"messages", _GET),
}


PATHS: Final = (CHAT, COMPLETIONS, *_JSON_PATHS, *_OWN_PATHS, *_UPLOAD_PATHS, "/v1/realtime")
"""What engines are asked for, beside ``passthrough_paths``."""


def _without_keys(label: str, methods: frozenset[bytes]) -> Endpoint:
    """An endpoint that has its methods where no key is asked for alone."""
    made = Endpoint(label, frozenset(), UPLOAD, model=False)
    made.others.update((method, Endpoint(label, frozenset({method}), UPLOAD, model=False)) for method in methods)
    return made


class EndpointTable:
    """Exact look-up by path, then by the few prefixes that take anything below them, then as one of a stored response."""

    __slots__ = ("_chats", "_exact", "_passed", "_prefixes", "_stored", "get")

    def __init__(
        self, passthrough: Sequence[str] = (), runners: bool = False, shown: bool = False, metrics: bool = False
    ) -> None:
        """``runners``: they may dial in; ``shown``: who asks is told which there are; ``metrics``: they are shown here."""
        exact: dict[bytes, Endpoint] = {}
        for path in (CHAT, COMPLETIONS):
            exact[path.encode()] = Endpoint(path, _POST, JSON, usage=True, generates=True)
        for path in _JSON_PATHS:
            exact[path.encode()] = Endpoint(
                path,
                _POST,
                JSON,
                model=path not in _MODEL_OPTIONAL,
                metered=path in _METERED,
                generates=path in _GENERATES,
            )
        for path, (dialect, model) in _OWN_PATHS.items():
            exact[path.encode()] = Endpoint(path, _POST, JSON, model=model, generates=True, dialect=dialect)
        for path in _UPLOAD_PATHS:
            exact[path.encode()] = Endpoint(path, _POST, UPLOAD, metered=True)
        for path, name in _LOCAL_PATHS.items():
            exact[path.encode()] = Endpoint(path, _GET, LOCAL, auth=False, model=False, local=name)
        exact[b"/v1/models"] = Endpoint("/v1/models", _GET, LOCAL, model=False, local="models")
        exact[b"/v1/usage"] = Endpoint("/v1/usage", _GET, LOCAL, model=False, local="usage")
        exact[b"/v1/realtime"] = Endpoint("/v1/realtime", _GET, TUNNEL, model=False)
        if metrics:
            exact[b"/metrics"] = Endpoint("/metrics", _GET, LOCAL, auth=False, model=False, local="metrics")
        if runners:
            exact[b"/ws/runners"] = Endpoint("/ws/runners", _GET, LOCAL, auth=False, model=False, local="ws_runners")
        if runners and shown:
            exact[b"/runners"] = Endpoint("/runners", _GET, LOCAL, auth=False, model=False, local="runners")
        one = Endpoint("/v1/models/{id}", _GET, LOCAL, model=False, local="model")
        prefixes = [(b"/v1/models/", one)]
        # All that an engine has stored, and a model itself, belong to nobody's key.
        exact[CHAT.encode()].others[b"GET"] = Endpoint("GET " + CHAT, _GET, UPLOAD, model=False)
        exact[RESPONSES.encode()].others[b"CONNECT"] = Endpoint(TURNS, _GET, TUNNEL)
        one.others[b"DELETE"] = Endpoint("DELETE " + one.label, frozenset({b"DELETE"}), UPLOAD, model=False)
        passed = []
        for path in passthrough:
            there = exact.get(path.encode())
            if there is not None and there.metered:
                continue  # (it is passed on in any case, and its tokens count)
            passed.append(path)
            endpoint = Endpoint(path, _ANY, UPLOAD, model=False)
            if path.endswith("/*"):
                prefixes.append((path[:-1].encode(), endpoint))
            else:
                exact[path.encode()] = endpoint
        self._stored = {
            behind: Endpoint(label, methods, UPLOAD, model=False) for label, (behind, methods) in _STORED.items()
        }
        self._chats = {behind: _without_keys(label, methods) for label, (behind, methods) in _STORED_CHATS.items()}
        self._exact = exact
        self._passed = frozenset(passed)
        self._prefixes = tuple(prefixes)
        self.get = exact.get

    def find(self, path: bytes) -> Endpoint | None:
        """The endpoint for ``path``, prefixes included."""
        found = self._exact.get(path)
        if found is not None:
            return found
        if b".." in path or b"%2e" in path.lower():
            # An engine that normalises must not be led out of the prefix.
            return None
        for prefix, endpoint in self._prefixes:
            if path.startswith(prefix) and len(path) > len(prefix):
                # A slash in a model's name comes encoded from the SDKs; nobody's key has that path sent on.
                if endpoint.mode is LOCAL:
                    return endpoint
                return None if b"%2f" in path.lower() or self._means_another(path) else endpoint
        if _PLAIN_BELOW(path) is not None:
            told, slash, behind = path[len(BELOW_RESPONSES) :].partition(b"/")
            if 0 < len(told) <= MAX_ID_BYTES and bool(slash) == bool(behind):
                return self._stored.get(behind)
        chat = _PLAIN_CHAT(path)
        return self._chats.get(chat[2] or b"") if chat is not None and len(chat[1]) <= MAX_ID_BYTES else None

    def _means_another(self, path: bytes) -> bool:
        """Whether a path that is to be passed through is one that is dealt with here, for an engine (or what stands before it)
        that decodes it, is not exact about slashes, takes dots out or cuts parameters off; or one of a stored response, in
        whatever other spelling."""
        if path.startswith(BELOW_RESPONSES) and _PLAIN_BELOW(path) is None:
            return True
        from urllib.parse import unquote_to_bytes  # (only a path with a percent sign, or of a passthrough, gets here)

        parts = [part.partition(b";")[0] for part in unquote_to_bytes(path).split(b"/")]
        meant = b"/" + b"/".join([part for part in parts if part not in (b"", b".")])
        found = self._exact.get(meant)
        if found is not None and found.label not in self._passed:
            return True
        return any(endpoint.mode is LOCAL and meant.startswith(prefix) for prefix, endpoint in self._prefixes)
