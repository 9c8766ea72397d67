"""The hot loops: one specification in plain Python, and the one place that chooses which twin runs.

Every module here is complete by itself and always works. A native extension may replace them, with the same names,
arguments, results and exceptions. The environment is not read here: whoever owns the configuration calls
:func:`select` once, before anything imports the hot modules' names.
"""

from __future__ import annotations

from typing import Final

NATIVE: bool = False
"""Whether the native twin runs."""

MODES: Final = ("auto", "0", "1")


def select(mode: str) -> str:
    """Choose the twin and return its name, ``"python"`` or ``"native"``.

    ``"auto"`` takes the best one there is, ``"0"`` insists on Python, ``"1"`` insists on the native extension.

    :raises ImportError: for ``"1"`` when the extension is not installed.
    :raises ValueError: for any other mode.
    """
    if mode not in MODES:
        raise ValueError(f"FASTGW_NATIVE must be one of {', '.join(MODES)}, not {mode!r}")
    if mode == "1":
        raise ImportError("FASTGW_NATIVE=1 asks for the native extension, and this installation has none; use auto or 0")
    return "python"
