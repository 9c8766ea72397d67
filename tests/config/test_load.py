"""The places a configuration is read from, their order, and the variables of other gateways."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastgw.config import Config, ConfigErrors, EngineConfig, load, load_with_origins
from fastgw.config.entries import ROUTE_FIELDS


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def told(error: pytest.ExceptionInfo[ConfigErrors], base: Path | None = None) -> list[str]:
    text = str(error.value)
    return (text.replace(f"{base}/", "") if base else text).splitlines()


def urls(config: Config) -> list[str]:
    return [engine.url for engine in config.engines]


def test_without_anything_the_defaults_hold(tmp_path: Path) -> None:
    assert load({}, {}, tmp_path) == Config()


def test_places_win_in_rising_order(tmp_path: Path) -> None:
    toml = 'port = 1\nmax_json_depth = 11\nmax_header_count = 21\ndrain_timeout_s = 1\npolicy = "ordered"\n'
    write(tmp_path / "a.toml", toml)
    dotenv = "GATEWAY_PORT=2\nFASTGW_MAX_JSON_DEPTH=12\nFASTGW_MAX_HEADER_COUNT=22\nFASTGW_DRAIN_TIMEOUT_S=2"
    write(tmp_path / "config/.env", dotenv)
    environ = {"GATEWAY_PORT": "3", "FASTGW_MAX_JSON_DEPTH": "13", "FASTGW_MAX_HEADER_COUNT": "23", "FASTGW_CONFIG": "a.toml"}
    loaded = load_with_origins({"port": "4", "max_json_depth": "14"}, environ, tmp_path)
    config = loaded.config
    assert (config.port, config.max_json_depth, config.max_header_count, config.drain_timeout_s) == (4, 14, 23, 2.0)
    assert config.policy == "ordered"
    assert loaded.origins["port"] == "--port"
    assert loaded.origins["max_header_count"] == "FASTGW_MAX_HEADER_COUNT"
    assert loaded.origins["drain_timeout_s"] == str(tmp_path / "config/.env:4")
    assert loaded.origins["policy"] == str(tmp_path / "a.toml:5")


def test_the_flag_names_the_file_before_the_variable_does(tmp_path: Path) -> None:
    write(tmp_path / "a.toml", "port = 1\n")
    write(tmp_path / "b.toml", "port = 2\n")
    assert load({"config": "b.toml"}, {"FASTGW_CONFIG": "a.toml"}, tmp_path).port == 2
    assert load({}, {"FASTGW_CONFIG": "a.toml"}, tmp_path).port == 1
    write(tmp_path / "config/.env", "FASTGW_CONFIG=b.toml")
    assert load({}, {}, tmp_path).port == 2


def test_the_process_environment_is_read_when_none_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_PORT", "4321")
    assert load(cwd=tmp_path).port == 4321


def test_S2_09_variables_of_the_llm_stack(tmp_path: Path) -> None:
    write(
        tmp_path / "config/.env",
        "VLLM_URL=http://localhost:8000           # vLLM endpoint (required)\n"
        "GATEWAY_PORT=9090\nGATEWAY_HOST=0.0.0.0\nGATEWAY_API_KEYS=key1,key2,key3\nVLLM_API_KEY=engine-key\n"
        "SERVED_MODEL_NAME=a-model\nENABLE_OTLP_TRACING=false\nOTLP_ENDPOINT=\nRUST_LOG=debug\n",
    )
    config = load({}, {}, tmp_path)
    assert (config.host, config.port, config.served_model_name, config.log_level) == ("0.0.0.0", 9090, "a-model", "debug")
    assert urls(config) == ["http://localhost:8000"]
    assert config.engines[0].kind == "vllm"
    assert config.engines[0].api_key == "engine-key"
    assert len(config.api_key_digests) == 3
    assert config.warnings == ()


def test_S2_10_backends_and_the_other_wants() -> None:
    config = load({}, {
        "BACKENDS": "http://a:1|key-a|m1, m2|3|served; http://b:2 ;http://c:3||m3||",
        "REQUEST_TIMEOUT_SECONDS": "90", "CONNECT_TIMEOUT_SECONDS": "1.5",
    }, "/nowhere")  # fmt: skip
    first, second, third = config.engines
    assert (first.url, first.api_key, first.models, first.weight, first.served_name) == (
        "http://a:1", "key-a", ("m1", "m2"), 3, "served")  # fmt: skip
    assert (second.url, second.api_key, second.models, second.weight) == ("http://b:2", "", (), 1)
    assert (third.url, third.models) == ("http://c:3", ("m3",))
    assert (config.request_timeout_s, config.connect_timeout_s) == (90.0, 1.5)


@pytest.mark.parametrize(
    ("backends", "message"),
    [
        ("sk-secret|http://a:1", "entry 1: url: the URL must be http://host:port, https://host:port or unix:/path"),
        ("http://a:1||m|x", "entry 1: weight must be a whole number from 1 to 1000"),
        ("http://a:1;http://b:1||m|0", "entry 2: weight: must be a whole number from 1 to 1000"),
        ("http://a:1|k|m|1|s|more", "entry 1: more than url|api_key|models|weight|served_name"),
        (" ; ", "holds no engine"),
    ],
)
def test_S2_10_backends_that_are_wrong(backends: str, message: str) -> None:
    with pytest.raises(ConfigErrors) as error:
        load({}, {"BACKENDS": backends}, "/nowhere")
    assert told(error) == [f"BACKENDS: engines: {message}"]


def test_S1_06_variables_of_minisgl() -> None:
    environ = {
        "FASTGW_COMPAT": "minisgl",
        "MINISGL_GATEWAY_WORKERS": " http://a:1/ ,, http://b:2 ,",
        "MINISGL_GATEWAY_MODEL_ID": "my-model",
    }
    config = load({}, environ, "/nowhere")
    assert (config.host, config.port, config.policy) == ("127.0.0.1", 3030, "ordered")
    assert urls(config) == ["http://a:1", "http://b:2"]
    assert (config.connect_timeout_s, config.first_byte_timeout_s) == (3.0, 3.0)
    assert config.served_model_name == "my-model"
    environ |= {"MINISGL_GATEWAY_ADDR": "127.0.0.2:4040", "MINISGL_GATEWAY_TIMEOUT_MS": "2500"}
    config = load({}, environ, "/nowhere")
    assert (config.host, config.port) == ("127.0.0.2", 4040)
    assert (config.connect_timeout_s, config.first_byte_timeout_s) == (2.5, 2.5)
    assert config.between_bytes_timeout_s == Config().between_bytes_timeout_s, "a live stream is never cut"


def test_S5_01_profile_of_the_ollama_front() -> None:
    config = load({}, {"FASTGW_COMPAT": "openai-llm-gateway"}, "/nowhere")
    assert (config.host, config.port, config.allow_anonymous) == ("0.0.0.0", 8080, True)
    assert [(engine.url, engine.kind) for engine in config.engines] == [("http://localhost:11434", "ollama")]
    config = load({}, {"FASTGW_COMPAT": "openai-llm-gateway", "OLLAMA_BASE": "http://box:11434"}, "/nowhere")
    assert [(engine.url, engine.kind) for engine in config.engines] == [("http://box:11434", "ollama")]


def test_profiles_change_defaults_only(tmp_path: Path) -> None:
    write(tmp_path / "a.toml", 'compat = "minisgl"\nport = 5\npolicy = "round_robin"\n')
    config = load({"config": "a.toml"}, {}, tmp_path)
    assert (config.port, config.policy, config.connect_timeout_s) == (5, "round_robin", 3.0)


def test_S3_01_default_bind() -> None:
    for profile in ("", "rakka", "llm-stack", "simple-ai"):
        config = load({}, {"FASTGW_COMPAT": profile}, "/nowhere")
        assert (config.host, config.port) == ("127.0.0.1", 8080), profile


def test_variables_of_one_place_that_name_engines_add_up() -> None:
    environ = {"OLLAMA_BASE": "http://o:4", "VLLM_URL": "http://v:1,http://w:1", "BACKENDS": "http://b:2",
               "MINISGL_GATEWAY_WORKERS": "http://m:3", "FASTGW_ENGINES": "unix:/run/e.sock"}  # fmt: skip
    config = load({}, environ, "/nowhere")
    assert urls(config) == ["unix:/run/e.sock", "http://v:1", "http://w:1", "http://b:2", "http://m:3", "http://o:4"]


def test_a_later_place_that_names_engines_replaces_those_before(tmp_path: Path) -> None:
    write(tmp_path / "a.toml", '[[engines]]\nurl = "http://toml:1"\n')
    write(tmp_path / "config/.env", "VLLM_URL=http://dotenv:1")
    assert urls(load({"config": "a.toml"}, {"VLLM_URL": ""}, tmp_path)) == ["http://dotenv:1"]
    assert urls(load({"config": "a.toml"}, {"OLLAMA_BASE": "http://env:1"}, tmp_path)) == ["http://env:1"]
    flags = {"config": "a.toml", "engines": ["http://flag:1", "http://flag:2"]}
    assert urls(load(flags, {"OLLAMA_BASE": "http://env:1"}, tmp_path)) == ["http://flag:1", "http://flag:2"]


def test_the_same_url_twice_names_both_places(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors) as error:
        load({}, {"VLLM_URL": "http://a:80/", "OLLAMA_BASE": "http://A"}, "/nowhere")
    assert told(error) == [
        "OLLAMA_BASE: engines: the engine http://a:80 is named twice, here and at VLLM_URL; "
        "to keep both, give each entry `models` of its own"
    ]
    write(tmp_path / "a.toml", '[[engines]]\nurl = "http://a:1"\n\n[[engines]]\nweight = 2\nurl = "http://a:1/v1"\n')
    with pytest.raises(ConfigErrors) as error:
        load({"config": "a.toml"}, {}, tmp_path)
    assert told(error, tmp_path)[0].startswith("a.toml:6: engines: the engine http://a:1 is named twice, here and at a.toml:2")


def test_the_key_of_an_engine_may_be_what_a_variable_holds(tmp_path: Path) -> None:
    """Each engine of the file has its own; none of it is in the file, and a key that is missing is told before a request is."""
    write(tmp_path / "config/.env", "SECOND=of-the-file\nBOTH=of-the-file")
    named = ["FIRST", "SECOND", "BOTH"]
    write(tmp_path / "a.toml", "".join(f'[[engines]]\nurl = "http://{n}:1"\napi_key_env = "{n}"\n' for n in named))
    config = load({"config": "a.toml"}, {"FIRST": "sk-1", "SECOND": "", "BOTH": "of-the-environment"}, tmp_path)
    assert [engine.api_key for engine in config.engines] == ["sk-1", "of-the-file", "of-the-environment"]
    one = '[[engines]]\nurl = "http://a:1"\n'
    for line, said in (
        ('api_key_env = "NOT_THERE"', "the variable NOT_THERE is not set: set it in the environment, or in config/.env"),
        ('api_key = "x"\napi_key_env = "FIRST"', "and api_key: an engine has one key"),
        ('api_key_env = "sk-live-1"', "must be the name of a variable: letters, digits and _"),
        ("api_key_env = 1", "must be the name of a variable: letters, digits and _"),
    ):
        write(tmp_path / "a.toml", f"{one}{line}\n")
        with pytest.raises(ConfigErrors) as error:
            load({"config": "a.toml"}, {"FIRST": "sk-1"}, tmp_path)
        assert told(error, tmp_path) == [f"a.toml:{3 + line.count(chr(10))}: engines: api_key_env: {said}"]


def test_one_url_may_serve_models_under_several_names() -> None:
    config = load({}, {"BACKENDS": "http://a:1||m1|1|x;http://a:1||m2|1|y"}, "/nowhere")
    assert len({engine.name for engine in config.engines}) == 2


@pytest.mark.parametrize(
    ("value", "level"),
    [
        ("debug", "debug"),
        ("WARN", "warning"),
        ("gateway=trace,hyper=info", "debug"),
        ("error,x=debug", "error"),
        ("off", "critical"),
    ],
)
def test_S1_09_rust_log(value: str, level: str) -> None:
    assert load({}, {"RUST_LOG": value}, "/nowhere").log_level == level


def test_rust_log_of_another_program_is_left_alone() -> None:
    config = load({}, {"RUST_LOG": "[span{field=1}]"}, "/nowhere")
    assert config.log_level == "info"
    assert ["RUST_LOG" in note for note in config.warnings] == [True]
    assert load({}, {"RUST_LOG": "trace", "LOG_LEVEL": "Error"}, "/nowhere").log_level == "error"


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load({}, {"GATEWAY_PORT": "", "GATEWAY_API_KEYS": " ", "VLLM_URL": "", "FASTGW_POLICY": ""}, "/nowhere") == Config()


def test_what_says_how_it_is_built_says_nothing_to_what_runs() -> None:
    assert load({}, {"FASTGW_BUILD_NATIVE": "0"}, "/nowhere") == Config()


def test_service_links_of_kubernetes_are_not_settings() -> None:
    environ = {
        "FASTGW_SERVICE_HOST": "10.0.0.1", "FASTGW_SERVICE_PORT": "8080", "FASTGW_SERVICE_PORT_HTTP": "8080",
        "FASTGW_PORT": "tcp://10.0.0.1:8080", "FASTGW_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "FASTGW_PORT_8080_TCP_PROTO": "tcp", "FASTGW_PORT_8080_TCP_PORT": "8080", "FASTGW_PORT_8080_TCP_ADDR": "10.0.0.1",
        "GATEWAY_PORT": "tcp://10.0.0.2:80",
    }  # fmt: skip
    assert load({}, environ, "/nowhere") == Config()


def test_sizes_may_carry_units() -> None:
    config = load(
        {"max_upload_bytes": "2 GiB"}, {"FASTGW_MAX_BODY_BYTES": "20MiB", "FASTGW_MAX_HEAD_BYTES": "64kib"}, "/nowhere"
    )
    assert (config.max_head_bytes, config.max_body_bytes, config.max_upload_bytes) == (65536, 20971520, 2 << 30)
    with pytest.raises(ConfigErrors):
        load({"port": "8KiB"}, {}, "/nowhere")


@pytest.mark.parametrize("text", ["true", "1", "YES", "on"])
def test_switches_are_written_in_many_ways(text: str) -> None:
    assert load({}, {"FASTGW_SERVER_TIMING": text}, "/nowhere").server_timing is True


def test_retry_fresh_has_three_states() -> None:
    assert [load({"retry_fresh": text}, {}, "/nowhere").retry_fresh for text in ("auto", "true", "false")] == [
        None,
        True,
        False,
    ]


def test_overrides_take_values_as_well_as_text() -> None:
    engine = EngineConfig(url="http://a:1", models=["m"])
    config = load({"engines": [engine, "http://b:2"], "port": 0, "replay": False, "cors_origins": ["*"]}, {}, "/nowhere")
    assert (urls(config), config.port, config.replay, config.cors_origins) == (["http://a:1", "http://b:2"], 0, False, ("*",))


def test_dotenv_lines(tmp_path: Path) -> None:
    write(
        tmp_path / "config/.env",
        "\ufeff# a comment\r\n\r\n  export GATEWAY_PORT = 81 # comment\r\n"
        "SERVED_MODEL_NAME='single # \"kept\" \\n'   # comment\r\n"
        'FASTGW_OTLP_ENDPOINT="a \\"b\\" \\\\ #c"\r\n'
        "FASTGW_STATE_DIR=a#b\r\nUNRELATED=x y z\r\nVLLM_API_KEY=#nothing\r\n",
    )
    config = load({}, {}, tmp_path)
    assert config.port == 81
    assert config.served_model_name == 'single # "kept" \\n'
    assert config.otlp_endpoint == 'a "b" \\ #c'
    assert config.state_dir == "a#b"
    assert config.vllm_api_key == ""


def test_a_routes_policy_in_one_line_and_in_a_table(tmp_path: Path) -> None:
    one = load({}, {"FASTGW_ROUTES": "m|||||least_loaded; n|3"}, tmp_path)
    assert [(route.model, route.policy) for route in one.routes] == [("m", "least_loaded"), ("n", "")]
    write(tmp_path / "r.toml", '[[routes]]\nmodel = "m"\npolicy = "power_of_two"\n')
    assert load({"config": "r.toml"}, {}, tmp_path).routes[0].policy == "power_of_two"
    with pytest.raises(ConfigErrors, match="entry 1: policy: must be one of round_robin"):
        load({}, {"FASTGW_ROUTES": "m|||||fastest"}, tmp_path)


IN_ONE_LINE: dict[str, dict[str, object]] = {
    "m": {
        "max_concurrent": 3, "on_capacity": "fallback", "fallback": ("n", "o"), "timeout_s": 2.5, "policy": "least_loaded",
        "fallback_on": ("failure", "context"), "aliases": ("a", "b"), "restore_name": True, "mirror_to": "n",
        "mirror_percent": 7, "adapter_of": "n", "needs": ("cuda",), "requests_per_minute": 60, "burst": 5,
        "tokens_per_minute": 10**6, "daily_tokens": 10**9, "key_requests_per_minute": 6, "key_burst": 2,
        "key_tokens_per_minute": 10**5, "key_daily_tokens": 10**8, "key_concurrency": 4,
    },
    "n": {"versions": {"v1": 95, "v2": 5}, "sticky": True},
    "any": {"models": ("m", "n"), "choose": "least_loaded", "machine": "cuda"},
}  # fmt: skip


def test_each_field_of_a_route_can_be_said_in_one_line(tmp_path: Path) -> None:
    def said(value: object) -> str:
        if isinstance(value, dict):
            return ",".join(f"{name}={one}" for name, one in value.items())
        return ",".join(value) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else str(value)

    fields = {"model", *(name for fields in IN_ONE_LINE.values() for name in fields)}
    assert fields == {row.name for row in ROUTE_FIELDS}
    line = ";".join(
        " | ".join([model, *(f"{name} = {said(value)}" for name, value in fields.items())])
        for model, fields in IN_ONE_LINE.items()
    )
    found = load({}, {"FASTGW_ROUTES": line}, tmp_path).routes
    assert {one.model: {name: getattr(one, name) for name in IN_ONE_LINE[one.model]} for one in found} == IN_ONE_LINE


@pytest.mark.parametrize(("line", "told"), [
    ("m|many", "entry 1: max_concurrent: must be a whole number from 0 to 1000000"),
    ("m|3|max_concurrent=4", "entry 1: max_concurrent is said twice"),
    ("m;n|||||||alias=a", "entry 2: 'alias' is no field of a route; did you mean aliases"),
    ("m|versions=v1", "entry 1: versions: must be version=share"),
    ("m|sticky=perhaps", "entry 1: sticky: must be true or false"),
    ("|3", "entry 1: model: "),
])  # fmt: skip
def test_what_is_wrong_with_a_route_in_one_line(line: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors, match=told):
        load({}, {"FASTGW_ROUTES": line}, tmp_path)
