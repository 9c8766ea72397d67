"""A libnvidia-ml.so.1 made of ``stub.c``, for the real pynvml; see there what a script may say."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LIBRARY = "libnvidia-ml.so.1"


class Script:
    """What the library says, from the next call on."""

    def __init__(self, path: Path, library: Path) -> None:
        self.path = path
        self.library = library
        self._loaded: ctypes.CDLL | None = None

    def say(self, *lines: str) -> None:
        new = self.path.with_suffix(".new")
        new.write_text("\n".join(lines) + "\n")
        new.rename(self.path)  # (a call never reads a half)

    def load(self) -> None:
        """Have it in this process. Its name is its soname's, so that pynvml's own ``dlopen`` finds it, and no real one."""
        self._loaded = ctypes.CDLL(str(self.library))

    @property
    def inits(self) -> int:
        """How often it was opened."""
        assert self._loaded is not None
        return int(self._loaded.stub_inits())

    def environment(self) -> dict[str, str]:
        """For a program that is to load it."""
        return {"LD_LIBRARY_PATH": str(self.library.parent), "NVML_STUB": str(self.path)}


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    made = tmp_path_factory.getbasetemp() / "nvml" / LIBRARY
    if made.exists():  # (for tests elsewhere that have this fixture too: a process loads one library of a name)
        return made
    made.parent.mkdir()
    argv = [compiler, "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", f"-Wl,-soname,{LIBRARY}",
            str(HERE / "stub.c"), "-o", str(made)]  # fmt: skip
    subprocess.run(argv, check=True, timeout=60)
    return made


@pytest.fixture
def script(library: Path, tmp_path: Path) -> Script:
    """For programs."""
    found = Script(tmp_path / "script", library)
    found.say("gpus 2")
    return found


@pytest.fixture
def nvml(script: Script, monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    """In this process."""
    monkeypatch.setenv("NVML_STUB", str(script.path))
    script.load()
    yield script
    import pynvml

    script.say("gpus 1")
    with suppress(pynvml.NVMLError):
        pynvml.nvmlShutdown()
