"""NVIDIA's management library, by pynvml: opened, asked, closed.

Owns: the import of pynvml (at the first opening: it takes milliseconds, and most programs need none of it), and what its errors
mean. Must never: be asked in the loop (a call takes as long as the driver likes), or by two threads at once.

A GPU that is not there is :class:`Lost`; a driver that is not, :class:`NoDriver`; a reading that there is not, :class:`Absent`.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

from fastgw.errors import described

# Error of NVML: the word for it, and what to do.
DRIVER: Final[dict[int, tuple[str, str]]] = {
    1: ("not_initialized", "the driver has let us go; it is opened again"),
    4: ("no_permission", "let this user at /dev/nvidiactl and /dev/nvidia*"),
    9: ("driver_not_loaded", "load the kernel module; `nvidia-smi` says why it is not"),
    12: ("library_not_found", "there is no libnvidia-ml.so.1: install the driver, or give the container its GPUs (--gpus all)"),
    13: ("library_too_old", "the driver knows nothing of this call: update it"),
    17: ("operating_system", "the system refused: let this container at /dev/nvidiactl and /dev/nvidia*"),
    18: ("version_mismatch", "the driver was updated: restart this program, and the machine if that is not enough"),
}  # fmt: skip
LOST: Final = frozenset({15, 28})
# What a GPU or a driver simply has not: no error. (The twelfth is of vGPUs.)
HAS_NOT: Final = frozenset({3, 6, 13, 21, 22})
WORDS: Final[dict[int, str]] = {
    2: "invalid_argument", 4: "no_permission", 10: "timeout", 14: "corrupted_inforom", 16: "reset_required",
    17: "operating_system", 19: "in_use", 20: "memory", 999: "unknown",
}  # fmt: skip
# Which of the union a field value is, by its ``valueType`` (nvmlValueType_t).
_VALUES: Final = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}


class NoDriver(Exception):
    """It cannot be asked; ``word`` is one of few, and the text says what to do."""

    def __init__(self, word: str, message: str) -> None:
        super().__init__(message)
        self.word = word


class Lost(Exception):
    """A GPU that does not answer any more."""


class Absent(Exception):
    """There is no such reading; ``word`` "" = and that is no error."""

    def __init__(self, word: str = "") -> None:
        super().__init__(word)
        self.word = word


class Driver:
    """See the head of this file."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self.open = False

    def start(self) -> None:
        """Raises :class:`NoDriver`."""
        try:
            import pynvml
        except ImportError as error:
            raise NoDriver("no_pynvml", f"{described(error)}: pip install nvidia-ml-py") from None
        self._nvml = pynvml
        self.system("Init")
        self.open = True

    def stop(self) -> None:
        """Let it go, whatever it says to that."""
        if self.open:
            self.open = False
            with suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()

    def system(self, name: str) -> Any:
        """What ``nvml<name>`` says. Raises :class:`NoDriver`."""
        try:
            return getattr(self._nvml, f"nvml{name}")()
        except self._nvml.NVMLError as error:
            word, advice = DRIVER.get(error.value, (WORDS.get(error.value, "other"), "`nvidia-smi` may say more"))
            raise NoDriver(word, f"{error}: {advice}") from None

    def told(self, name: str) -> str:
        """A text about the whole, "" where there is none."""
        try:
            found = self.system(name)
        except NoDriver:
            return ""
        return found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)

    def gpu(self, index: int) -> Gpu:
        """Raises :class:`Lost`, :class:`NoDriver`, :class:`Absent`."""
        return Gpu(self._nvml, asked(self._nvml, "HandleByIndex", (index,)))


def asked(nvml: Any, name: str, arguments: tuple[Any, ...]) -> Any:
    """What ``nvmlDeviceGet<name>`` says. Raises :class:`Lost`, :class:`NoDriver`, :class:`Absent`."""
    call = getattr(nvml, f"nvmlDeviceGet{name}", None)
    if call is None:
        raise Absent  # of a later pynvml than this one
    try:
        return call(*arguments)
    except nvml.NVMLError as error:
        raise meant(error.value, str(error)) from None
    except Exception:  # (pynvml's own: texts that are none, versions that do not go together)
        raise Absent("unexpected") from None


def meant(code: int, said: str) -> Exception:
    """The exception that an error of NVML is."""
    if code in LOST:
        return Lost()
    if code == 1:
        return NoDriver(*DRIVER[1])
    return Absent("" if code in HAS_NOT else WORDS.get(code, "other"))


class Gpu:
    """One GPU, or a MIG instance: an :class:`fastgw.gpu.fields.Ask` of one reading. What was asked once is not asked again."""

    __slots__ = ("_known", "_nvml", "handle")

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self.handle = handle
        self._known: dict[tuple[Any, ...], Any] = {}

    def __call__(self, name: str, *arguments: Any) -> Any:
        key = (name, *arguments)
        if key not in self._known:
            said = [getattr(self._nvml, one) if isinstance(one, str) else one for one in arguments]
            try:
                self._known[key] = asked(self._nvml, name, (self.handle, *said))
            except Absent as error:
                self._known[key] = error
        found = self._known[key]
        if isinstance(found, Absent):
            raise found
        return found

    def text(self, name: str) -> str:
        """A text about it, "" where there is none."""
        try:
            found = self(name)
        except Absent:
            return ""
        return found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)

    def field(self, name: str) -> float:
        (value,) = self("FieldValues", (getattr(self._nvml, name),))
        if value.nvmlReturn:
            raise meant(value.nvmlReturn, name)
        part = _VALUES.get(value.valueType)
        if part is None:
            raise Absent("other")
        return float(getattr(value.value, part))

    def memory(self) -> Any:
        # (The first version counts what the driver keeps for itself among `used`, which nvidia-smi and DCGM do not.)
        try:
            return self("MemoryInfo", "nvmlMemory_v2")
        except Absent:
            return _Unreserved(self("MemoryInfo"))

    def reasons(self) -> int:
        try:
            return int(self("CurrentClocksEventReasons"))
        except Absent:  # a driver before 535 has them by their old name
            return int(self("CurrentClocksThrottleReasons"))

    def mig(self, index: int) -> Gpu:
        return Gpu(self._nvml, self("MigDeviceHandleByIndex", index))


class _Unreserved:
    """The memory of a driver that does not tell what it reserves."""

    def __init__(self, said: Any) -> None:
        self.total, self.used, self.free = said.total, said.used, said.free

    @property
    def reserved(self) -> int:
        raise Absent
