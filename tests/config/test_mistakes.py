"""Every mistake is found, told with its place, and told without secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastgw.config import Config, ConfigErrors, EngineConfig, load
from tests.config.test_load import told, write

SECRET = "sk-very-secret"


def test_K4_all_mistakes_of_all_places_at_once(tmp_path: Path) -> None:
    write(
        tmp_path / "bad.toml",
        '# comment\nhots = "0.0.0.0"\nport = 99999\nserver_timing = "yes"\n\n[[engines]]\nurl = "ftp://a:1"\n'
        'policy = "ordered"\n\n[[engines]]\nname = "x"\n\n[[engines]]\nurl = "ftp://b"\nweight = 0\n\n[limits]\na = 1\n',
    )
    write(tmp_path / "config/.env", "GATEWAY_PORT=http\nnonsense\nLOG_LEVEL='open\n")
    environ = {"FASTGW_MAX_BODY_BYTS": "1", "MINISGL_GATEWAY_ADDR": "localhost", "FASTGW_REPLAY": "maybe"}
    with pytest.raises(ConfigErrors) as error:
        load({"config": "bad.toml", "head_timeout_s": "-1"}, environ, tmp_path)
    assert set(told(error, tmp_path)) == {
        "bad.toml:2: hots: there is no such setting; did you mean host?",
        "bad.toml:3: port: must be a whole number from 0 to 65535",
        "bad.toml:4: server_timing: must be true or false",
        "bad.toml:7: engines: url: the URL must be http://host:port, https://host:port or unix:/path",
        "bad.toml:8: engines: an engine has no setting policy; it belongs to the gateway: move it above the first [[engines]]",
        "bad.toml:10: engines: this engine has no url",
        "bad.toml:14: engines: url: the URL must be http://host:port, https://host:port or unix:/path",
        "bad.toml:15: engines: weight: must be a whole number from 1 to 1000",
        "bad.toml:17: limits: there is no such setting",
        "config/.env:1: port: must be a whole number from 0 to 65535",
        "config/.env:2: this line is not NAME=value",
        "config/.env:3: LOG_LEVEL: the quotes are not closed, or something follows them",
        "FASTGW_MAX_BODY_BYTS: there is no such variable; did you mean FASTGW_MAX_BODY_BYTES?",
        "MINISGL_GATEWAY_ADDR: host: write it as host:port",
        "MINISGL_GATEWAY_ADDR: port: write it as host:port",
        "FASTGW_REPLAY: replay: must be true or false",
        "--head-timeout-s: must be a number of seconds from 0.001 to 86400",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("port = \n", "bad.toml:1: not valid TOML: a value is missing, or a text stands without quotes"),
        ("port = 1\nport = 2\n", "bad.toml:2: not valid TOML: the same setting stands here a second time"),
        ("host = local\n", "bad.toml:1: not valid TOML: a value is missing, or a text stands without quotes"),
        ('host = "local\n', "bad.toml:1: not valid TOML: the quotes of a text are not closed on its line"),
        ("host = 'local\n", "bad.toml: not valid TOML: the quotes of a text are not closed"),
        ('host = """local\n', "bad.toml: not valid TOML: the quotes of a text are not closed"),
        ('host = "a\\d"\n', "bad.toml:1: not valid TOML: a backslash in a text is written \\\\"),
        ("port 80\n", "bad.toml:1: not valid TOML: there is no = behind the setting's name"),
        ("port = 80 host = 1\n", "bad.toml:1: not valid TOML: something follows the value: one setting a line"),
        ('api_keys = ["a" "b"]\n', "bad.toml:1: not valid TOML: a list is not closed: ] or a comma is missing"),
        ("a = { b = 1\n", "bad.toml:1: not valid TOML: a table in braces is not closed"),
        ("[engines\n", "bad.toml:1: not valid TOML: the name of a [table] is not closed"),
        ("[a]\n[a]\n", "bad.toml:2: not valid TOML: the same [table] stands here a second time"),
        ("{}\n", "bad.toml:1: not valid TOML: this is neither name = value, nor a [table], nor a # comment"),
        ('api_keys = ["k", 5, true]\n', "bad.toml:1: api_keys: must be a list of texts: items 2, 3 are none"),
        ('engines = ["http://a:1"]\n', "bad.toml:1: engines: must be written as [[engines]] tables"),
        ("port = true\n", "bad.toml:1: port: must be a whole number from 0 to 65535"),
        ("port = 80.5\n", "bad.toml:1: port: must be a whole number"),
        ("head_timeout_s = nan\n", "bad.toml:1: head_timeout_s: must be a number of seconds from 0.001 to 86400"),
        ("request_timeout_s = inf\n", "bad.toml:1: request_timeout_s: must be a number of seconds from 0.001 to 86400, or 0 ("),
        ('api_keys = "one"\n', "bad.toml:1: api_keys: must be a list of texts"),
        ("api_keys = []\n", "bad.toml:1: api_keys: holds no key; leave it out to have none"),
        ('\n"policy" = "fastest"\n', "bad.toml:2: policy: must be one of round_robin, weighted, ordered, least_loaded"),
        ('[[routes]]\nmodel = "m"\npolicy = "fastest"\n', "bad.toml:3: routes: policy: must be one of round_robin, weigh"),
        ('[[routes]]\nmodel = "m"\nmirror_to = ["a", "b"]\n', "bad.toml:3: routes: mirror_to: must be text"),
        ('[[routes]]\nmodel = "m"\nrestore_name = "no"\n', "bad.toml:3: routes: restore_name: must be true or false"),
        ('[[engines]]\nurl = "http://a:1"\nmodels = 5\n', "bad.toml:3: engines: models: must be a list of names"),
        ('note = """\nport = 1\n"""\n', "bad.toml:1: note: there is no such setting"),
        ('[[engines]]\nurl = "http://a:1"\nwieght = 2\n', "bad.toml:3: engines: an engine has no setting wieght; did you mean"),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path / "bad.toml", text)
    with pytest.raises(ConfigErrors) as error:
        load({"config": "bad.toml"}, {}, tmp_path)
    assert [line[: len(message)] for line in told(error, tmp_path)] == [message]


