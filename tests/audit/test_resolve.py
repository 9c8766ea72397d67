"""What a resolution becomes: the files of the targets, markers only where they matter, and what changed since."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pytest
from packaging.requirements import Requirement

from scripts.audit.lockfile import Pin
from scripts.audit.resolve import Unreachable, Unsolvable, changes, compare, for_targets, pins, resolve, told
from tests.audit.made_up import HASH, OTHER

LINUX = "manylinux_2_17_x86_64.manylinux2014_x86_64"


@pytest.mark.parametrize(
    ("tags", "taken"),
    [
        ("py3-none-any", True),
        ("py2.py3-none-any", True),
        (f"cp311-cp311-{LINUX}", True),
        ("cp312-cp312-manylinux_2_28_aarch64", True),
        ("cp313-cp313-musllinux_1_2_x86_64", True),
        ("cp313-cp313-linux_x86_64", True),
        (f"cp39-abi3-{LINUX}", True),
        (f"cp313-abi3-{LINUX}", True),
        (f"py3-none-{LINUX}", True),
        (f"cp310-cp310-{LINUX}", False),
        (f"cp314-cp314-{LINUX}", True),
        (f"cp315-cp315-{LINUX}", False),
        (f"cp315-abi3-{LINUX}", False),
        (f"cp313-cp313t-{LINUX}", False),
        (f"pp311-pypy311_pp73-{LINUX}", False),
        ("py2-none-any", False),
        ("cp311-cp311-win_amd64", False),
        ("cp311-cp311-macosx_11_0_arm64", False),
        ("cp311-cp311-manylinux_2_17_ppc64le", False),
        ("cp311-cp311-musllinux_1_2_armv7l", False),
        ("cp311-cp311-manylinux_2_17_i686", False),
    ],
)
def test_which_wheels_are_locked(tags: str, taken: bool) -> None:
    assert for_targets(f"some_thing-1.0-{tags}.whl") is taken


def test_what_is_no_wheel_is_not_locked() -> None:
    assert not for_targets("some-thing-1.0.tar.gz")


def package(name: str, *wheels: str, sdist: bool = True, marker: str = "") -> dict[str, Any]:
    at = f"https://127.0.0.1/{name}-1.0"
    listed: dict[str, Any] = {"name": name, "version": "1.0"}
    listed["wheels"] = [
        {"url": f"{at}-{tags}.whl", "hashes": {"sha256": f"{digit}" * 64}} for digit, tags in enumerate(wheels)
    ]
    if sdist:
        listed["sdist"] = {"url": f"{at}.tar.gz", "hashes": {"sha256": "f" * 64}}
    return listed | ({"marker": marker} if marker else {})


def test_pins_have_the_files_of_the_targets_and_the_source() -> None:
    (made,) = pins({"packages": [package("A.b", "cp311-cp311-win_amd64", f"cp311-cp311-{LINUX}", "py3-none-any")]})
    assert made == Pin("a-b", "1.0", "", frozenset({"1" * 64, "2" * 64, "f" * 64}))


@pytest.mark.parametrize(
    ("marker", "kept"),
    [
        ("sys_platform == 'win32'", None),
        ("python_full_version < '3.11'", None),
        ("platform_python_implementation == 'PyPy'", None),
        ("sys_platform == 'linux'", ""),
        ("python_version >= '3.8'", ""),
        ("python_full_version < '3.11.3'", "python_full_version < '3.11.3'"),
        ("python_version < '3.13'", "python_version < '3.13'"),
        ("platform_machine == 'aarch64'", "platform_machine == 'aarch64'"),
    ],
)
def test_a_marker_stays_where_it_matters(marker: str, kept: str | None) -> None:
    assert [pin.marker for pin in pins({"packages": [package("a", marker=marker)]})] == ([] if kept is None else [kept])


def pin(version: str, *hashes: str, marker: str = "", name: str = "a") -> Pin:
    return Pin(name, version, marker, frozenset(hashes))


@pytest.mark.parametrize(
    ("locked", "listed", "mistakes", "notes"),
    [
        ([pin("1", HASH)], [pin("1", HASH)], [], []),
        ([pin("1", HASH)], [pin("1", HASH, OTHER)], [], ["a 1 has 1 more files"]),
        ([pin("1", HASH, OTHER)], [pin("1", HASH)], [f"a 1: the registry has no file with the hash {OTHER}"], []),
        ([pin("1", HASH)], [pin("2", HASH)], ["a is locked as 1 , and resolves to 2 "], []),
        ([], [pin("1", HASH)], ["a is not in the lock, and is needed"], []),
        ([pin("1", HASH)], [], ["a is in the lock, and nothing needs it"], []),
        ([pin("1", HASH, marker="python_version<'3.12'")], [pin("1", HASH, marker="python_full_version < '3.12'")], [], []),
        (
            [pin("1", HASH, marker="python_version < '3.12'")],
            [pin("1", HASH)],
            ["a is locked as 1 python_version < '3.12', and resolves to 1 "],
            [],
        ),
    ],
)
def test_a_lock_and_the_registry(locked: list[Pin], listed: list[Pin], mistakes: list[str], notes: list[str]) -> None:
    assert compare(locked, listed) == (mistakes, notes)


def test_what_make_lock_says() -> None:
    before = [pin("1", HASH), pin("1", HASH, name="b"), pin("1", HASH, name="c"), pin("1", HASH, name="d")]
    after = [pin("2", HASH), pin("1", HASH, OTHER, name="b"), pin("1", HASH, name="c"), pin("1", HASH, name="e")]
    assert changes(before, after) == ["e 1 is new", "d 1 is gone", "a 1 -> 2", "b 1: other files"]
    assert changes(after, after) == []


def saying(status: int, stdout: str = "", stderr: str = "") -> Sequence[str]:
    """Something in uv's place, that takes its options and ends so."""
    code = f"import sys; sys.stdin.read(); print({stdout!r}); print({stderr!r}, file=sys.stderr); sys.exit({status})"
    return (sys.executable, "-S", "-c", code)


NO_SOLUTION = "error: No solution found when resolving dependencies\n  cause: Because there is no version of a==9, ..."
REFUSED = "error: Request failed after 3 retries\n  cause: Failed to fetch: ...\n  cause: Connection refused (os error 111)"


@pytest.mark.parametrize(
    ("status", "stderr", "raised", "said"),
    [
        (1, NO_SOLUTION, Unsolvable, "No solution found when resolving dependencies: Because there is no version of a==9, ..."),
        (2, REFUSED, Unreachable, "Request failed after 3 retries: Connection refused (os error 111)"),
        (1, "/bin/python: No module named uv", Unreachable, "/bin/python: No module named uv"),
        (101, "", Unreachable, ""),
    ],
)
def test_no_answer_is_not_an_answer(status: int, stderr: str, raised: type[Exception], said: str) -> None:
    with pytest.raises(raised) as error:
        resolve([Requirement("a")], uv=saying(status, stderr=stderr))
    assert str(error.value) == said


def test_an_answer() -> None:
    source = f'{{ url = "https://127.0.0.1/a.tar.gz", hashes = {{ sha256 = "{HASH}" }} }}'
    text = f'[[packages]]\nname = "a"\nversion = "1"\nsdist = {source}'
    assert resolve([Requirement("a")], {"a": "1"}, uv=saying(0, stdout=text)) == [pin("1", HASH)]


def test_one_line_of_an_error() -> None:
    assert told("error: one\n  cause: two\n  cause: three\n\n") == "one: three"
    assert told("one\n") == "one"
