"""What these pages tell an operator to type (limits, keys, measuring) is typed here, in their order, against real processes.

A page is one story: what serves goes on until its end, what a command leaves in the shell is there for the next. Replaced are
only the ports, and the folder for state. A command must end well; a ``curl`` must be answered 2xx, or with the status that
stands behind it as a comment.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastgw.accel.figures import MEMBERS
from fastgw.accel.members import BOUNDS, PROMPTS
from fastgw.config.entries import ENGINE_FIELDS, ROUTE_FIELDS
from fastgw.config.table import TABLE
from fastgw.errors import KINDS
from tests.support.ports import closed_port

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
NAMES = ("limits.md", "keys.md", "deployments.md", "admin.md", "bench.md")
PAGES = {name: (ROOT / "docs" / name).read_text() for name in NAMES}
# (Words of the others: test_engines_page, test_migrate_page; quickstart.md has none but these.)
STORIES = PAGES | {name: (ROOT / "docs" / name).read_text() for name in ("engines.md", "migrate.md", "quickstart.md")}
CURLS = {"limits.md": 7, "keys.md": 17, "deployments.md": 9, "admin.md": 22, "engines.md": 11, "bench.md": 0, "migrate.md": 4}
CURLS |= {"quickstart.md": 10}
STATUSES = {"limits.md": {200, 400, 429, 500, 503}, "keys.md": {200, 201, 204, 401}, "deployments.md": {200, 404, 503}}
STATUSES["bench.md"] = set()
STATUSES["migrate.md"] = {200}
STATUSES["admin.md"] = {200, 201, 202, 204, 401, 403, 404, 405}
STATUSES["engines.md"] = {200, 201, 204, 422}
STATUSES["quickstart.md"] = {200, 401, 429}
GATEWAY = "8080"
LITELLM = "4000"
PORTS = ("8000", "8001", "8002", GATEWAY, "8081", "9090")  # of the pages
MARK = "@@ "

# Ends what it has started, whatever happens. What serves is waited for.
BEGIN = """
set -euo pipefail
trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
curl() { command curl -sS -m 20 -w '\\n@@ %{http_code}\\n' "$@"; }
up() {
    for _ in $(seq 400); do
        if command curl -sf -o /dev/null "$1"; then return; fi
        kill -0 $! || exit 9
        sleep 0.05
    done
    exit 9
}
"""


def commands(page: str) -> list[str]:
    """The page's command lines, in order."""
    blocks = re.findall(r"^```sh\n(.*?)^```", STORIES[page], re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def script(page: str, folder: Path, ports: dict[str, str]) -> tuple[str, list[int]]:
    """The story as one script, and the statuses that it promises (0 = any that is good), in the order of its answers."""
    lines = [BEGIN]
    promised: list[int] = []
    for line in commands(page):
        if re.search(r"\bfastgw (sim|serve)\b", line):
            log = folder / f"served-{len(lines)}"
            lines.append(f"{line} >{log} 2>&1 &")
            own = re.search(r"\bfastgw (?:sim|serve) .*?--port (\d+)", line)
            lines.append(f"up http://127.0.0.1:{own[1] if own else GATEWAY}/health")
            continue
        lines.append(line)
        if "curl " in line:
            status = re.search(r"# (\d{3})$", line)
            times = len(re.findall(r"for i in ([\d ]+);", line)[0].split()) if line.startswith("for ") else 1
            promised += [int(status[1]) if status else 0] * times
    text = "\n".join(lines).replace("/var/lib/fastgw", str(folder / "state"))
    for port, free in ports.items():
        text = re.sub(rf"\b{port}\b", free, text)
    return text, promised


class Told:
    """What a page's story has printed: everything, and each answer's status with its text before it."""

    def __init__(self, text: str) -> None:
        self.text = text
        pieces = re.split(rf"^{MARK}(\d{{3}})\n", text, flags=re.MULTILINE)
        self.answers = list(zip(pieces[::2], map(int, pieces[1::2]), strict=False))

    def last_json(self, piece: str) -> object:
        """The JSON of the first answer that holds ``piece``."""
        text = next(text for text, _ in self.answers if piece in text)
        return json.loads(text.strip().splitlines()[-1])


@pytest.fixture(scope="module", params=STORIES)
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Told, list[int]]:
    if shutil.which("curl") is None or shutil.which("bash") is None:
        pytest.skip("the pages use bash and curl")
    page = request.param
    folder = tmp_path_factory.mktemp("page")
    ports = {port: str(closed_port()) for port in PORTS}
    ports[LITELLM] = ports[GATEWAY]
    text, promised = script(page, folder, ports)
    own = ("FASTGW_", "GATEWAY_", "VLLM_", "ADMIN_", "RATE_", "DAILY_", "CB_")
    environment = {key: value for key, value in os.environ.items() if key == "FASTGW_NATIVE" or not key.startswith(own)}
    environment |= {"PATH": f"{BIN}:{environment['PATH']}", "FASTGW_PORT": ports[GATEWAY]}
    if page == "migrate.md":  # (what an import writes names ports too)
        environment["FASTGW_CONTROL_LISTEN"] = f"127.0.0.1:{ports['9090']}"
    done = subprocess.run(
        ["bash", "-c", text], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    logs = "".join(log.read_text() for log in sorted(folder.glob("served-*")))
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}\n{logs}"
    return page, Told(done.stdout), promised


def test_every_command_of_the_page_does_what_it_says(told: tuple[str, Told, list[int]]) -> None:
    page, story, promised = told
    found = [status for _, status in story.answers]
    assert len(found) == len(promised)
    for status, expected, (text, _) in zip(found, promised, story.answers, strict=True):
        assert status == expected if expected else 200 <= status < 300, f"{status} instead of {expected or '2xx'}: {text}"
    assert sum("curl " in line for line in commands(page)) == CURLS[page]
    assert set(found) == STATUSES[page]


