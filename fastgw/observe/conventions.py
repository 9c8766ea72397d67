"""The names by which a span's attributes go: OpenTelemetry's semantic conventions, and fastgw's own where those have none.

Owns: every one of them, for those of generative AI still move (here as of semantic-conventions 1.41). HTTP: stable since 1.23.
"""

from __future__ import annotations

from typing import Final

# HTTP and network
METHOD: Final = "http.request.method"
ROUTE: Final = "http.route"
STATUS: Final = "http.response.status_code"
RESENT: Final = "http.request.resend_count"
PATH: Final = "url.path"
SCHEME: Final = "url.scheme"
PROTOCOL_VERSION: Final = "network.protocol.version"
CLIENT: Final = "client.address"
SERVER: Final = "server.address"
SERVER_PORT: Final = "server.port"
ERROR: Final = "error.type"

# Generative AI
OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_MODEL: Final = "gen_ai.response.model"
MAX_TOKENS: Final = "gen_ai.request.max_tokens"
STREAM: Final = "gen_ai.request.stream"
FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHED_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
INPUT: Final = "gen_ai.input.messages"
OUTPUT: Final = "gen_ai.output.messages"

# fastgw's own
REQUEST_ID: Final = "fastgw.request_id"
KEY: Final = "fastgw.key_id"
ENGINE: Final = "fastgw.engine"
TUNNELLED: Final = "fastgw.tunnelled"
OUTCOME: Final = "fastgw.outcome"
ESTIMATED: Final = "fastgw.usage.estimated"
CUT: Final = "fastgw.contents.cut"

OPERATIONS: Final = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/api/chat": "chat",
    "/v1/realtime": "chat",
    "/v1/completions": "text_completion",
    "/api/generate": "text_completion",
    "/generate": "text_completion",
    "/generate_stream": "text_completion",
    "/v1/embeddings": "embeddings",
}
"""What is done at an endpoint, in the words that the conventions have; of others nothing is said."""


def error_type(status: int, error: str, outcome: str) -> str:
    """How a request has failed that ended with ``status`` and ``outcome``: by the name of the gateway's own error (``error``,
    "" = there was none), by its status, or by how it broke off; "" = it went well."""
    if error:
        return error
    if status >= 400:
        return str(status)
    return outcome if outcome != "ok" else ""
