"""``python -m tests.fuzz [TARGET ...] --seconds 60``: atheris over each target, from seeds made here.

What it learns stays in ``build/fuzz/TARGET/corpus``. At a disagreement the input is saved in ``build/fuzz/TARGET`` and the
exit status is 1; ``--replay FILE`` runs one input again. The compiled twins must be running: FASTGW_NATIVE=1. Two targets
are none of atheris's: ``cost`` looks for what costs a reader of either twin too much (``tests/fuzz/cost.py``), and
``properties`` is the suite's property tests, over both twins, with many more examples than in ``make test``.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import inspect
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

TARGETS = ("heads", "chunks", "sse", "bodies", "usage", "multipart", "websocket", "frames", "blocks")
COST = "cost"
PROPERTIES = "properties"
ALL = (*TARGETS, COST, PROPERTIES)
ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "fuzz"
MAX_INPUT_BYTES = 4096


def _escaped(word: bytes) -> str:
    return '"' + "".join(chr(c) if 32 <= c < 127 and c not in b'"\\' else f"\\x{c:02x}" for c in word) + '"'


def _lay_out(name: str, target: ModuleType) -> Path:
    """The folder of a target, with its seeds and its dictionary."""
    folder = FOLDER / name
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    for seed in target.seeds():
        (folder / "corpus" / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    words = sorted({word for word in target.words() if 0 < len(word) <= 120})
    (folder / "words").write_text("\n".join(_escaped(word) for word in words) + "\n")
    return folder


def _instrument(atheris: ModuleType, modules: list[ModuleType]) -> None:
    """Let the fuzzer see which branches of Python's an input takes."""
    for module in modules:
        for value in list(vars(module).values()):
            functions = [value] if isinstance(value, FunctionType) else []
            if inspect.isclass(value) and value.__module__ == module.__name__:
                functions = [one for one in vars(value).values() if isinstance(one, FunctionType)]
            for function in functions:
                if function.__module__ == module.__name__:
                    atheris.instrument_func(function)


def _python_sides() -> list[ModuleType]:
    """Whatever of the hot modules is there as Python source."""
    return [
        module
        for name, module in sorted(sys.modules.items())
        if name.startswith(("fastgw.accel.", "fastgw.protocol.")) and str(getattr(module, "__file__", "")).endswith(".py")
    ]


def _mutator(atheris: ModuleType, target: ModuleType) -> dict[str, Any]:
    """The target's own mutator, where it has one, in turn with the fuzzer's."""
    if not hasattr(target, "mutated"):
        return {}

    def mutate(data: bytes, max_bytes: int, seed: int) -> bytes:
        chance = random.Random(seed)
        new = target.mutated(data, chance) if chance.random() < 0.8 else atheris.Mutate(data, len(data))
        return bytes(new[:max_bytes])

    return {"custom_mutator": mutate}


def fuzz(name: str, seconds: int) -> None:
    """Run one target in this process; libFuzzer ends it."""
    import atheris

    target = importlib.import_module(f"tests.fuzz.{name}")
    folder = _lay_out(name, target)
    _instrument(atheris, [*_python_sides(), *getattr(target, "OTHERS", ())])
    check: Callable[[bytes], None] = target.check
    atheris.Setup(
        [
            sys.argv[0],
            f"-max_total_time={seconds}",
            f"-max_len={MAX_INPUT_BYTES}",
            f"-dict={folder / 'words'}",
            f"-artifact_prefix={folder}/",
            "-timeout=20",
            "-rss_limit_mb=1024",
            "-print_final_stats=1",
            "-verbosity=1",
            str(folder / "corpus"),
        ],
        check,
        **_mutator(atheris, target),
    )
    atheris.Fuzz()


def run(name: str, seconds: int) -> bool:
    """One target in a process of its own; whether it went through."""
    started = time.monotonic()
    print(f"fuzz {name}: {seconds} s ...", flush=True)
    command = [sys.executable, "-m", "tests.fuzz", "--inside", name, "--seconds", str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    assert process.stdout is not None
    last = ""
    told = started
    lines: list[str] = []
    executions = ""
    for line in process.stdout:
        lines = [*lines[-200:], line]
        if line.startswith("#"):
            last = line.strip()
            if time.monotonic() - told > 10:
                told = time.monotonic()
                print(f"  {last}", flush=True)
        elif line.startswith("stat::number_of_executed_units:"):
            executions = line.split()[-1]
    if process.wait() == 0:
        print(f"fuzz {name}: {executions or '?'} inputs in {time.monotonic() - started:.0f} s, no disagreement", flush=True)
        return True
    sys.stdout.write("".join(line for line in lines if not line.startswith(("#", "\tNEW_FUNC"))))
    saved = next((line.split()[-1] for line in reversed(lines) if "Test unit written to" in line), "")
    print(f"fuzz {name}: FAILED" + (f"; again: {sys.executable} -m tests.fuzz {name} --replay {saved}" if saved else ""))
    return False


def cost(seconds: int) -> bool:
    """What costs a reader too much, looked for in one twin after the other; whether nothing does."""
    passed = True
    for twin, name in (("1", "native"), ("0", "python")):
        print(f"fuzz cost, {name}: {seconds} s ...", flush=True)
        command = [sys.executable, "-m", "tests.fuzz.cost", "--seconds", str(seconds)]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, "FASTGW_NATIVE": twin}, check=False)
        passed = passed and done.returncode == 0
    return passed


def properties() -> bool:
    """The suite's property tests, with the examples of the profile that is for this; whether they went through."""
    print("property tests ...", flush=True)
    command = [sys.executable, str(ROOT / "scripts/test/both.py"), "-m", "hypothesis", "--hypothesis-profile=fuzz"]
    return subprocess.run([*command, "-o", "timeout=0"], cwd=ROOT, check=False).returncode == 0


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(ALL)} (default: all)")
    parser.add_argument("--seconds", type=int, default=60, help="how long each target runs")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="check one input instead")
    parser.add_argument("--inside", choices=TARGETS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.targets) - set(ALL):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    if options.inside:
        fuzz(options.inside, options.seconds)
        return 0
    from fastgw import twins

    if not twins.native():
        print("the compiled twins are not running: make native, then FASTGW_NATIVE=1", file=sys.stderr)
        return 2
    os.environ["FASTGW_NATIVE"] = "1"
    names = options.targets or ALL
    if options.replay:
        for name in set(names) - {COST, PROPERTIES}:
            importlib.import_module(f"tests.fuzz.{name}").check(options.replay.read_bytes())
        return 0
    # All of them run, whatever one finds.
    others: dict[str, Callable[[], bool]] = {COST: lambda: cost(options.seconds), PROPERTIES: properties}
    verdicts = [others[name]() if name in others else run(name, options.seconds) for name in names]
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
