"""Tests mirror the package: who changes ``fastgw/limits/meter.py`` knows that ``tests/limits/test_meter.py`` is to be read.

``test_meter_clock.py`` is as good: a large module's tests are files by topic. What is tested elsewhere is named below.
"""

from __future__ import annotations

from pathlib import Path

from tests.architecture.sources import ROOT, files, text, unlike

# Module: the test file that covers it, below tests/.
ELSEWHERE: dict[str, str] = {
    # A program's face, seen by who starts it.
    "__main__": "cli/test_cli.py",
    "accounts": "e2e/test_follow.py",
    "app": "e2e/test_cases_k_process.py",
    "cli": "cli/test_cli.py",
    "counters": "test_stats.py",
    "demo": "cli/test_demo.py",
    "digests": "accel/test_small.py",
    "doors": "e2e/test_control.py",
    "early": "test_start.py",
    "engines": "e2e/test_fleet.py",
    "events": "observe/test_logs.py",
    "keyring": "e2e/test_keys.py",
    "late": "test_start.py",
    "loading": "test_reload.py",
    "selftest": "cli/test_selftest.py",
    "serve": "e2e/test_cases_k_process.py",
    "tasks": "store/test_state.py",
    "twins": "native/test_twins.py",
    "vitals": "e2e/test_cases_k_process.py",
    # Tables, held against what they are made into.
    "config/table": "config/test_settings.py",
    # Parts of a machine that is tested as one.
    "accel/attached": "accel/test_prompt_size.py",
    "accel/brackets": "accel/test_bodies.py",
    "accel/event_notes": "accel/test_sse.py",
    "accel/events": "accel/test_sse.py",
    "accel/figures": "accel/test_usage.py",
    "accel/head_lines": "accel/test_heads.py",
    "accel/hashing": "accel/test_small.py",
    "accel/judges": "accel/test_heads.py",
    "accel/members": "accel/test_bodies.py",
    "accel/plain_usage": "accel/test_usage.py",
    "accel/prompts": "accel/test_prompt_size.py",
    "accel/refusals": "accel/test_heads.py",
    "accel/tokens": "accel/test_small.py",
    "config/address": "config/test_mistakes.py",
    "config/check": "config/test_mistakes.py",
    "config/profiles": "config/test_load.py",
    "config/problems": "config/test_mistakes.py",
    "config/render": "config/test_settings.py",
    "config/row": "config/test_settings.py",
    "config/sources": "config/test_load.py",
    "config/toml_file": "config/test_load.py",
    "config/variables": "config/test_load.py",
    "control/admin_reload": "test_reload.py",
    "control/call": "control/test_admin_refusals.py",
    "limits/key": "store/test_keys.py",
    "protocol/endings": "conversations/test_endings.py",
    "protocol/http1/opinion": "e2e/test_cases_a_splits.py",
    "protocol/http1/reference": "accel/test_heads.py",
    "protocol/h2/budget": "conversations/test_cases_g_faults.py",
    "protocol/h2/frames": "conversations/test_cases_g_faults.py",
    "protocol/h2/writer": "conversations/test_h2_answers.py",
    "protocol/start": "protocol/http1/test_writer.py",
    "store/fields": "store/test_keys.py",
    "store/folder": "store/test_state.py",
    "store/reading": "store/test_database.py",
    # An exchange and its streams do nothing without one another: conversations, and what only sockets show.
    "exchange/asking": "conversations/test_retries.py",
    "exchange/attempt": "e2e/test_cases_e_upstream.py",
    "exchange/context": "e2e/test_head_memory.py",
    "exchange/endpoints": "e2e/test_endpoints.py",
    "exchange/exchange": "conversations/test_exchange.py",
    "exchange/figures": "conversations/test_counts.py",
    "exchange/gateway": "e2e/test_cases_a_turns.py",
    "exchange/intake": "conversations/test_exchange.py",
    "exchange/merged": "e2e/test_embedding_merge.py",
    "exchange/merging": "e2e/test_embedding_merge.py",
    "exchange/record": "e2e/test_what_counts.py",
    "exchange/refusal": "e2e/test_cases_j_limits.py",
    "exchange/relay": "e2e/test_cases_f_streams.py",
    "exchange/session": "e2e/test_cases_f_streams.py",
    "exchange/showing": "policy/test_hooks.py",
    "exchange/state": "conversations/test_exchange.py",
    "exchange/tunnel": "e2e/test_realtime_usage.py",
    "exchange/upload": "e2e/test_large_bodies.py",
    "net/channel": "upstream/test_scheduler.py",
    "net/client": "e2e/test_cases_a_turns.py",
    "net/fetch": "upstream/test_scheduler.py",
    "net/h1_states": "net/test_h1_connection.py",
    "net/h2_fetch": "upstream/test_asked.py",
    "net/h2_link": "conversations/test_cases_g_faults.py",
    "net/h2_upstream": "conversations/test_cases_g_faults.py",
    "net/live": "cli/test_live.py",
    "net/shortage": "e2e/test_open_files.py",
    "net/tls_channel": "e2e/test_tls_engines.py",
    "net/tls_end": "net/test_handshake.py",
    "net/tls_shake": "net/test_handshake.py",
    "net/tls_words": "e2e/test_tls_engines.py",
    "net/unusable": "net/test_certificates.py",
    "net/upstream": "e2e/test_cases_e_upstream.py",
    "policy/auth": "e2e/test_keys.py",
    "policy/bodylimit": "e2e/test_cases_c_bodies.py",
    "policy/browsers": "e2e/test_browsers.py",
    "policy/charge": "e2e/test_cases_j_quota_charges.py",
    "policy/cors": "e2e/test_browsers.py",
    "policy/iplimit": "e2e/test_cases_j_limits.py",
    "policy/lanes": "policy/test_queue.py",
    "policy/places": "policy/test_queue.py",
    "policy/quota": "e2e/test_cases_j_quota.py",
    "policy/ratelimit": "e2e/test_cases_j_limits.py",
    "policy/rewrite": "policy/test_bounds.py",
    "policy/route": "e2e/test_cases_c_bodies.py",
    "policy/routing/at_random": "policy/routing/test_strategies.py",
    "policy/routing/by_route": "policy/routing/test_strategies.py",
    "policy/routing/least_loaded": "policy/routing/test_strategies.py",
    "policy/routing/ordered": "conversations/test_retries.py",
    "policy/routing/power_of_two": "policy/routing/test_strategies.py",
    "policy/routing/registry": "policy/routing/test_strategies.py",
    "policy/routing/round_robin": "policy/routing/test_strategies.py",
    "policy/routing/search": "policy/routing/test_strategies.py",
    "policy/sessions": "e2e/test_realtime_usage.py",
    "policy/waiting": "policy/test_queue.py",
    "upstream/health": "e2e/test_cases_j_breaker.py",
    "upstream/kinds/auto": "upstream/test_kinds.py",
    "upstream/kinds/kind": "upstream/test_kinds.py",
    "upstream/kinds/llamacpp": "upstream/test_kinds.py",
    "upstream/kinds/ollama": "upstream/test_kinds.py",
    "upstream/kinds/openai": "upstream/test_kinds.py",
    "upstream/kinds/registry": "upstream/test_kinds.py",
    "upstream/kinds/sglang": "upstream/test_kinds.py",
    "upstream/kinds/tgi": "upstream/test_kinds.py",
    "upstream/kinds/vllm": "upstream/test_kinds.py",
    "upstream/h2_slots": "conversations/test_cases_g.py",
    "upstream/target": "upstream/test_table.py",
    # The simulator is one server.
    "sim/answers": "sim/test_engine.py",
    "sim/config": "sim/test_cli.py",
    "sim/debug": "sim/test_server.py",
    "sim/events": "sim/test_api.py",
    "sim/front": "sim/test_h2.py",
    "sim/h2_player": "sim/test_h2_faults.py",
    "sim/h2_seen": "sim/test_h2.py",
    "sim/h2_stream": "sim/test_h2.py",
    "sim/heads": "sim/test_server.py",
    "sim/player": "sim/test_engine.py",
    "sim/reading": "sim/test_server.py",
    "sim/received": "sim/test_server.py",
    "sim/routes": "sim/test_api.py",
    "sim/shapes": "sim/test_api.py",
    "sim/text": "sim/test_api.py",
    "sim/websocket": "sim/test_server.py",
    "sim/wire": "sim/test_server.py",
    "sim/work": "sim/test_engine.py",
}


def _mirrored(module: Path) -> bool:
    folder = ROOT / "tests" / module.parent
    return (folder / f"test_{module.name}.py").exists() or any(folder.glob(f"test_{module.name}_*.py"))


def test_every_module_has_its_test_file() -> None:
    sources = [path.relative_to("fastgw").with_suffix("") for path in files("fastgw") if path.name != "__init__.py"]
    assert unlike([str(one) for one in sources if not _mirrored(one)], ELSEWHERE) == []


def test_the_files_that_are_named_are_there() -> None:
    named = sorted({Path("tests", name) for name in ELSEWHERE.values()})
    assert [str(path) for path in named if not (ROOT / path).exists() or "def test_" not in text(path)] == []
