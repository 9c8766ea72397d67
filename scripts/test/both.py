"""Runs the test suite over both twins, in parts, a few side by side; then what measures time, alone.

    .venv/bin/python scripts/test/both.py            everything
    .venv/bin/python scripts/test/both.py -k name    arguments go to pytest, for each twin

Each session's output lies in ``build/test/``; the terminal shows how far they are, then every failure's report and each
session's last line. Exit code 0 when all passed. Where the native twins are not built (no compiler), one twin is tested.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "build" / "test"
NO_TESTS = 5  # pytest's exit code when nothing was selected
LINE_EVERY_S = 20.0
# Of the suite, as `tests/conftest.py` tells them apart: those that take longest begin first, and none is left to run alone.
PARTS = ("sockets", "machines", "bytes")
TWINLESS = ("beside", "around")
SIDE_BY_SIDE = 5  # sessions at once: a good part of what they do is wait


class Session:
    """pytest over one twin, as a process."""

    def __init__(self, twin: str, phase: str, marks: str, arguments: list[str], part: str = "") -> None:
        self.name = f"{twin}, {phase}" if phase else twin
        self.log = OUTPUT / f"{twin}{'-' + phase if phase else ''}.log"
        environment = {**os.environ, "FASTGW_NATIVE": "1" if twin == "native" else "0", "COLUMNS": "120"}
        environment["TESTED_PART"] = part  # as in tests/conftest.py; "" = all
        # Eight sessions and all that they start read the same sources: compiled anew by each, that is a tenth of the whole.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        # With every test's name: the last one is where a crash came from.
        options = ["-vv", "-o", f"cache_dir=.pytest_cache/{self.log.stem}", *arguments, "-m", marks]
        command = [sys.executable, "-m", "pytest", *options]
        self.started = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def progress(self) -> str:
        text = self.log.read_text(errors="replace")
        percents = re.findall(r"\[ *(\d+)%\]$", text, re.MULTILINE)
        failed = len(re.findall(r" (?:FAILED|ERROR) +\[ *\d+%\]$", text, re.MULTILINE))
        return f"{self.name} {percents[-1] if percents else '0'} %" + (f", {failed} failed" if failed else "")

    def report(self) -> None:
        """Its last line; when it failed, all from the first failure on."""
        text = self.log.read_text(errors="replace").rstrip()
        if self.process.returncode not in (0, NO_TESTS):
            print(f"\n--- {self.name}: exit code {self.process.returncode}, all in {self.log.relative_to(ROOT)}")
            begin = re.search(r"^=+ (ERRORS|FAILURES) =+$|^(ERROR: |INTERNALERROR)|^.*Fatal Python error", text, re.MULTILINE)
            print(text[begin.start() :] if begin else text[-8000:])
        print(f"{self.name}: {text.splitlines()[-1].strip('= ') if text else 'no output'}", flush=True)


def run(waiting: list[Callable[[], Session]]) -> list[int]:
    """Start them, a few at a time, and tell how far they are; returns their exit codes."""
    on_terminal = sys.stdout.isatty()
    began = said = time.monotonic()
    width = 0
    sessions: list[Session] = []
    running: list[Session] = []
    try:
        while running or len(sessions) < len(waiting):
            running = [session for session in running if session.process.poll() is None]
            while len(running) < SIDE_BY_SIDE and len(sessions) < len(waiting):
                sessions.append(waiting[len(sessions)]())
                running.append(sessions[-1])
            time.sleep(0.2)
            if time.monotonic() - said < (1.0 if on_terminal else LINE_EVERY_S):
                continue
            said = time.monotonic()
            line = f"{said - began:4.0f} s   " + "   ".join(session.progress() for session in running)
            print(f"\r{line:<{width}}" if on_terminal else line, end="" if on_terminal else "\n", flush=True)
            width = max(width, len(line))
    finally:
        for session in running:
            if session.process.poll() is None:
                session.process.send_signal(signal.SIGINT)
                session.process.wait()
    if width and on_terminal:
        print("\r" + " " * width, end="\r")
    for session in sessions:
        session.report()
    return [session.process.returncode for session in sessions]


def split_marks(arguments: list[str]) -> tuple[str, list[str]]:
    """Take ``-m EXPRESSION`` out: each session has an expression of its own that it must be joined with."""
    marks, rest = "", []
    following = iter(arguments)
    for argument in following:
        if argument == "-m":
            marks = next(following, "")
        else:
            rest.append(argument)
    return marks, rest


def main(arguments: list[str]) -> int:
    began = time.monotonic()
    sys.path.insert(0, str(ROOT))
    from fastgw import twins

    OUTPUT.mkdir(parents=True, exist_ok=True)
    names = ["python", "native"] if twins.built() else ["python"]
    if len(names) == 1:
        print("the native twins are not built (no compiler here, or FASTGW_BUILD_NATIVE=0): the tests run over Python only")
    marks, rest = split_marks(arguments)
    also = f" and ({marks})" if marks else ""
    quickest = names[-1]  # what has no twins is tested over this one
    usual = [(name, part) for part in PARTS for name in names]
    usual[2 * len(names) : 2 * len(names)] = [(quickest, part) for part in TWINLESS]
    codes = run([partial(Session, name, part, f"not quiet{also}", rest, part) for name, part in usual])
    for name in names:
        codes += run([partial(Session, name, "quiet", f"quiet{also}", rest, "" if name == quickest else "twins")])
    failed = [code for code in codes if code not in (0, NO_TESTS)]
    nothing = all(code == NO_TESTS for code in codes)
    verdict = "failed" if failed else "no such test" if nothing else "all passed"
    used = os.times()
    took = f"{time.monotonic() - began:.0f} s, {used.children_user + used.children_system:.0f} s of CPU"
    print(f"{verdict}: {' and '.join(names)}, {took}")
    return failed[0] if failed else NO_TESTS if nothing else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
