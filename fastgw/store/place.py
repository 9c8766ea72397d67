"""Where the store lies: its folder and its files, whose they are, and how a store's file comes to be there.

Owns: that folder and files are for their owner alone, that each is a plain file, and the one way in which a file of ours
appears: built complete under another name, then linked into its place. Must never: follow a link out of the folder, or take
away the rights of others to a folder that holds more than the state.

Invariants: a store's file is whole from the first moment on, so whatever lies at its path and holds no store is damage; and
nothing at its path is a new beginning only where nothing of a store lies beside it.
"""

from __future__ import annotations

import errno
import os
import pwd
import sqlite3
import stat
import time
from contextlib import suppress
from typing import Final, NamedTuple

from fastgw.store.schema import CorruptState, StateError, build, trouble

FILE_NAME: Final = "fastgw.db"
LOCK_NAME: Final = "lock"
COMPANIONS: Final = ("-journal", "-wal", "-shm")
"""What SQLite may leave beside its file: the journal of today, and the log and its index of earlier versions."""

SET_ASIDE: Final = ".corrupt-"
_BEING_MADE: Final = ".new-"
_MADE_WITHIN_S: Final = 60.0  # it takes milliseconds; one that is older is of a process that was killed
_NOBODY: Final = 65_534  # what the system shows for users that a container does not know
_NO_LINKS: Final = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK}


class Note(NamedTuple):
    """Something for the log."""

    message: str
    fields: dict[str, str]

    def __str__(self) -> str:
        return f"{self.message} ({', '.join(self.fields.values())})"


# --- whose it is
def claim(folder: str, *, make: bool = True) -> list[Note]:
    """See that the state folder and the store's files in it are for their owner alone, and make it so where it is ours.

    Returns what was changed, and what is to be known. Without ``make`` a missing folder is left so.
    Raises :class:`StateError` with what to do where it cannot be made private, and :class:`Unavailable` for a disk that fails.
    """
    if make:
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise StateError(f"the state folder {folder} is not a folder") from None
        except OSError as error:
            raise trouble(f"cannot make the state folder {folder}", error) from error
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        if make:
            raise trouble(f"cannot open the state folder {folder}", error) from error
        return []
    except NotADirectoryError:
        raise StateError(f"the state folder {folder} is not a folder") from None
    except OSError as error:
        owner = _owner(folder)
        if owner is not None and owner != os.geteuid():
            raise StateError(_anothers(folder, owner)) from None
        raise trouble(f"cannot open the state folder {folder}", error) from error
    try:
        # The folder first: nobody else can then put another file in the place of one that is being looked at.
        notes = _make_folder_private(fd, folder)
        return notes + _make_files_private(fd, folder) + _who_could_swap(fd, folder)
    except OSError as error:
        raise trouble(f"cannot look at the state folder {folder}", error) from error
    finally:
        os.close(fd)


def _make_folder_private(fd: int, folder: str) -> list[Note]:
    found = os.fstat(fd)
    if os.geteuid() not in (0, found.st_uid):
        raise StateError(_anothers(folder, found.st_uid))
    if not found.st_mode & 0o077:
        return []
    mode = f"mode {_mode(found)}"
    strange = [name for name in sorted(os.listdir(fd)) if not _is_ours(name)]
    if strange or found.st_mode & stat.S_ISVTX:  # somebody's home, or /tmp
        more = f"not only the state is in it ({_printable(strange[0])})" if strange else "it is one that all share"
        raise StateError(
            f"others may enter the state folder {folder} ({mode}), and {more}: name a folder within it, for the state alone"
        )
    why = "the disk keeps no modes"
    try:
        os.fchmod(fd, 0o700)
    except OSError as error:
        why = error.strerror or "refused"
    if os.fstat(fd).st_mode & 0o077:
        raise StateError(
            f"others may enter the state folder {folder} ({mode}), and that cannot be changed ({why}): "
            "name a folder within it, or another one that is for its owner alone"
        )
    said = "others could enter the state folder; it is for its owner alone now"
    return [Note(said, {"folder": folder, "mode": _mode(found)})]


def _make_files_private(fd: int, folder: str) -> list[Note]:
    notes = []
    owners = {0, os.geteuid(), os.fstat(fd).st_uid}
    for name in sorted(os.listdir(fd)):
        path = os.path.join(folder, name)
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            continue  # gone meanwhile
        if not _is_ours(name) or not stat.S_ISREG(found.st_mode):
            continue  # what is no plain file and must be one is refused where it is used
        if found.st_uid not in owners:
            owner = _user(found.st_uid)
            raise StateError(f"{path} belongs to {owner}, who may have written anything into it: remove it, or chown it")
        if not found.st_mode & 0o077:
            continue
        try:
            os.chmod(path, 0o600)
        except FileNotFoundError:
            continue
        except OSError as error:
            why = error.strerror or "refused"
            raise StateError(f"others may read {path}, and that cannot be changed ({why}): run chmod 600 on it") from error
        said = "others could read a file of the state; it is for its owner alone now"
        notes.append(Note(said, {"file": path, "mode": _mode(found)}))
    return notes


