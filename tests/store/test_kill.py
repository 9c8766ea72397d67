"""``kill -9`` at random moments: nothing acknowledged is lost, nothing counts twice, and the file stays sound.

``make test`` kills five times, ``make soak`` 200 times.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastgw.store import keys
from fastgw.store.database import Database
from tests.store.victim import DAY, USERS, rows_of

ROOT = Path(__file__).parents[2]


class Victims:
    """Starts lives, ends them, and checks each against what the ones before it were told."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.chance = random.Random(seed)
        self.acked = 0
        self.sent = 0
        self.keys: set[str] = set()
        self.lives = 0
        self.living = 0
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.store.victim", str(folder)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if self.living:  # a check has failed
            os.kill(self.living, signal.SIGKILL)
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()

    def _line(self) -> list[str]:
        assert self.process.stdout is not None
        words = self.process.stdout.readline().split()
        assert words, "the process that starts victims has ended"
        assert words[0] != "broken", words
        return words

    def life(self) -> None:
        """One life, from its start to its kill; some end before they have read their state."""
        assert self.process.stdin is not None
        self.lives += 1
        first = self.lives == 1  # however few there are, one of them has written much when it ends
        pause_ms = 0 if first else self.chance.choice((0, 20))
        self.process.stdin.write(f"{pause_ms}\n")
        self.process.stdin.flush()
        words = self._line()
        assert words[0] == "pid", words
        self.living = pid = int(words[1])
        early = not first and self.chance.random() < 0.2
        if early:
            time.sleep(self.chance.uniform(0, 0.02))
        else:
            self._loaded(self._line())
            time.sleep(0.15 if first else self.chance.uniform(0, 0.15))
        os.kill(pid, signal.SIGKILL)
        while (words := self._line())[0] != "ended":
            if words[0] == "loaded":
                self._loaded(words)
            elif words[0] == "sent":
                self.sent = int(words[1])
            elif words[0] == "acked":
                self.acked = int(words[1])
            elif words[0] == "key":
                self.keys.add(words[1])
        self.living = 0
        assert int(words[1]) == -signal.SIGKILL, words

    def _loaded(self, words: list[str]) -> None:
        """What this life has found: all that was acknowledged, and nothing that was never written."""
        assert words[0] == "loaded", words
        number, count = int(words[1]), int(words[2])
        assert self.acked <= number <= self.sent
        assert len(self.keys) <= count <= len(self.keys) + self.lives
        self.acked = self.sent = number

    def check(self) -> None:
        """The whole file, read by somebody else."""
        database = Database.open(str(self.folder / "fastgw.db"))
        try:
            assert database.integrity() == []
            usage = sorted(database.load_usage(DAY))
            number = usage[0][2] if usage else 0
            assert usage == (rows_of(number) if number else [])
            assert self.acked <= number <= self.sent
            assert database.rows("SELECT count(*) FROM usage") == [(len(USERS) if number else 0,)]
            found = keys.list_keys(database)
            assert self.keys <= {record.id for record in found}
            assert sorted(record.revision for record in found) == list(range(1, len(found) + 1))
            assert len(keys.audit(database, 10_000)[0]) == len(found)
        finally:
            database.close()


def kill(folder: Path, times: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    victims = Victims(folder, seed)
    begin = time.monotonic()
    try:
        for life in range(1, times + 1):
            victims.life()
            if life % 10 == 0:  # rarely, because closing it empties the log that the next life is to find
                victims.check()
        victims.check()
        assert victims.acked > times / 4, "hardly anything was written: this proves nothing"
        took_s = time.monotonic() - begin
        print(f"{times} kills in {took_s:.1f} s: {victims.acked} batches and {len(victims.keys)} keys are there")
    finally:
        victims.close()


def test_five_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    kill(tmp_path / "state", 5)


@pytest.mark.soak
def test_200_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    kill(tmp_path / "state", 200)