def test_the_answers_are_those_of_the_page(told: tuple[str, Told, list[int]]) -> None:
    page, story, _ = told
    if page == "quickstart.md":
        assert "data: [DONE]" in story.answers[2][0]
        assert '"code":"rate_limit_exceeded"' in story.text
        assert '"requests_per_minute": 1,' in story.text or '"requests_per_minute":1,' in story.text
        return
    if page == "bench.md":
        assert all(column in story.text for column in ("Workers | RPS", "Total Reqs | Avg TTFT", "Goodput(req/s)", "trace | 2"))
        assert "failed" not in story.text
        return
    if page == "admin.md":
        events = [json.loads(line[6:])["what"] for line in story.text.splitlines() if line.startswith('data: {"')]
        assert {"engine_added", "engine_removed", "engine_drains", "engine_undrained", "engine_changed"} <= set(events)
        assert "long-secret" not in story.text
        return
    if page == "migrate.md":
        llama, alias, fallen, _ = (text for text, _ in story.answers)
        assert ["x-fallback-model: small" in text for text in (llama, alias, fallen)] == [False, False, True]
        assert story.text.count("The configuration is valid.") == 3
        return
    if page == "keys.md":
        # Ann's, bob's and his new one, the runner's, ci's two new ones; ci's first went into a variable.
        assert len(re.findall(r"fgw_[\w-]{43}", story.text)) == len(set(re.findall(r"fgw_[\w-]{43}", story.text))) == 6
        audit = story.last_json('"actor"')
        assert isinstance(audit, dict)
        assert {one["actor"].partition(":")[0] for one in audit["data"]} == {"cli", "admin"}
        assert {one["action"] for one in audit["data"]} == {"create", "update", "disable", "enable", "rotate", "delete"}
        return
    if page == "engines.md":
        chosen = re.findall(r"^x-fastgw-explain: (?:engine=(\w+)|error=(\w+));", story.text, re.MULTILINE)
        ann, again, first, seeing, unmet = ("".join(one) for one in chosen)
        assert (again, first, seeing, unmet) == (ann, "small", "big", "needs_unmet")
        assert f'"engine":"{ann}"' in story.answers[5][0]
        return
    if page == "deployments.md":
        restored, virtual, _, unknown, *_, fallen, explained = (text for text, _ in story.answers[1:10])
        assert '"model":"gpt-4o"' in restored.replace(" ", "")
        assert re.search(r"x-fastgw-explain: engine=(stable|canary); model=llama; drawn=v[12]", restored)
        assert "x-fastgw-model: qwen" in virtual
        assert "Did you mean llama?" in unknown
        assert "x-fallback-model: qwen" in fallen
        assert '"why":"none takes requests now"' in explained
        return
    assert "x-ratelimit-remaining-requests: 599" in story.text
    for code in ("request_exceeds_limit", "circuit_open"):
        assert f'"code":"{code}"' in story.text
    assert "x-should-retry: false" in story.text
    shown = json.loads(re.search(r"^```json\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL)[1])  # type: ignore[index]
    found = story.last_json('"quota_remaining"')
    assert isinstance(found, dict)
    assert list(found) == list(shown)
    # What a minute's meter has left grows while one reads.
    still = {name for name in shown if name not in ("date", "requests_remaining", "tokens_remaining")}
    assert {name: found[name] for name in still} == {name: shown[name] for name in still}


def test_S2_11_every_metric_that_is_named_is_there(told: tuple[str, Told, list[int]]) -> None:
    page, story, _ = told
    named = set(re.findall(r"`(gateway_\w+)", "".join(PAGES.values())))
    assert len(named) > 15
    if page == "limits.md":
        there = set(re.findall(r"^(gateway_\w+)[ {]", story.text, re.MULTILINE))
        assert named - there == set()


@pytest.mark.parametrize("page", PAGES)
def test_settings_and_errors_that_are_named_exist(page: str) -> None:
    """A name with an underscore between backticks is a setting, an error's code, or one of the page's own words."""
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", PAGES[page]))
    known = {row.name for row in (*TABLE, *ENGINE_FIELDS, *ROUTE_FIELDS)}
    known |= {kind.code for kind in KINDS.values()}
    fields = {
        "limits.md": {"finish_reason", "stream_options", "max_completion_tokens", "max_output_tokens", "max_tokens",
                      "queued_ms", "bytes_in", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens",
                      "count_tokens", "rests_s",
                      "message_start", "content_block_delta", "timings_per_token", "multimodal_data", "unpriced_tokens",
                      "tenant_budget", *BOUNDS, *PROMPTS,
                      *(one.name.decode() for one in MEMBERS)},
        "deployments.md": {"max_tokens", "served_model", "model_aliases", "key_id", "request_id", "least_loaded", "no_route"},
        "keys.md": {"expires_at", "requests_per_minute", "daily_tokens", "has_more", "last_id", "grace_s", "key_not_found",
                    "store_unavailable", "unpriced_tokens"},
        "admin.md": {"engine_exists", "engine_added", "engine_removed", "engine_drains", "engine_undrained", "engine_changed",
                     "engine_well", "engine_not_well", "breaker_open", "breaker_closed", "discovery_failed", "discovery_well",
                     "discovery_stale",
                      "engine_ejected", "engine_readmitted", "worker_type"},
         "bench.md": {"at_s", "prompt_tokens", "max_tokens", "max_completion_tokens", "input_length", "output_length",
                      "finish_reason"},
    }  # fmt: skip
    named -= {name for name in named if name.startswith("gateway_")}
    assert named - known - fields[page] == set()
