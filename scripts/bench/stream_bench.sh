#!/usr/bin/env bash
# The load table of streams: the time to the first token with 1 to 32 workers, and how steady it is.
#
#   BASE_URL=http://127.0.0.1:8080 MODEL=qwen2.5-coder:7b bash scripts/bench/stream_bench.sh [options of fastgw bench]
#
# BASE_URL     the gateway, or any OpenAI-compatible server    (http://127.0.0.1:8080)
# MODEL        the model to ask                                (qwen2.5-coder:7b)
# API_KEY      the key, where one is needed                    (OPENAI_API_KEY, or none)
# WORKERS      a row for each                                  (1 2 4 8 16 32)
# PER_WORKER   requests of each worker                         (3)
# PROMPT       what is asked                                   (hi)
# MAX_TOKENS   the longest answer                              (32)
# HIGH_TTFT_S  a P99 above it is told as high latency          (1)
# TIMEOUT_S    for each answer                                 (120)
# FASTGW       the program                                     (this checkout's, or fastgw)
#
# Exit code 0 when all answers were good, 1 when some were not.

set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
FASTGW=${FASTGW:-$([ -x "$here/.venv/bin/fastgw" ] && echo "$here/.venv/bin/fastgw" || echo fastgw)}
workers=${WORKERS:-1 2 4 8 16 32}

# The key goes by the environment: arguments show in `ps`.
export OPENAI_API_KEY=${API_KEY:-${OPENAI_API_KEY:-}}
exec "$FASTGW" bench --stream --url "${BASE_URL:-http://127.0.0.1:8080}" --model "${MODEL:-qwen2.5-coder:7b}" \
    --workers "${workers// /,}" --per-worker "${PER_WORKER:-3}" --prompt "${PROMPT:-hi}" --max-tokens "${MAX_TOKENS:-32}" \
    --high-ttft "${HIGH_TTFT_S:-1}" --timeout "${TIMEOUT_S:-120}" "$@"