def test_every_item_of_a_list_is_judged(tmp_path: Path) -> None:
    """One of the wrong type hides no other mistake."""
    text = 'cors_origins = [5, "a", "https://b.example/x"]\nengines = ["http://a:1", { url = "ftp://a" }]\n'
    write(tmp_path / "bad.toml", text)
    with pytest.raises(ConfigErrors) as error:
        load({"config": "bad.toml"}, {}, tmp_path)
    found = told(error, tmp_path)
    assert found[0] == "bad.toml:1: cors_origins: must be a list of texts: item 1 is none"
    assert ["'a'" in found[1], "'https://b.example/x'" in found[2]] == [True, True]
    assert found[3] == "bad.toml:2: engines: must be written as [[engines]] tables"
    assert found[4].startswith("bad.toml:2: engines: url: the URL must be http://host:port")
    assert len(found) == 5


ABOVE = "it belongs to the gateway: move it above the first"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[[engines]]\nname = "a/../b"\nkind = "ollama"\nranks = 2\nweight = 0\nwieght = 1\nkey_file = "/nowhere"\n',
            ["1: engines: this engine has no url", "2: engines: name: has . or ..", "4: engines: ranks: an engine of kind",
             "5: engines: weight: must be", "6: engines: an engine has no setting wieght; did you mean weight?",
             "7: engines: key_file: cannot read"],
        ),
        (
            '[[engines]]\nurl = "http://1.2.3.4"\ndiscover = "dns"\nmax_connections = 2\nwarm_connections = 3\nweight = "x"\n',
            ["3: engines: discover: needs", "5: engines: warm_connections: is more", "6: engines: weight: must be"],
        ),
        (
            '[[routes]]\nmodel = "m"\nfallback = ["m"]\ntimeout_s = -1\nport = 1\naliases = ["a", "a"]\nadapter_of = "m"\n'
            'versions = { v = 0 }\nmachine = "gpu"\nfallback_on = ["x"]\n',
            ["3: routes: fallback: names", "4: routes: timeout_s: must",
             f"5: routes: a route has no setting port; {ABOVE} [[routes]]",
             "6: routes: aliases: names 'a' twice", "7: routes: adapter_of: must", "8: routes: versions: gives",
             "8: routes: versions: cannot", "9: routes: machine: needs models", "10: routes: fallback_on: 'x' is none"],
        ),
        (
            '[[routes]]\nmodel = "m"\nmodels = ["m"]\nsticky = true\npolicy = "ordered"\n'
            '[[engines]]\nurl = "http://a"\nport = 1\n',
            ["3: routes: models: names", "4: routes: sticky: belongs", "5: routes: policy: belongs",
             f"8: engines: an engine has no setting port; {ABOVE} [[routes]]"],
        ),
        ("[gateway]\nport = 1\n", ["1: gateway: there is no such setting; settings stand in no table: move them to the top"]),
    ],
    ids=["engine", "engine's pairs", "route", "class", "table"],
)  # fmt: skip
def test_all_mistakes_of_one_entry_at_once(tmp_path: Path, text: str, said: list[str]) -> None:
    write(tmp_path / "bad.toml", text)
    with pytest.raises(ConfigErrors) as error:
        load({"config": "bad.toml"}, {}, tmp_path)
    lines = sorted((line.removeprefix("bad.toml:") for line in told(error, tmp_path)), key=lambda line: int(line.split(":")[0]))
    assert len(lines) == len(said), lines
    assert [line for line, start in zip(lines, said, strict=True) if not line.startswith(start)] == []


