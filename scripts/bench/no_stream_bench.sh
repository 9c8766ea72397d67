#!/usr/bin/env bash
# The load table of plain answers: requests per second and latencies with 1, 4, 8 and 16 workers.
#
#   BASE_URL=http://127.0.0.1:8080 MODEL=qwen2.5-coder:7b bash scripts/bench/no_stream_bench.sh [options of fastgw bench]
#
# BASE_URL     the gateway, or any OpenAI-compatible server    (http://127.0.0.1:8080)
# MODEL        the model to ask                                (qwen2.5-coder:7b)
# API_KEY      the key, where one is needed                    (OPENAI_API_KEY, or none)
# WORKERS      a row for each                                  (1 4 8 16)
# DURATION_S   of each row                                     (5)
# PROMPT       what is asked                                   (hi)
# MAX_TOKENS   the longest answer                              (32)
# TIMEOUT_S    for each answer                                 (120)
# FASTGW       the program                                     (this checkout's, or fastgw)
#
# Exit code 0 when all answers were good, 1 when some were not.

set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
FASTGW=${FASTGW:-$([ -x "$here/.venv/bin/fastgw" ] && echo "$here/.venv/bin/fastgw" || echo fastgw)}
workers=${WORKERS:-1 4 8 16}

# The key goes by the environment: arguments show in `ps`.
export OPENAI_API_KEY=${API_KEY:-${OPENAI_API_KEY:-}}
exec "$FASTGW" bench --no-stream --url "${BASE_URL:-http://127.0.0.1:8080}" --model "${MODEL:-qwen2.5-coder:7b}" \
    --workers "${workers// /,}" --duration "${DURATION_S:-5}" --prompt "${PROMPT:-hi}" --max-tokens "${MAX_TOKENS:-32}" \
    --timeout "${TIMEOUT_S:-120}" "$@"
