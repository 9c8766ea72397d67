"""What a start takes: only what serves the first request is imported before it, and the rest when it is asked for."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fastgw import Config, EngineConfig, twins
from fastgw.serve import SOME_NEED, engines_told, without_engines

# What `fastgw serve` may import until it listens, beside its own modules and what uvloop and `python -m` bring along: each of
# these is milliseconds of every start, so that this list only shrinks.
MAY: frozenset[str] = frozenset(
    (
        *("bisect", "math", "random"),  # the dice of retries and routing
        *("datetime", "faulthandler", "msgspec", "resource", "zlib"),
        *(() if twins.native() else ("termios",)),
    )
)


def imported(
    *arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None, until: set[str] | None = None
) -> tuple[list[str], str]:
    """The modules that a Python program imports until it says that it listens (and has imported those of ``until``), or ends;
    and what it said otherwise."""
    names: list[str] = []
    said = ""
    argv = [sys.executable, "-X", "importtime", *arguments]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, cwd=cwd, env={**os.environ, **(env or {})}) as child:
        assert child.stderr is not None
        for line in child.stderr:
            if line.startswith("import time:"):
                names.append(line.rpartition("|")[2].strip())
            else:
                said += line
            if '"message":"listening"' in said and (until or set()) <= set(names):
                child.send_signal(signal.SIGTERM)
                break
        child.communicate(timeout=20)
    return names, said


def tops(names: list[str]) -> set[str]:
    """(Of compiled halves, as `_decimal`, their own module speaks.)"""
    return {name.partition(".")[0] for name in names if not name.startswith("_")}


def test_a_start_imports_what_serves_the_first_request_and_no_more(tmp_path: Path) -> None:
    floor, _ = imported("-c", "import runpy, uvloop")
    names, said = imported(
        "-P", "-m", "fastgw", "serve", "--engine", "http://127.0.0.1:1", "--port", "0",
        cwd=tmp_path, env={"PYTHONPATH": os.getcwd(), "GATEWAY_API_KEYS": "key"},
    )  # fmt: skip
    assert '"listening"' in said
    in_vain = {"typing_extensions", "ssl"}  # asked for, and not found (see `early`)
    assert tops(names) - tops(floor) - {"fastgw"} - MAY - in_vain == set()
    whole = {
        "aiohttp",
        "argparse",
        "dataclasses",
        "email",
        "hashlib",
        "ipaddress",
        "json",
        "pathlib",
        "platform",
        "tempfile",
        "urllib",
    }
    assert tops(names) & whole == set()
    assert {"_decimal", "_hashlib", "_ssl", "encodings.idna"} & set(names) == set()


def test_a_store_brings_sqlite_and_no_openssl(tmp_path: Path) -> None:
    """(`secrets` and `hashlib` would.)"""
    names, said = imported(
        "-P", "-m", "fastgw", "serve", "--engine", "http://127.0.0.1:1", "--port", "0", "--state-dir", "state",
        cwd=tmp_path, env={"PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert '"listening"' in said
    assert "sqlite3" in names
    assert {"_hashlib", "_ssl", "pathlib", "tempfile", "urllib.parse"} & set(names) == set()


def test_what_some_requests_need_is_there_before_one_asks(tmp_path: Path) -> None:
    """When one does, there may be no descriptor to read it with, or no file any more."""
    names, said = imported(
        "-P", "-m", "fastgw", "serve", "--engine", "http://127.0.0.1:1", "--port", "0",
        cwd=tmp_path, env={"PYTHONPATH": os.getcwd()}, until=set(SOME_NEED),
    )  # fmt: skip
    assert '"listening"' in said
    assert set(SOME_NEED) <= set(names)


HANDED = """
import ast, contextlib, inspect, sys, textwrap
from fastgw import app, serve, successor
for name in serve.SOME_NEED:
    with contextlib.suppress(ImportError):
        __import__(name)
there = set(sys.modules)
for called in (successor, app.Gateway.hand_over, app.Gateway.retire):
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(called)))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            __import__(getattr(node, "module", None) or node.names[0].name)
print(sorted(set(sys.modules) - there))
"""


def test_what_hands_over_is_of_this_version() -> None:
    """By then the next one's files lie in the place of these."""
    done = subprocess.run([sys.executable, "-c", HANDED], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "[]\n"


def test_what_may_be_imported_is(tmp_path: Path) -> None:
    """The list shrinks with what is imported."""
    names, _ = imported(
        "-P", "-m", "fastgw", "serve", "--engine", "http://127.0.0.1:1", "--port", "0",
        cwd=tmp_path, env={"PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert MAY - tops(names) == set()


WHOLE = """
from fastgw.early import import_msgspec
import_msgspec()
import sys
print(sorted({'typing_extensions', 'uuid', 'msgspec.inspect', 'msgspec._json_schema'} & set(sys.modules)))
import msgspec, uuid
import msgspec.inspect
print(msgspec.json.decode(b'{"a":[1,2.5,null]}'), msgspec.inspect.type_info(int), str(uuid.UUID(int=1))[-4:])
"""


def test_what_stood_in_while_msgspec_was_imported_is_gone() -> None:
    done = subprocess.run([sys.executable, "-c", WHOLE], capture_output=True, text=True, timeout=20, check=True)
    assert re.sub(r"IntType\(.*?\)", "IntType()", done.stdout) == "[]\n{'a': [1, 2.5, None]} IntType() 0001\n"


LOOP = """
from fastgw.early import import_loop
import_loop()
import asyncio, sys, uvloop
print("ssl" in sys.modules)
import ssl

async def main():
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    where = server.sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(*where)
    print(await reader.read())
    try:
        await asyncio.open_connection(*where, ssl=ssl.create_default_context())
    except RuntimeError as error:
        print(error)

uvloop.run(main())
"""


def test_a_loop_that_was_imported_without_tls_says_so() -> None:
    done = subprocess.run([sys.executable, "-c", LOOP], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.splitlines()[:2] == ["False", "b''"]
    assert "without TLS" in done.stdout


WANTS_MORE = """
import sys
from fastgw import early
early.STANDINS['uuid'] = early.LOOP_STANDINS['ssl'] = ()
early.import_msgspec()
early.import_loop()
import msgspec, uvloop
print(msgspec.json.encode(__import__('uuid').UUID(int=1)), 'ssl' in sys.modules)
"""


def test_what_wants_more_is_imported_as_ever() -> None:
    done = subprocess.run([sys.executable, "-c", WANTS_MORE], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.strip() == """b'"00000000-0000-0000-0000-000000000001"' True"""


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "none"),
        ({"control_listen": "127.0.0.1:1", "admin_key": "sk-admin-of-these-tests"}, "none"),
        ({"engines": [EngineConfig(url="http://127.0.0.1:1", name="a")]}, "a"),
        ({"engines": [EngineConfig(url="http://a.example:1", discover="dns", name="gpu")]}, "dns:gpu"),
        ({"engines_file": "/e.json", "runner_auth_token": "sk-runners-of-these-tests"}, "file:/e.json runners"),
    ],
)
def test_the_first_line_says_what_brings_engines(settings: dict[str, object], told: str) -> None:
    config = Config(**settings)  # type: ignore[arg-type]
    assert engines_told(config) == told
    warned = without_engines(config)
    assert ["--engine http://" in line for line in warned] == [True] * (told == "none")
    assert any("/admin/engines" in line for line in warned) == ("admin_key" in settings)