def _who_could_swap(fd: int, folder: str) -> list[Note]:
    """A note where somebody else may rename a folder on the way to this one, and put another in its place."""
    trusted = {0, os.geteuid(), os.fstat(fd).st_uid, _NOBODY}
    above: dict[str, None] = {}
    for path in (os.path.abspath(folder), os.path.realpath(folder)):  # where a link lies, and what it leads to
        while (path := os.path.dirname(path)) not in above:
            above[path] = None
    for path in above:
        with suppress(OSError):
            found = os.stat(path)
            if (found.st_mode & 0o002 and not found.st_mode & stat.S_ISVTX) or found.st_uid not in trusted:
                said = "others can put another folder in the place of the state folder"
                return [Note(said, {"folder": folder, "within": path})]
    return []


def _mode(found: os.stat_result) -> str:
    return f"{stat.S_IMODE(found.st_mode):04o}"


def _is_ours(name: str) -> bool:
    return name.startswith(FILE_NAME) or name in (LOCK_NAME, "lost+found")


def _owner(path: str) -> int | None:
    try:
        return os.stat(path).st_uid
    except OSError:
        return None


def _anothers(folder: str, owner: int) -> str:
    return (
        f"the state folder {folder} belongs to {_user(owner)}, not to {_user(os.geteuid())}: "
        "name a folder within it, or chown it to whoever runs fastgw"
    )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _printable(name: str) -> str:
    return "".join(one if one.isprintable() else "?" for one in name)


def plain(path: str) -> os.stat_result | None:
    """What lies at ``path``, None = nothing. Raises :class:`StateError` where it is no plain file: a link, a device, a pipe."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise StateError(f"{path} is not a plain file; move it away")
    return found


# --- what lies there
def is_new(path: str) -> bool:
    """Whether it is known that there was no store here yet. A disk that fails says nothing."""
    try:
        return look(path) is None
    except (OSError, StateError):
        return False


def look(path: str) -> os.stat_result | None:
    """The store's file as it lies there; None = there is none yet.

    Raises OSError, :class:`CorruptState` for an empty file, and where it is gone while something of it is left, and
    :class:`StateError` where something lies there that is no plain file.
    """
    folder, own = os.path.split(path)
    try:
        names = os.listdir(folder or ".")
    except FileNotFoundError:
        return None
    for end in COMPANIONS:
        plain(path + end)
    # In this order: a file of ours is there before anything is beside it, and stays until all of that is gone.
    found = plain(path)
    if found is None:
        left = [name for name in names if name.startswith(own) and name != own and not name.startswith(own + _BEING_MADE)]
        if left:
            raise CorruptState(
                f"{path} is gone, and {_printable(min(left))} is left of it (to begin anew, move all of {own}* away)"
            )
        return None
    if not found.st_size:
        raise CorruptState(f"{path} is damaged: it is empty")
    return found


def identity(path: str) -> tuple[int, int]:
    """Device and inode of what lies at ``path``; (0, 0) = nothing."""
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0)
    return (found.st_dev, found.st_ino)


# --- how it comes to be there
def make(path: str, *, closed: bool) -> None:
    """Put a new store at ``path``, where none lies; does nothing where another process was quicker.

    ``closed`` as for :func:`fastgw.store.schema.build`. Raises OSError and ``sqlite3.Error``; nothing is left behind then.
    """
    fresh = f"{path}{_BEING_MADE}{os.urandom(8).hex()}"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            give_to_owner(fd, path)
        finally:
            os.close(fd)
        connection = sqlite3.connect(fresh, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = MEMORY")
            build(connection, closed=closed)
        finally:
            connection.close()
        _into_place(fresh, path)
    finally:
        with suppress(OSError):
            os.unlink(fresh)
    _sync(os.path.dirname(path) or ".")


def _into_place(fresh: str, path: str) -> None:
    try:
        os.link(fresh, path, follow_symlinks=False)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A disk without hard links. Two that come to this line in the same moment both end with one whole file.
        if not os.path.lexists(path):
            os.rename(fresh, path)


def give_to_owner(fd: int, path: str) -> None:
    """What root makes belongs to the folder's owner: a command run by root must not shut the gateway's own user out."""
    if os.geteuid() == 0:
        owner = os.stat(os.path.dirname(os.path.abspath(path)))
        with suppress(OSError):
            os.fchown(fd, owner.st_uid, owner.st_gid)


def _sync(folder: str) -> None:
    """The new name outlives a power cut."""
    with suppress(OSError):  # not every disk can; the file is there all the same
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def set_aside(path: str, to: str) -> None:
    """Rename what is left of a damaged store: its companions first, for no journal may ever meet another file.

    Whenever this ends, something is left that says that there was a store: see :func:`look`.
    """
    for end in (*COMPANIONS, ""):
        with suppress(FileNotFoundError):
            os.rename(path + end, to + end)


def sweep(folder: str) -> None:
    """Remove what a process that was killed had begun to make."""
    with suppress(OSError):
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if name.startswith(FILE_NAME + _BEING_MADE) and time.time() - os.lstat(path).st_mtime > _MADE_WITHIN_S:
                os.unlink(path)
