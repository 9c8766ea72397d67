"""The state folder and its files are for their owner alone, or nothing starts; what lies in a file's place is refused."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastgw.store import cli, keys, place
from fastgw.store.database import Database
from fastgw.store.schema import StateError
from fastgw.store.state import State
from tests.store.test_damage import made, started
from tests.store.test_state import DAY, Held, Log


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- whose it is
@pytest.mark.parametrize("before", [0o755, 0o750, 0o711, 0o777, 0o2775, 0o701])
def test_a_folder_of_ours_that_others_may_enter_is_made_private_and_the_log_says_so(before: int, tmp_path: Path) -> None:
    path = made(tmp_path / "state")
    path.parent.chmod(before)
    loaded, log = started(path.parent)
    assert mode(path.parent) == 0o700
    assert len(loaded.keys) == 3
    assert log.lines == [("warning", "others could enter the state folder; it is for its owner alone now")]
    assert started(path.parent)[1].lines == []


@pytest.mark.parametrize("name", ["fastgw.db", "fastgw.db-journal", "lock", "fastgw.db.corrupt-20260101T000000.000000Z"])
def test_files_that_others_may_read_are_made_private_too(name: str, tmp_path: Path) -> None:
    path = made(tmp_path / "state")
    other = path.parent / name
    other.touch()
    other.chmod(0o644)
    _loaded, log = started(path.parent)
    assert {one.name: mode(one) for one in path.parent.iterdir()} == {one.name: 0o600 for one in path.parent.iterdir()}
    assert log.lines == [("warning", "others could read a file of the state; it is for its owner alone now")]


def test_what_sqlite_makes_beside_the_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        place.claim(str(tmp_path / "a" / "state"))
        database = Database.open(str(tmp_path / "a" / "state" / "fastgw.db"))
        keys.create(database, {}, "test")
        database.close()
        started(tmp_path / "a" / "state")
    finally:
        os.umask(before)
    folder = tmp_path / "a" / "state"
    assert mode(folder) == 0o700
    assert {one.name: mode(one) for one in folder.iterdir()} == {"fastgw.db": 0o600, "fastgw.db-journal": 0o600, "lock": 0o600}


def test_the_command_does_the_same_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = made(tmp_path / "state")
    path.parent.chmod(0o755)
    assert cli.main(["list"], str(path.parent)) == 0
    said = "others could enter the state folder; it is for its owner alone now"
    assert capsys.readouterr().err == f"fastgw keys: note: {said} ({path.parent}, 0755)\n"
    assert mode(path.parent) == 0o700
    path.parent.chmod(0o755)
    (path.parent / "notes.txt").touch()
    for argv in (["list"], ["create"]):
        assert cli.main(argv, str(path.parent)) == 1
        told = capsys.readouterr().err
        assert told.startswith("fastgw keys: error: others may enter the state folder")
        assert told.count("\n") == 1


def test_a_folder_that_holds_more_than_the_state_keeps_its_rights(tmp_path: Path) -> None:
    """It may be /tmp, or somebody's home."""
    folder = tmp_path / "shared"
    folder.mkdir(mode=0o700)
    (folder / "something else").touch()
    loaded, _log = started(folder)  # nobody else can enter
    assert not loaded.closed
    for rights in (0o755, 0o1777, 0o777):
        folder.chmod(rights)
        with pytest.raises(StateError, match=r"name a folder within it, for the state alone$") as caught:
            started(folder)
        assert "something else" in str(caught.value)
        assert mode(folder) == rights


def test_a_folder_that_all_share_keeps_its_rights_even_when_it_is_empty(tmp_path: Path) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    with pytest.raises(StateError, match="it is one that all share: name a folder within it"):
        started(folder)
    assert (mode(folder), list(folder.iterdir())) == (0o1777, [])


@pytest.mark.parametrize("says", ["Operation not permitted", "the disk keeps no modes"])
def test_a_folder_that_cannot_be_made_private_is_refused(says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o755)

    def fchmod(fd: int, mode: int) -> None:
        if says.startswith("Operation"):
            raise PermissionError(1, says)

    monkeypatch.setattr(place.os, "fchmod", fchmod)
    with pytest.raises(StateError, match=rf"cannot be changed \({says}\): name a folder within it"):
        started(folder)
    assert list(folder.iterdir()) == []


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who runs this is somebody else for once: the folder is private, and not to him."""
    folder = made(tmp_path / "state").parent
    before = sorted(one.name for one in folder.iterdir())
    monkeypatch.setattr(place.os, "geteuid", lambda: 54_321)
    with pytest.raises(StateError, match=r"belongs to .*, not to user 54321: name a folder within it, or chown it"):
        started(folder)
    assert sorted(one.name for one in folder.iterdir()) == before


def test_a_folder_that_cannot_even_be_entered_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place.os, "geteuid", lambda: 54_321)

    def refused(*args: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(place.os, "open", refused)
    with pytest.raises(StateError, match="belongs to"):
        place.claim(str(tmp_path))


def test_a_file_that_somebody_else_has_put_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the folder was open: a store with keys of his own, say."""
    path = made(tmp_path / "state")
    lstat = os.lstat

    def theirs(name: str) -> os.stat_result:
        found = list(lstat(name))
        if str(name).endswith("fastgw.db"):
            found[stat.ST_UID] = 54_321
        return os.stat_result(found)

    monkeypatch.setattr(place.os, "lstat", theirs)
    with pytest.raises(StateError, match="belongs to user 54321, who may have written anything into it"):
        started(path.parent)