def test_K4_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors) as error:
        load({"config": "missing.toml", "api_keys_file": str(tmp_path / "none")}, {}, tmp_path)
    assert told(error, tmp_path) == [
        "missing.toml: cannot read the configuration file: No such file or directory",
        "--api-keys-file: cannot read none: No such file or directory",
    ]
    (tmp_path / "latin.toml").write_bytes(b"host = '\xe4'\n")
    with pytest.raises(ConfigErrors) as error:
        load({"config": "latin.toml"}, {}, tmp_path)
    assert told(error, tmp_path) == ["latin.toml: the configuration file is not UTF-8 text"]


def test_K4_keys_from_a_file(tmp_path: Path) -> None:
    keys = write(tmp_path / "keys", "# staff\nsk-one\n\n  sk-two  \n")
    keys.chmod(0o600)
    config = load({"api_keys_file": str(keys), "host": "0.0.0.0"}, {"GATEWAY_API_KEYS": "sk-two,sk-three"}, tmp_path)
    assert len(config.api_key_digests) == 3
    assert config.warnings == ()
    keys.chmod(0o644)
    config = load({"api_keys_file": str(keys)}, {}, tmp_path)
    assert config.warnings == (f"api_keys_file: {keys} can be read by other users (mode 0644); run chmod 600 on it",)


