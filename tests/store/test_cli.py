"""``fastgw keys`` as an operator meets it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastgw.store import cli, keys
from fastgw.store.database import Database, today
from tests.store.test_state import Held, until

RUN = "import sys; from fastgw.store.cli import main; sys.exit(main(sys.argv[1:], ''))"


class Keys:
    """Runs the command in this process, and reads what it printed."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys

    def __call__(self, *argv: str, expect: int = 0) -> str:
        """What it printed: on standard output, or on standard error where it was to fail."""
        try:
            code = cli.main(argv, str(self.folder))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else -1
        out, err = self._capsys.readouterr()
        assert code == expect, err
        if expect:
            assert out == ""
            return err
        return out

    def json(self, *argv: str) -> Any:
        return json.loads(self(*argv, "--json"))


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Keys:
    return Keys(tmp_path / "state", capsys)


def test_a_key_is_printed_once_with_a_word_of_warning(run: Keys) -> None:
    out = run("create", "--name", "ann")
    text = out.split()[3]
    assert text.startswith("fgw_")
    assert "will not be shown again" in out
    record = run.json("show", "ann")
    assert record["id"] in out
    digest = hashlib.sha256(text.encode()).hexdigest()
    for later in (run("list"), run("show", "ann"), run("list", "--json"), run("show", "ann", "--json")):
        assert text[4:] not in later
        assert digest not in later
        assert "digest" not in later


def test_all_flags_arrive(run: Keys) -> None:
    made = run.json(
        "create", "--name", "ann", "--tenant", "lab", "--expires-at", "2090-01-01", "--requests-per-minute", "60",
        "--burst", "0", "--tokens-per-minute", "1000", "--daily-tokens", "5000", "--concurrency", "3", "--priority", "high",
        "--on-exhausted", "cut", "--budget", "12.50", "--budget-period", "week",
        "--models", "a, b", "--networks", "10.0.0.0/8,::1", "--certificate", "AB:" * 31 + "AB",
    )  # fmt: skip
    assert made.pop("key").startswith("fgw_")
    assert made.pop("id").startswith("key_")
    assert made.pop("created_at").endswith("Z")
    assert made == {
        "name": "ann", "tenant": "lab", "expires_at": "2090-01-01T00:00:00Z", "disabled": False, "requests_per_minute": 60,
        "burst": 0, "tokens_per_minute": 1000, "daily_tokens": 5000, "concurrency": 3, "priority": "high",
        "budget": "12.5", "budget_period": "week", "on_exhausted": "cut",
        "models": ["a", "b"], "networks": ["10.0.0.0/8", "::1/128"],
        "certificates": ["ab" * 32], "previous_until": None,
    }  # fmt: skip
    changed = run.json("update", "ann", "--burst=default", "--priority=default", "--models=all", "--expires-at=never")
    assert [changed[name] for name in ("burst", "priority", "models", "expires_at")] == [None, None, [], None]
    assert changed["daily_tokens"] == 5000


def test_a_life_of_a_key(run: Keys) -> None:
    key_id = run.json("create", "--name", "ann")["id"]
    assert run("disable", "ann") == f"disabled {key_id}\n"
    assert "disabled" in run("list")
    assert run("enable", key_id) == f"enabled {key_id}\n"
    turned = run("rotate", "ann", "--grace", "2h")
    assert "will not be shown again" in turned
    assert "stays valid until" in turned
    assert "stays valid" not in run("rotate", "ann", "--grace", "0")
    assert run("delete", "ann") == f"deleted {key_id}\n"
    assert run.json("list") == []
    assert "no key of that id" in run("show", "ann", expect=1)
    database = Database.open(str(run.folder / "fastgw.db"))
    rows, _more = keys.audit(database)
    database.close()
    assert [row.action for row in rows] == ["delete", "rotate", "rotate", "enable", "disable", "create"]
    assert {row.actor.partition(":")[0] for row in rows} == {"cli"}


def test_usage_is_shown(run: Keys) -> None:
    key_id = run.json("create", "--name", "ann", "--daily-tokens", "500")["id"]
    database = Database.open(str(run.folder / "fastgw.db"))
    database.upsert_usage([(key_id, today(), 30, 12, 2, 0, 24, 9), (key_id, today() - 1, 1, 2, 1, 3, 0, 0)])
    database.close()
    assert run.json("list")[0]["today"] == {
        "prompt_tokens": 30, "completion_tokens": 12, "requests": 2, "estimated_tokens": 0, "cached_tokens": 24,
        "reasoning_tokens": 9,
    }  # fmt: skip
    days = [line.split() for line in run("show", "ann").splitlines()[-3:]]
    assert days[0] == ["DAY", "PROMPT", "COMPLETION", "REQUESTS", "ESTIMATED", "CACHED", "REASONING"]
    assert [day[1:] for day in days[1:]] == [["30", "12", "2", "0", "24", "9"], ["1", "2", "1", "3", "0", "0"]]
    assert [day["prompt_tokens"] for day in run.json("show", "ann")["usage"]] == [30, 1]
    assert [day["prompt_tokens"] for day in run.json("show", "ann", "--days", "1")["usage"]] == [30]
    line = next(line for line in run("list").splitlines() if "ann" in line)
    assert line.split()[-5:] == ["default", "42", "500", "default", "-"]


