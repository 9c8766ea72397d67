"""The settings that hold, shown to whoever runs the gateway: all of them, and no secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastgw.config import Config, ConfigErrors, EngineConfig, RouteConfig, load
from fastgw.config.dump import dumped
from fastgw.config.table import TABLE

SECRET = "sk-nobody-must-see-this"


def test_all_settings_are_there_and_no_secret_is() -> None:
    config = Config(
        engines=[EngineConfig(url="http://10.0.0.7:8000", name="gpu7", api_key=SECRET, models=["m"])],
        routes=[RouteConfig(model="m", fallback=["n"])], api_keys=[SECRET, SECRET + "2"], vllm_api_key=SECRET, admin_key=SECRET,
        admin_keys=[f"grafana:read:{SECRET}"], control_listen="127.0.0.1:0", policy="ordered",
    )  # fmt: skip
    shown = dumped(config)
    assert SECRET not in json.dumps(shown)
    assert set(shown) == {row.name for row in TABLE}
    assert (shown["policy"], shown["api_keys"], shown["admin_key"], shown["runner_auth_token"]) == ("ordered", 2, "<set>", "")
    assert shown["admin_keys"] == ["grafana:read:<set>"]
    (engine,) = shown["engines"]
    assert (engine["name"], engine["api_key"], engine["models"]) == ("gpu7", "<set>", ["m"])
    assert shown["routes"][0]["fallback"] == ["n"]


KEY = "k" * 16


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (f"a:read:{KEY}", ""),
        (f"a:write:{KEY}:with:colons", ""),
        (f"a:{KEY}", "entry 1 must be name:role:key"),
        (f"a:admin:{KEY}", "its role read or write"),
        (f"a b:read:{KEY}", "its name letters, digits, - and _"),
        ("a:read:short", "the key of entry 1 must have 16 characters or more"),
        ("a:read:" + "\u00e4" * 16, "the key of entry 1 must be visible ASCII"),
    ],
)
def test_an_admin_key_has_a_name_a_role_and_a_text(entry: str, says: str, tmp_path: Path) -> None:
    if not says:
        assert load({"admin_keys": [entry]}, {}, "/nowhere").admin_keys == (entry,)
        return
    with pytest.raises(ConfigErrors) as error:
        load({"admin_keys": [entry]}, {}, "/nowhere")
    assert says in str(error.value)
    assert "short" not in str(error.value)


def test_admin_keys_come_from_a_file_too_and_no_two_have_one_name(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# who\n\ngrafana:read:{KEY}\n")
    config = load({"admin_keys_file": str(file), "admin_keys": [f"ci:write:{KEY}2"]}, {}, "/nowhere")
    assert config.admin_keys == (f"ci:write:{KEY}2", f"grafana:read:{KEY}")
    assert any("chmod 600" in note for note in config.warnings)
    for text, says in (("", "holds no key"), (f"ci:read:{KEY}", "has the name of one before it"), ("x", "name:role:key")):
        file.write_text(text)
        with pytest.raises(ConfigErrors, match=says):
            load({"admin_keys_file": str(file), "admin_keys": [f"ci:write:{KEY}2"]}, {}, "/nowhere")
    with pytest.raises(ConfigErrors, match="cannot read"):
        load({"admin_keys_file": str(tmp_path / "none")}, {}, "/nowhere")
