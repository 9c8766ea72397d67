"""What an engine is asked by the gateway itself: its health, its models, and, where nobody has said what it is, what it is."""

from __future__ import annotations

from fastgw.upstream.kinds.registry import ASKED

PROBED: frozenset[str] = frozenset({"/health", "/v1/models", *(kind.asked[0].decode() for kind in ASKED)})
