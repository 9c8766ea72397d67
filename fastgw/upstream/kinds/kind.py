"""A kind of engine: what the gateway asks it, how it tells itself, and in what it differs from the others.

Owns: the words for what kinds differ in. A difference is a field here, with one value in each kind's file, and code elsewhere
asks for the field, never for the kind; so a new kind is a file, and a new difference a field. Invariant: a kind never changes.
"""

from __future__ import annotations

from typing import Final

from fastgw.config.names import EngineKind
from fastgw.protocol.gauges import Names
from fastgw.upstream.models import Reader

ANY: Final = 65535
"""Idle connections to an engine to which they are nothing: as many as were needed lately. (The most that a setting can say.)"""


class Kind:
    """One kind of engine.

    ``probe_paths``: in which order its health is asked for; the first that answers 2xx is kept. ``models_path``: where its list
    of models is, and ``owned_by`` whose it says there that they are: that tells an engine of kind ``auto`` to be of this one
    ("" = nothing does). ``asked`` is a path that no other kind has, and a member that the answer has there, itself or in what
    it lists: an engine whose list does not tell is asked so, once (empty = nothing does). ``more``: a path where it says more
    of its models, and who reads that (empty, None = there is none); ``show_path``: where one model at a time is asked for, by
    POST.

    ``gauges``: what its ``/metrics`` calls its load, None = not known, which the page itself may tell. ``owner``: whose models
    these are in the gateway's own list.

    ``asks_usage``: a stream without ``stream_options`` is asked for its usage. ``knows_completion_tokens``: it takes
    ``max_completion_tokens`` of a chat; one that does not know it would make as much as it likes, and is told ``max_tokens`` as
    well. ``refuses_max_tokens``: of a chat it takes nothing else. ``counts_one_answer``: of several answers to one request, its
    figures are those of one. ``cancel``: closing its connection stops a generation, unless the engine's setting says otherwise.
    ``h2c``: it may speak HTTP/2 without TLS, or what stands for it: it is asked so (a line in the log of one that does not).
    ``max_idle``: so many idle connections to it are kept at the most, unless ``engine_max_idle`` says otherwise.
    ``rank_header``: by which field a request is for one of its data-parallel ranks (empty = there is none). ``loads_adapters``:
    asked for a LoRA adapter that it does not have, of a model that it has, it may find and load it. ``default_tag``: how a name
    ends that means the same without it.
    """

    __slots__ = (
        "asked",
        "asks_usage",
        "cancel",
        "counts_one_answer",
        "default_tag",
        "gauges",
        "h2c",
        "knows_completion_tokens",
        "loads_adapters",
        "max_idle",
        "models_path",
        "more",
        "name",
        "owned_by",
        "owner",
        "probe_paths",
        "rank_header",
        "refuses_max_tokens",
        "show_path",
    )

    def __init__(
        self,
        name: EngineKind,
        *,
        probe_paths: tuple[bytes, ...] = (b"/health", b"/healthz", b"/v1/models"),
        models_path: bytes = b"/v1/models",
        owned_by: str = "",
        asked: tuple[bytes, str] = (b"", ""),
        more: tuple[bytes, Reader | None] = (b"", None),
        show_path: bytes = b"",
        gauges: Names | None = None,
        owner: str = "",
        asks_usage: bool = True,
        knows_completion_tokens: bool = False,
        refuses_max_tokens: bool = False,
        counts_one_answer: bool = False,
        cancel: bool = True,
        h2c: bool = True,
        max_idle: int = ANY,
        rank_header: bytes = b"",
        loads_adapters: bool = False,
        default_tag: str = "",
    ) -> None:
        self.name = name
        self.probe_paths = probe_paths
        self.models_path = models_path
        self.owned_by = owned_by
        self.asked = asked
        self.more = more
        self.show_path = show_path
        self.gauges = gauges
        self.owner = owner or name
        self.asks_usage = asks_usage
        self.knows_completion_tokens = knows_completion_tokens
        self.refuses_max_tokens = refuses_max_tokens
        self.counts_one_answer = counts_one_answer
        self.cancel = cancel
        self.h2c = h2c
        self.max_idle = max_idle
        self.rank_header = rank_header
        self.loads_adapters = loads_adapters
        self.default_tag = default_tag

    def also(self, name: str) -> str:
        """The other name by which it knows the model ``name``, with the tag that it takes for granted or without; "" = none."""
        if not self.default_tag:
            return ""
        short = name.removesuffix(self.default_tag)
        return short if short != name else "" if ":" in name.rpartition("/")[2] else name + self.default_tag

    def __repr__(self) -> str:
        return f"<Kind {self.name}>"
