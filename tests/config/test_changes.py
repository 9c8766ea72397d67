"""What of new settings holds in a gateway that runs, and what waits for a restart."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw import Config, ConfigErrors, EngineConfig
from fastgw.config.changes import between
from fastgw.config.row import AT_ONCE, CONNECTIONS, RESTART
from fastgw.config.table import TABLE

WAITS = {
    "compat", "host", "port", "unix_socket", "http2", "state_dir", "on_corrupt_state", "control_listen", "native",
    "workers", "tls_cert_file", "tls_key_file", "tls_min_version", "tls_client_ca_file", "tls_client_auth", "control_tls",
    "gpu", "gpu_names", "gpu_processes", "gpu_exporter_host", "gpu_exporter_port", "metrics_by",
    "enable_otlp_tracing", "otlp_endpoint", "otlp_traces_endpoint", "otlp_protocol", "otlp_headers", "otlp_timeout_ms",
    "otlp_compression", "otel_sdk_disabled", "otel_service_name", "otel_resource_attributes",
}  # fmt: skip


def test_what_waits_for_a_restart_is_what_a_living_process_cannot_change() -> None:
    assert {row.name for row in TABLE if row.reload == RESTART} == WAITS
    assert {row.reload for row in TABLE} == {AT_ONCE, CONNECTIONS, RESTART}


@pytest.mark.parametrize(
    ("before", "after", "changed", "pending"),
    [
        ({}, {}, (), ()),
        ({}, {"queue_size": 3, "log_level": "debug"}, ("queue_size", "log_level"), ()),
        ({}, {"port": 1234, "queue_size": 3}, ("queue_size",), ("port",)),
        ({"api_keys": ["one"]}, {"api_keys": ["two"]}, ("api_keys",), ()),
        ({"api_keys": ["one"]}, {"api_keys": ["one"]}, (), ()),
        ({"api_keys": ["one"]}, {}, ("api_keys", "require_key"), ("require_key",)),
        ({"require_key": True}, {}, (), ("require_key",)),
        ({}, {"api_keys": ["one"]}, ("api_keys",), ()),
        ({}, {"engines": [EngineConfig(url="http://a")]}, ("engines",), ()),
    ],
)
def test_what_holds(before: dict[str, Any], after: dict[str, Any], changed: tuple[str, ...], pending: tuple[str, ...]) -> None:
    had, written = Config(**before), Config(**after)
    change = between(had, written)
    assert (change.changed, change.pending) == (changed, pending)
    for name in WAITS:
        assert getattr(change.config, name) == getattr(had, name)
    assert change.config.api_key_digests == written.api_key_digests
    assert change.config.queue_size == written.queue_size


def test_what_was_pending_is_no_more_when_it_is_written_as_it_holds() -> None:
    first = between(Config(), Config(port=1))
    assert first.pending == ("port",)
    assert between(first.config, Config()).pending == ()


def test_the_whole_is_checked_and_not_only_what_is_new() -> None:
    """Written anew it would listen on loopback; it listens where others come until it is started again."""
    had = Config(host="0.0.0.0", allow_anonymous=True)
    with pytest.raises(ConfigErrors, match=r"others can reach 0\.0\.0\.0"):
        between(had, Config())


def test_a_file_of_keys_is_read_once_and_stays_in_the_settings(tmp_path: Any) -> None:
    path = tmp_path / "keys"
    path.write_text("one\n")
    path.chmod(0o600)
    change = between(Config(), Config(port=1, api_keys_file=str(path)))
    assert (change.config.api_keys_file, len(change.config.api_key_digests)) == (str(path), 1)
    path.unlink()
    assert change.changed == ("api_keys", "api_keys_file")
