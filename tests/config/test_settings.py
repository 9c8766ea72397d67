"""The structs themselves, their table, and the pages generated from it."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import pytest

from fastgw.config import Config, ConfigErrors, EngineConfig, RouteConfig, load
from fastgw.config.entries import ENGINE_FIELDS, ROUTE_FIELDS
from fastgw.config.names import PROFILES
from fastgw.config.profiles import PROFILE_DEFAULTS, PROFILE_ENGINES
from fastgw.config.render import errors_markdown, markdown
from fastgw.config.row import value_problem
from fastgw.config.settings import inherited
from fastgw.config.table import BY_NAME, DEFAULTS, TABLE
from fastgw.control.admin_keys import KEY_NOT_FOUND, STORE_UNAVAILABLE
from fastgw.errors import KINDS, PROFILE_KINDS
from fastgw.upstream.runner_address import tunnel_of
from tests.config.test_load import write

REPO = Path(__file__).parents[2]


def test_the_table_has_a_row_for_each_field_and_no_other() -> None:
    # The digests are what api_keys becomes, the warnings what reading finds: neither is anybody's setting.
    assert {row.name for row in TABLE} == set(Config.__struct_fields__) - {"api_key_digests", "warnings"}
    assert len(TABLE) == len(BY_NAME)
    made = ("rank", "authority")  # by who makes several of one entry
    assert [row.name for row in ENGINE_FIELDS] == [name for name in EngineConfig.__struct_fields__ if name not in made]
    assert [row.name for row in ROUTE_FIELDS] == list(RouteConfig.__struct_fields__)


def test_rows_are_whole() -> None:
    hints = get_type_hints(Config)
    for row in TABLE:
        assert row.help, row.name
        assert row.section, row.name
        assert (row.kind == "choice") == bool(row.choices), row.name
        assert row.choices == (get_args(hints[row.name]) if row.kind == "choice" else ()), row.name
        assert (row.kind == "auto_int") == bool(row.auto), row.name
        assert row.kind not in {"int", "auto_int", "float"} or row.maximum is not None, f"{row.name} has no bound"
        assert not row.name.endswith("_s") or row.kind == "float", row.name
    assert not [row.name for row in (*ENGINE_FIELDS, *ROUTE_FIELDS) if not row.help]


def test_every_default_is_a_value_of_its_setting() -> None:
    assert [row.name for row in TABLE if value_problem(row, DEFAULTS[row.name])] == []


def test_no_variable_and_no_flag_means_two_settings() -> None:
    seen: dict[str, str] = {}
    for row in TABLE:
        for name in (row.flag, *row.variables):
            both = {"MINISGL_GATEWAY_ADDR", "MINISGL_GATEWAY_TIMEOUT_MS"}
            assert name in both or name not in seen, f"{name}: {row.name} and {seen[name]}"
            seen[name] = row.name


def test_every_variable_of_the_five_gateways_is_understood() -> None:
    known = {name for row in TABLE for name in row.variables}
    assert known >= {
        "MINISGL_GATEWAY_ADDR", "MINISGL_GATEWAY_WORKERS", "MINISGL_GATEWAY_MODEL_ID", "MINISGL_GATEWAY_TIMEOUT_MS",
        "VLLM_URL", "GATEWAY_PORT", "GATEWAY_HOST", "GATEWAY_API_KEYS", "VLLM_API_KEY", "SERVED_MODEL_NAME",
        "ENABLE_OTLP_TRACING", "OTLP_ENDPOINT", "LOG_LEVEL", "RUST_LOG", "REQUEST_TIMEOUT_SECONDS", "CONNECT_TIMEOUT_SECONDS",
        "BACKENDS", "ADMIN_KEY", "RATE_LIMIT_PER_SECOND", "RATE_LIMIT_PER_MINUTE", "DAILY_TOKEN_QUOTA", "CB_FAILURE_THRESHOLD",
        "CB_RECOVERY_TIMEOUT", "GPU_EXPORTER_PORT", "GPU_EXPORTER_HOST", "RUNNER_AUTH_TOKEN", "OLLAMA_BASE",
        "FASTGW_STATE_DIR", "FASTGW_NATIVE",
    }  # fmt: skip


def test_profile_defaults_are_settings() -> None:
    assert set(PROFILE_DEFAULTS) == {"", *PROFILES} >= set(PROFILE_ENGINES) | set(PROFILE_KINDS)
    for profile in PROFILES:
        assert set(PROFILE_DEFAULTS[profile]) <= set(BY_NAME)
        assert load({}, {"FASTGW_COMPAT": profile}, "/nowhere").compat == profile


@pytest.mark.parametrize(("name", "text"), [("configuration.md", markdown), ("errors.md", errors_markdown)])
def test_generated_pages_are_up_to_date(name: str, text: object) -> None:
    assert callable(text)
    assert (REPO / "docs" / name).read_text(encoding="utf-8") == text(), "run `make docs`"


def test_the_page_of_errors_has_one_code_for_each() -> None:
    page = errors_markdown()
    assert len({kind.code for kind in KINDS.values()}) == len(KINDS)
    assert [kind.code for kind in KINDS.values() if f" | `{kind.code}` | " not in page] == []
    assert KEY_NOT_FOUND.code in page
    assert STORE_UNAVAILABLE.code in page


def test_the_configuration_page_names_everything() -> None:
    page = markdown()
    for row in TABLE:
        assert f"| `{row.name}` |" in page
        assert all(f"`{name}`" in page for name in row.env)


def test_the_example_file_is_valid() -> None:
    config = load({"config": str(REPO / "examples/fastgw.toml")}, {}, "/nowhere")
    assert [engine.name for engine in config.engines] == ["big", "small", "local"]
    assert config.warnings == ()


@pytest.mark.parametrize("uncommented", [False, True])
def test_the_example_dotenv_is_valid(tmp_path: Path, uncommented: bool) -> None:
    text = (REPO / "config/.env.example").read_text(encoding="utf-8")
    if uncommented:
        text = "\n".join(line[1:] if line.startswith("#") and line[1:2].isupper() else line for line in text.splitlines())
        text = text.replace("config/keys.txt", str(write(tmp_path / "keys", "sk-x\n")))
    write(tmp_path / "config/.env", text)
    config = load({}, {}, tmp_path)
    assert config.engines[0].url == "http://127.0.0.1:8000"
    assert len(config.engines) == (6 if uncommented else 1)


def test_S3_10_a_configuration_can_be_made_by_hand() -> None:
    config = Config(engines=[EngineConfig(url="http://127.0.0.1:8000")], port=0, api_keys=["sk-x"])
    assert isinstance(config.engines, tuple)
    assert config.api_key_digests == (sha256(b"sk-x").digest(),)
    assert config.api_keys == ()
    again = msgspec.structs.replace(config, port=1)
    assert (again.port, again.engines, again.api_key_digests) == (1, config.engines, config.api_key_digests)
    with pytest.raises(AttributeError):
        config.port = 2  # type: ignore[misc]


def test_the_key_of_all_engines_goes_through_no_tunnel() -> None:
    config = Config(vllm_api_key="sk-of-all")
    assert inherited(EngineConfig(url="http://a:1"), config).api_key == "sk-of-all"
    assert inherited(EngineConfig(url=tunnel_of("r1")), config).api_key == ""
    assert inherited(EngineConfig(url=tunnel_of("r1"), api_key="its"), config).api_key == "its"


@pytest.mark.parametrize(("listens", "url", "own"), [
    ({"port": 8080}, "http://127.0.0.1:8080", True), ({"port": 8080}, "http://localhost:8080", True),
    ({"port": 8080}, "http://0.0.0.0:8080", True), ({"port": 8080}, "http://127.0.0.1:8081", False),
    ({"port": 8080}, "http://10.0.0.1:8080", False), ({"port": 8080}, "http://127.0.0.2:8080", False),
    ({"port": 8080, "host": "0.0.0.0", "allow_anonymous": True}, "http://127.0.0.2:8080", True),
    ({"port": 8080, "host": "10.0.0.1", "allow_anonymous": True}, "http://10.0.0.1:8080", True),
    ({"port": 8080, "host": "::", "allow_anonymous": True}, "http://127.0.0.1:8080", False),
    ({"port": 8080, "host": "::", "allow_anonymous": True}, "http://[::1]:8080", True),
    ({"port": 0, "control_listen": "127.0.0.1:9090"}, "http://127.0.0.1:9090", True),
    ({"port": 0}, "http://127.0.0.1:8080", False), ({"unix_socket": "/run/g.sock"}, "unix:/run/g.sock", True),
])  # fmt: skip
def test_an_engine_is_not_the_gateway_itself(listens: dict[str, Any], url: str, own: bool) -> None:
    if not own:
        Config(engines=[EngineConfig(url=url)], **listens)
        return
    with pytest.raises(ConfigErrors, match="where this gateway itself listens"):
        Config(engines=[EngineConfig(url=url)], **listens)


def test_engines_come_out_with_what_they_inherit() -> None:
    config = Config(
        engines=[
            EngineConfig(url="http://a:1", models=["m"]),
            EngineConfig(url="http://a:1", models=["n"], api_key="own", warm_connections=0, max_connections=7),
        ],
        vllm_api_key="shared", warm_connections=3, engine_max_connections=9,
    )  # fmt: skip
    first, second = config.engines
    assert (first.api_key, first.warm_connections, first.max_connections) == ("shared", 3, 9)
    assert (second.api_key, second.warm_connections, second.max_connections) == ("own", 0, 7)
    assert (first.name, second.name) == ("a:1", "a:1#2")


def test_engine_names_are_not_shared() -> None:
    with pytest.raises(ValueError, match="two engines have the name 'x'"):
        Config(engines=[EngineConfig(url="http://a:1", name="x"), EngineConfig(url="http://b:1", name="x")])