@pytest.mark.parametrize("text", ["", "# nothing\n\n", f"{SECRET} {SECRET}\n", "schlüssel\n"])
def test_K4_a_file_without_good_keys_never_opens_the_gateway(tmp_path: Path, text: str) -> None:
    keys = write(tmp_path / "keys", text)
    keys.chmod(0o600)
    with pytest.raises(ConfigErrors) as error:
        load({"api_keys_file": str(keys)}, {}, tmp_path)
    assert len(error.value.errors) == 1
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("value", [",", f"{SECRET} x", f"ok,{SECRET}\x01"])
def test_a_list_without_good_keys_never_opens_the_gateway(value: str) -> None:
    with pytest.raises(ConfigErrors) as error:
        load({"host": "0.0.0.0"}, {"GATEWAY_API_KEYS": value}, "/nowhere")
    assert len(error.value.errors) == 1
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "gateway.example"])
def test_an_open_gateway_stays_on_loopback(host: str) -> None:
    with pytest.raises(ConfigErrors) as error:
        load({"host": host}, {}, "/nowhere")
    (line,) = told(error)
    assert line.startswith("--host: allow_anonymous: no API key is set and others can reach")
    assert "GATEWAY_API_KEYS" in line
    assert load({"host": host, "allow_anonymous": True}, {}, "/nowhere").host == host
    assert load({"host": host}, {"GATEWAY_API_KEYS": "sk-x"}, "/nowhere").host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    assert load({"host": host}, {}, "/nowhere").api_key_digests == ()


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a:1", "https://",
            "http://", "http://:80", "http://a:0", "http://a:65536", "http://a:x", "http://u:p@a:1", "a:1", "//a",
        "http://a:1?x=1", "http://a:1/#x", "http://a b:1", "http://a:1/../x", "http://a:1//x", "http://[::1", "http://::1:80",
        "http://[a]:1", "http://1.2.3:1", "http://1.2.3.400", "http://a..b", "http://ä:1", "http://a:1/%00", "unix:rel",
        "unix:/", "unix:/" + "x" * 107, "",
    ],
)  # fmt: skip
def test_engine_urls_that_are_refused(url: str) -> None:
    with pytest.raises(ConfigErrors) as error:
        EngineConfig(url=url)
    assert error.value.errors[0].name == "url"
    assert "u:p" not in str(error.value)


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/v1/chat/completions", ""), ("/chat/completions/", "/chat/completions"), ("/base/v1/embeddings", "/v1/embeddings"),
        ("/v1/messages", ""), ("/v1/models", ""), ("/api/chat", ""), ("/v1/completions", ""),
    ],
)  # fmt: skip
def test_an_engine_is_no_endpoint_and_is_told_what_to_leave_out(path: str, named: str) -> None:
    with pytest.raises(ConfigErrors) as error:
        EngineConfig(url=f"http://a:1{path}")
    assert f"must end before {named or path}:" in str(error.value)


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("http://a", "http://a:80"), ("HTTP://A.example:8000/", "http://a.example:8000"), ("http://a:1/v1/", "http://a:1"),
        ("http://a:1/base/v1", "http://a:1/base"), ("http://a:1/models", "http://a:1/models"),
        ("http://[::1]:8", "http://[::1]:8"), ("http://[0:0::1]", "http://[::1]:80"),
        ("unix:/run/x.sock", "unix:/run/x.sock"), ("unix:///run/x.sock", "unix:/run/x.sock"), (" http://a:1 ", "http://a:1"),
    ],
)  # fmt: skip
def test_engine_urls_have_one_form(url: str, normal: str) -> None:
    engine = EngineConfig(url=url)
    assert engine.url == normal
    assert EngineConfig(url=engine.url) == engine


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("FASTGW_MEMORY_BUDGET_BYTES", "64M", "flags take 64MiB too) from 1048576 to 1099511627776, auto ("),
        ("FASTGW_MEMORY_BUDGET_BYTES", "64KiB", "flags take 64MiB too) from 1048576 to 1099511627776, auto ("),
        ("FASTGW_MAX_BODY_BYTES", "ten", "flags take 64MiB too) from 1024 to 1073741824"),
        ("FASTGW_MAX_CONNECTIONS_PER_IP", "no", "must be a whole number from 1 to 1000000, auto ("),
        ("FASTGW_ALLOWED_HOSTS", "münchen.example", "; write it in punycode (xn--...)"),
    ],
)
def test_a_mistake_is_told_with_what_may_stand_there(variable: str, text: str, said: str) -> None:
    with pytest.raises(ConfigErrors) as error:
        load({}, {variable: text}, "/nowhere")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("trusted_proxies", ("10.0.0.0/33",)), ("trusted_proxies", "10.0.0.0/8"), ("cors_origins", ("example.com",)),
        ("cors_origins", ("https://p.example:443",)), ("cors_origins", ("http://p.example:80",)),
        ("cors_origins", ("https://P.example",)),
        ("passthrough_paths", ("/health",)), ("passthrough_paths", ("/v1/../x",)), ("passthrough_paths", ("/v1/*/x",)),
        ("host", ""), ("host", "a b"), ("host", "1.2.3.4.5"), ("unix_socket", "/" * 120), ("compat", "nginx"),
        ("warm_connections", 2000), ("max_connections_per_ip", 20000), ("vllm_api_key", "a b"), ("served_model_name", "a\nb"),
        ("port", "80"), ("replay", 1), ("health_interval_s", 0.0),
        ("runner_auth_token", "guessed"), ("runner_auth_token", "a token with blanks in it"),
        ("runner_allowed_networks", ("everywhere",)), ("runner_timeout_s", 30.0), ("max_runners", 0), ("max_runners", 1025),
        ("trace_ratio", 1.5), ("otlp_protocol", "http/json"), ("otlp_timeout_ms", 0),
        ("trace_queue_size", 0), ("trace_sampler", "jaeger_remote"),
    ],
)  # fmt: skip
def test_settings_out_of_range(setting: str, value: object) -> None:
    with pytest.raises(ConfigErrors) as error:
        Config(**{setting: value})  # type: ignore[arg-type]
    assert [found.name for found in error.value.errors] == [setting]


