"""Run in the one-file program before its own code: it ends with the process that unpacked it, and leaves nothing behind.

Two processes are one program there: the outer one unpacks, starts this one, passes signals on, waits, and clears up. When it
is killed outright it can do nothing of that; then this one is sent SIGTERM by the kernel, drains as usual, and clears up
itself. (A folder of programs, the one-dir, has one process and needs none of this.)
"""

import os
import sys


def _bound_to_the_outer(outer: int) -> None:
    import contextlib
    import ctypes
    import signal

    # Ctrl-C goes to the whole group, and the outer one passes it on: come twice it would mean "at once", and cut streams.
    with contextlib.suppress(PermissionError):  # it leads a session already
        os.setpgid(0, 0)
    death_signal = 1  # PR_SET_PDEATHSIG, <linux/prctl.h>
    ctypes.CDLL(None, use_errno=True).prctl(death_signal, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != outer:  # it was killed before the kernel knew
        os.kill(os.getpid(), signal.SIGTERM)


def _clear_up(outer: int) -> None:
    if os.getppid() != outer:
        import shutil

        shutil.rmtree(sys._MEIPASS, ignore_errors=True)


def _begin() -> None:
    outer = os.getppid()
    if not os.path.basename(sys._MEIPASS).startswith("_MEI"):
        return  # one-dir: nothing was unpacked. (Where it lies tells nothing: a file may be run in its own TMPDIR.)
    import atexit

    atexit.register(_clear_up, outer)
    _bound_to_the_outer(outer)


_begin()
