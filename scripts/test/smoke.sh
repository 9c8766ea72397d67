#!/usr/bin/env bash
# A look at a running gateway, in a few seconds: is it up, does it list models, does it answer, does it stream?
#
#   BASE_URL=http://127.0.0.1:8080 OLLAMA_BASE=http://127.0.0.1:11434 MODEL=qwen2.5-coder:7b bash scripts/test/smoke.sh
#
# BASE_URL     the gateway                  (http://127.0.0.1:8080)
# OLLAMA_BASE  the engine behind it, asked first so that its absence is not blamed on the gateway
#              (http://127.0.0.1:11434; empty = not asked)
# MODEL        the model to ask             (qwen2.5-coder:7b)
# API_KEY      the key, where one is needed (none)
# TIMEOUT_S    for each answer              (60)
#
# One line per check. Exit code 0 when all passed, 1 when one did not.

set -uo pipefail

BASE_URL=${BASE_URL:-http://127.0.0.1:8080}
OLLAMA_BASE=${OLLAMA_BASE-http://127.0.0.1:11434}
MODEL=${MODEL:-qwen2.5-coder:7b}
API_KEY=${API_KEY:-}
TIMEOUT_S=${TIMEOUT_S:-60}
BASE_URL=${BASE_URL%/}
OLLAMA_BASE=${OLLAMA_BASE%/}

failed=0
status=""
body=""

# fetch METHOD URL [JSON]: sets `status` (000 = no answer) and `body`. The key goes by a pipe: arguments show in `ps`.
fetch() {
    local answer
    if command -v curl >/dev/null 2>&1; then
        local args=(--silent --no-buffer --max-time "$TIMEOUT_S" --request "$1" --write-out '\n%{http_code}')
        [ $# -gt 2 ] && args+=(--header 'Content-Type: application/json' --data-binary "$3")
        if [ -n "$API_KEY" ]; then
            answer=$(curl "${args[@]}" --header @<(printf 'Authorization: Bearer %s\n' "$API_KEY") "$2" 2>/dev/null)
        else
            answer=$(curl "${args[@]}" "$2" 2>/dev/null)
        fi || answer="no whole answer (curl's exit code $?)"$'\n'"${answer##*$'\n'}"
    else
        answer=$(API_KEY="$API_KEY" python3 - "$TIMEOUT_S" "$@" <<'PYTHON'
import os, sys, urllib.error, urllib.request

limit, method, url, *data = sys.argv[1:]
fields = {"Content-Type": "application/json"} if data else {}
if os.environ["API_KEY"]:
    fields["Authorization"] = "Bearer " + os.environ["API_KEY"]
asked = urllib.request.Request(url, data[0].encode() if data else None, fields, method=method)
try:
    with urllib.request.urlopen(asked, timeout=float(limit)) as answer:
        print(answer.read().decode("utf-8", "replace"), answer.status, sep="\n")
except urllib.error.HTTPError as error:
    print(error.read().decode("utf-8", "replace"), error.code, sep="\n")
except OSError as error:
    print(error, "000", sep="\n")
PYTHON
        )
    fi
    status=${answer##*$'\n'}
    body=${answer%$'\n'*}
}

ok() { printf 'ok    %s\n' "$1"; }

fail() {
    local text=${body//$'\n'/ }
    printf 'FAIL  %s: status %s, %s\n' "$1" "$status" "${text:0:300}"
    failed=1
}

quoted() {
    local text=${1//\\/\\\\}
    printf '"%s"' "${text//\"/\\\"}"
}

ask='{"model":'$(quoted "$MODEL")',"messages":[{"role":"user","content":"hi"}],"max_tokens":32,"stream":'

if [ -n "$OLLAMA_BASE" ]; then
    fetch GET "$OLLAMA_BASE/v1/models"
    case $status in
        2??|401|403) ok "the engine answers at $OLLAMA_BASE" ;;
        *) fail "the engine at $OLLAMA_BASE" ;;
    esac
fi

fetch GET "$BASE_URL/healthz"
if [ "$status" = 200 ] && [[ $body == [Oo][Kk] ]]; then ok "healthz"; else fail "healthz"; fi

fetch GET "$BASE_URL/v1/models"
if [ "$status" = 200 ] && [[ $body == *'"data"'* ]]; then ok "models"; else fail "models"; fi

fetch POST "$BASE_URL/v1/chat/completions" "${ask}false}"
if [ "$status" = 200 ] && [[ $body == *'"choices"'* ]]; then ok "an answer"; else fail "an answer"; fi

# Some engines never say [DONE]; a stream has events, a finish reason, and no error.
fetch POST "$BASE_URL/v1/chat/completions" "${ask}true}"
if [ "$status" = 200 ] && [[ $body == *'data: {'* && $body == *'"finish_reason"'* && $body != *'"error":{'* ]]; then
    ok "a stream"
else
    fail "a stream"
fi

fetch GET "$BASE_URL/no-such-path"
if [ "$status" = 404 ] && [[ $body == *'"error"'* ]]; then ok "an unknown path is refused"; else fail "an unknown path"; fi

if [ "$failed" = 0 ]; then echo "all well at $BASE_URL"; else echo "not all well at $BASE_URL"; fi
exit "$failed"
