"""What ``pyproject.toml`` cannot say: the compiled twins, all of them or none.

The wheel of an installation without them is pure Python and says so by its name.
"""

import os
import sys
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).parent / "native"))
from backend import twins

# Others of setuptools' commands (metadata, the source distribution) need no extension, and translating them takes its time.
COMPILING = {"bdist_wheel", "build", "build_ext", "editable_wheel", "install"}


class AllOrNone(build_ext):
    """One extension that cannot be built takes the others with it: they would not fit what is left."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self.parallel = min(os.cpu_count() or 1, 8)

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:
            twins().give_up(f"an extension cannot be built ({type(error).__name__})")
            for path in {*self.get_outputs(), *(self.get_ext_fullpath(one.name) for one in self.extensions)}:
                Path(path).unlink(missing_ok=True)
            self.extensions = []
            self.distribution.ext_modules = []
            wheel: Any = self.distribution.get_command_obj("bdist_wheel", False)
            if wheel is not None:
                wheel.root_is_pure = True


def extensions() -> list[Any]:
    if not COMPILING & set(sys.argv):
        return []
    native = twins()
    try:
        found: list[Any] = native.extensions()
    except Exception as error:
        native.give_up(f"Cython cannot translate the sources ({type(error).__name__})")
        return []
    return found


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": AllOrNone},
)