@pytest.mark.parametrize("link", [False, True])
def test_who_could_put_another_folder_in_its_place_is_named(link: bool, tmp_path: Path) -> None:
    above = tmp_path / "above"
    above.mkdir()
    folder = made(above / "state").parent
    above.chmod(0o1777)
    assert started(folder)[1].lines == []  # as in /tmp: only its owner may rename it
    above.chmod(0o777)
    if link:
        (tmp_path / "link").symlink_to(folder)
        folder = tmp_path / "link"
    assert started(folder)[1].lines == [("warning", "others can put another folder in the place of the state folder")]


def test_a_link_to_the_folder_is_followed(tmp_path: Path) -> None:
    path = made(tmp_path / "disk")
    path.parent.chmod(0o755)
    (tmp_path / "state").symlink_to(path.parent)
    loaded, _log = started(tmp_path / "state")
    assert (len(loaded.keys), mode(path.parent)) == (3, 0o700)


# --- what is no plain file
def a_link(path: Path) -> None:
    target = path.parent.parent / "target"
    target.write_bytes(b"precious")
    path.symlink_to(target)


def a_link_to_nothing(path: Path) -> None:
    path.symlink_to(path.parent.parent / "nothing")


def a_pipe(path: Path) -> None:
    os.mkfifo(path, 0o600)


def a_folder(path: Path) -> None:
    path.mkdir(mode=0o700)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def test_a_lock_that_is_another_file_too_is_not_cut(tmp_path: Path) -> None:
    path = made(tmp_path / "state")
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    os.link(precious, path.parent / "lock")
    with pytest.raises(StateError, match="lock is not a plain file"):
        started(path.parent)
    assert precious.read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["fastgw.db", "fastgw.db-journal", "fastgw.db-wal", "fastgw.db-shm", "lock"])
@pytest.mark.parametrize("kind", [a_link, a_link_to_nothing, a_pipe, a_folder, a_device, a_socket])
@pytest.mark.timeout(20)
def test_what_is_no_plain_file_is_refused_and_left_alone(
    kind: Callable[[Path], None], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody waits for the other end of a pipe, reads a device, or cuts the file at the end of a link."""
    monkeypatch.chdir(tmp_path)  # the address of a socket is short
    path = made(Path("state"))
    strange = path.parent / name
    strange.unlink(missing_ok=True)
    kind(strange)
    was = os.lstat(strange)
    for how in ("refuse", "set_aside"):
        with pytest.raises(StateError, match=f"{name} is not a plain file; move it away") as caught:
            started(path.parent, on_corrupt=how)
        assert "\n" not in str(caught.value)
    if name != "lock":
        for argv in (["list"], ["create"]):
            assert cli.main(argv, str(path.parent)) == 1
            assert "is not a plain file" in capsys.readouterr().err
    now = os.lstat(strange)
    assert (now.st_ino, now.st_mode) == (was.st_ino, was.st_mode)
    if kind is a_link:
        assert Path("target").read_bytes() == b"precious"
    assert not Path("nothing").exists()


async def test_a_lock_that_was_removed_does_not_let_a_second_gateway_in_for_good(tmp_path: Path) -> None:
    """Where the first one notices: when it has to open its file anew."""
    held = Held(tmp_path / "state")
    (tmp_path / "state" / "lock").unlink()
    await held.state.run(lambda database: held.state._file._close_database())
    assert await held.write(("a", DAY, 1, 1, 1, 0, 0, 0)) or await held.write(("a", DAY, 1, 1, 1, 0, 0, 0))
    with pytest.raises(StateError, match="another gateway"):
        State(str(tmp_path / "state"), log=Log()).open(DAY)
    assert await held.state.close()


def test_nothing_of_this_is_left_open(tmp_path: Path) -> None:
    def descriptors() -> set[Any]:
        return {os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.exists()}

    before = descriptors()
    path = made(tmp_path / "state")
    started(path.parent)
    for name in ("lock", "fastgw.db-journal"):
        (path.parent / name).unlink()
        (path.parent / name).mkdir()
        with pytest.raises(StateError):
            started(path.parent)
    assert descriptors() == before
