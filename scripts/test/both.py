"""Runs the test suite over both twins, side by side, with what has no twins beside them; then what measures time, alone.

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
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "build" / "test"
NO_TESTS = 5  # pytest's exit code when nothing was selected
LINE_EVERY_S = 20.0


class Session:
    """pytest over one twin, as a process."""

    def __init__(self, twin: str, phase: str, marks: str, arguments: list[str], part: str = "") -> None:
        self.name = f"{twin}, {phase}" if phase else twin
        self.log = OUTPUT / f"{twin}{'-' + phase if phase else ''}.log"
        environment = {**os.environ, "FASTGW_NATIVE": "1" if twin == "native" else "0", "COLUMNS": "120"}
        environment["TESTED_PART"] = part  # "twins", "twinless"; or all
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


def run(sessions: list[Session]) -> list[int]:
    """Wait for all of them and tell how far they are; returns their exit codes."""
    on_terminal = sys.stdout.isatty()
    said = time.monotonic()
    width = 0
    try:
        while any(session.process.poll() is None for session in sessions):
            time.sleep(0.2)
            if time.monotonic() - said < (1.0 if on_terminal else LINE_EVERY_S):
                continue
            said = time.monotonic()
            line = f"{said - sessions[0].started:4.0f} s   " + "   ".join(session.progress() for session in sessions)
            print(f"\r{line:<{width}}" if on_terminal else line, end="" if on_terminal else "\n", flush=True)
            width = max(width, len(line))
    finally:
        for session in sessions:
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
    sessions = [Session(name, "", f"not quiet{also}", rest, "twins") for name in names]
    codes = run([*sessions, Session(quickest, "twinless", f"not quiet{also}", rest, "twinless")])
    for name in names:
        codes += run([Session(name, "quiet", f"quiet{also}", rest, "" if name == quickest else "twins")])
    failed = [code for code in codes if code not in (0, NO_TESTS)]
    nothing = all(code == NO_TESTS for code in codes)
    verdict = "failed" if failed else "no such test" if nothing else "all passed"
    print(f"{verdict}: {' and '.join(names)}, {time.monotonic() - began:.0f} s")
    return failed[0] if failed else NO_TESTS if nothing else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