@pytest.mark.parametrize(
    ("endpoint", "fine"),
    [
        ("http://collector:4318", True), ("https://a.example/otlp/v1/traces", True), ("", True),
        ("collector:4317", False), ("unix:/run/otlp", False), ("http://user:secret@a:4318", False),
        ("http://a:4318?key=secret", False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("setting", ["otlp_endpoint", "otlp_traces_endpoint"])
def test_a_collector_is_an_address_without_secrets(setting: str, endpoint: str, fine: bool) -> None:
    """Only where traces are sent: who sends none may have another program's endpoint in the environment."""
    settings = {setting: endpoint}
    assert getattr(Config(**settings), setting) == endpoint  # type: ignore[arg-type]
    if fine:
        assert Config(enable_otlp_tracing=True, **settings).warnings == ()  # type: ignore[arg-type]
        return
    with pytest.raises(ConfigErrors, match="OTEL_EXPORTER_OTLP_HEADERS") as error:
        Config(enable_otlp_tracing=True, **settings)  # type: ignore[arg-type]
    assert "secret" not in str(error.value)


def test_what_of_traces_is_warned_about() -> None:
    asked = {"enable_otlp_tracing": True, "trace_contents": True}
    assert [note.partition(":")[0] for note in Config(**asked).warnings] == ["trace_contents is set"]  # type: ignore[arg-type]
    (note,) = Config(otel_sdk_disabled=True, **asked).warnings  # type: ignore[arg-type]
    assert note.endswith("otel_sdk_disabled: no traces are sent")
    assert Config(trace_contents=True, otel_sdk_disabled=True).warnings == ()


def test_secrets_are_in_no_repr(tmp_path: Path) -> None:
    environ = {"GATEWAY_API_KEYS": SECRET, "VLLM_API_KEY": SECRET, "ADMIN_KEY": SECRET + "-of-the-operator",
               "RUNNER_AUTH_TOKEN": SECRET + "-of-the-runners", "OTEL_EXPORTER_OTLP_HEADERS": f"a={SECRET}",
               "BACKENDS": f"http://a:1|{SECRET}"}  # fmt: skip
    config = load({}, environ, tmp_path)
    assert SECRET not in f"{config!r} {config} {config.engines!r} {list(config.__rich_repr__())}"
    assert config.api_keys == ()
    assert config.engines[0].api_key == SECRET


def test_secrets_are_in_no_traceback() -> None:
    with pytest.raises(ConfigErrors) as error:
        Config(api_keys=[SECRET], vllm_api_key=SECRET + " ", port=-1)
    assert SECRET not in str(error.value)
    assert SECRET not in repr(error.value.errors)


@pytest.mark.parametrize("listen", ["", "127.0.0.1:9090"])
@pytest.mark.parametrize("key", ["x", SECRET, "k" * 15])
def test_K4_a_short_admin_key_is_refused_in_one_line(key: str, listen: str) -> None:
    with pytest.raises(ConfigErrors) as error:
        load({}, {"ADMIN_KEY": key, "FASTGW_CONTROL_LISTEN": listen}, "/nowhere")
    assert str(error.value) == "ADMIN_KEY: admin_key: must have 16 characters or more: whoever guesses it makes keys"
    assert load({}, {"ADMIN_KEY": "k" * 16, "FASTGW_CONTROL_LISTEN": listen}, "/nowhere").admin_key == "k" * 16
    assert load({}, {"ADMIN_KEY": "", "FASTGW_CONTROL_LISTEN": listen}, "/nowhere").admin_key == "", "none: nobody gets in"


def test_K4_a_key_file_that_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors) as error:
        load({"api_keys_file": str(tmp_path)}, {}, tmp_path)
    assert str(error.value) == f"--api-keys-file: cannot read {tmp_path}: Is a directory"