def test_keys_of_one_tenant(run: Keys) -> None:
    for name, tenant in (("a", "x"), ("b", "y"), ("c", "x")):
        run("create", "--name", name, "--tenant", tenant)
    assert [key["name"] for key in run.json("list", "--tenant", "x")] == ["a", "c"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ((), "COMMAND"),
        (("lst",), "lst"),
        (("show",), "KEY"),
        (("show", "a", "b"), "unrecognized arguments: b"),
        (("show", "a", "--days", "0"), "from 1 to 400"),
        (("create", "--burst", "many"), "--burst: must be a whole number from 0 to 1000000000"),
        (("create", "--priority", "top"), "--priority: must be high, normal or low"),
        (("create", "--burst", "-4", "--expires-at", "gone"), "--expires-at: must be"),
        (("update", "a"), "nothing to change"),
        (("rotate", "a", "--grace", "long"), "--grace: must be"),
        (("rotate", "a", "--grace", "31d"), "from 0 to 2592000"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2_and_says_why(run: Keys, argv: tuple[str, ...], says: str) -> None:
    run("create", "--name", "a")
    assert says in run(*argv, expect=2)
    assert len(run.json("list")) == 1


def test_a_pasted_key_is_not_repeated(run: Keys) -> None:
    run("create", "--name", "a")
    text = "fgw_" + "Q" * 43
    assert text not in run("show", text, expect=1)
    assert text not in run("show", "a", text, expect=2)
    assert text not in run("create", "--name", text, expect=2)
    assert text not in run(text, expect=2)


def test_without_a_folder_it_says_what_to_do(run: Keys, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["list"], "")
    assert end.value.code == 2
    assert "FASTGW_STATE_DIR" in capsys.readouterr().err
    assert "make a first key" in run("list", expect=1)
    assert not run.folder.exists()
    (tmp_path / "state").touch()
    assert "is not a folder" in run("create", expect=1)


def test_the_folder_can_be_named_before_and_after_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = str(tmp_path / "one")
    assert cli.main(["--state-dir", one, "create", "--name", "a"], "/nowhere") == 0
    capsys.readouterr()
    for argv in (["--state-dir", one, "--json", "list"], ["list", "--state-dir", one, "--json"]):
        assert cli.main(argv, "/nowhere") == 0
        assert [key["name"] for key in json.loads(capsys.readouterr().out)] == ["a"]


@pytest.mark.parametrize("argv", [("--help",), ("create", "--help"), ("rotate", "-h")])
def test_help_is_there(run: Keys, argv: tuple[str, ...]) -> None:
    out = run(*argv)
    assert "usage: fastgw keys" in out
    if argv == ("--help",):
        assert "examples:" in out


def test_a_file_that_cannot_be_used_is_exit_code_1(run: Keys) -> None:
    run("create", "--name", "a")
    (run.folder / "fastgw.db").write_bytes(b"junk" * 4096)
    for argv in (("list",), ("create",), ("disable", "a")):
        err = run(*argv, expect=1)
        assert err.startswith("fastgw keys: error: ")
        assert err.count("\n") == 1


def test_a_reader_that_has_enough_is_no_traceback(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    subprocess.run([sys.executable, "-c", RUN, "--state-dir", str(tmp_path), "create"], check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, "-c", RUN, "--state-dir", str(tmp_path), "list"], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert done.returncode == 1
    assert done.stderr == b""


async def test_beside_a_running_gateway(tmp_path: Path) -> None:
    """Commands while usage is written all the time: both go through, and the gateway hears of each change."""
    held = Held(tmp_path)
    batches = 0
    stop = False

    async def load() -> None:
        nonlocal batches
        while not stop:
            batches += 1
            assert await held.write(("a", 20_000, batches, batches, batches, 0, 0, 0))

    async def command(*argv: str) -> bytes:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", RUN, "--state-dir", str(tmp_path), *argv, stdout=asyncio.subprocess.PIPE
        )
        out, _err = await process.communicate()
        assert process.returncode == 0
        return out

    loading = asyncio.create_task(load())
    await asyncio.gather(*(command("create", "--name", f"k{number}") for number in range(4)))
    assert await until(lambda: len({one.id for one in held.told}) == 4) < 1.0
    await command("disable", "k2")
    assert await until(lambda: held.told[-1].disabled) < 1.0
    listed = json.loads(await command("list", "--json"))
    assert sorted(key["name"] for key in listed) == ["k0", "k1", "k2", "k3"]
    stop = True
    await loading
    assert not held.log.lines
    assert await held.state.close()
    database = Database.open(str(tmp_path / "fastgw.db"))
    assert database.load_usage(20_000) == [("a", 20_000, batches, batches, batches, 0, 0, 0)]
    assert database.integrity() == []
    database.close()
