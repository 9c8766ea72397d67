"""A log whose file others have renamed goes on in a new one, and nothing else is ever opened."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastgw.observe.log_file import LogFile


def test_after_a_rename_there_is_a_new_file_of_the_same_mode(tmp_path: Path) -> None:
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o640)
    try:
        file = LogFile(fd)
        os.write(fd, b"one")
        assert not file.reopen()
        path.rename(tmp_path / "log.1")
        assert file.reopen()
        os.write(fd, b"two")
        assert (path.read_bytes(), (tmp_path / "log.1").read_bytes()) == (b"two", b"one")
        assert path.stat().st_mode & 0o777 == 0o640
        path.unlink()
        assert file.reopen()
        assert not file.reopen()
    finally:
        os.close(fd)


def test_where_it_cannot_be_made_the_old_one_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    fd = os.open(folder / "log", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        file = LogFile(fd)
        (folder / "log").rename(tmp_path / "log.1")
        folder.rmdir()
        with pytest.raises(FileNotFoundError):
            file.reopen()
        os.write(fd, b"one")
        assert (tmp_path / "log.1").read_bytes() == b"one"
    finally:
        os.close(fd)


def test_a_pipe_or_a_terminal_is_left_alone() -> None:
    read, write = os.pipe()
    try:
        file = LogFile(write)
        assert file.path == ""
        assert not file.reopen()
    finally:
        os.close(read)
        os.close(write)


def test_a_pipe_that_somebody_put_there_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        file = LogFile(fd)
        path.rename(tmp_path / "log.1")
        os.mkfifo(path)
        for reader in (None, os.O_RDONLY | os.O_NONBLOCK):
            read = None if reader is None else os.open(path, reader)
            with pytest.raises(OSError, match=r"No such device|it is no file"):
                file.reopen()
            if read is not None:
                os.close(read)
        os.write(fd, b"one")
        assert (tmp_path / "log.1").read_bytes() == b"one"
    finally:
        os.close(fd)
