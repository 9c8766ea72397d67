"""How much memory the machine, or the container, gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastgw.config.machine import connections_in, files_for, memory_bytes

GIB = 1 << 30


def machine(folder: Path, *, total_kib: int = 16 << 20, cgroup: str = "0::/\n", limits: dict[str, str] | None = None) -> int:
    proc = folder / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal:       {total_kib} kB\nMemFree: 1 kB\n")
    (proc / "self" / "cgroup").write_text(cgroup)
    groups = folder / "cgroup"
    groups.mkdir()
    for path, text in (limits or {}).items():
        file = groups / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return memory_bytes(str(proc), str(groups))


@pytest.mark.parametrize(
    ("cgroup", "limits", "expected"),
    [
        ("0::/\n", {}, 16 * GIB),
        ("0::/\n", {"memory.max": "max\n"}, 16 * GIB),
        ("0::/\n", {"memory.max": f"{2 * GIB}\n"}, 2 * GIB),  # a container sees its own group as the root
        ("0::/a/b\n", {"a/memory.max": f"{GIB}\n", "a/b/memory.max": "max\n"}, GIB),
        ("0::/a/b\n", {"a/memory.max": f"{4 * GIB}", "a/b/memory.max": f"{3 * GIB}"}, 3 * GIB),
        ("0::/gone\n", {"memory.max": f"{GIB}\n"}, GIB),
        ("0::/../../x\n", {"memory.max": f"{GIB}\n"}, GIB),
        ("5:cpu,memory:/d\n1:name=x:/d\n", {"memory/d/memory.limit_in_bytes": f"{GIB}\n"}, GIB),
        ("5:memory:/d\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 16 * GIB),
        ("nonsense", {"memory.max": "nonsense"}, 16 * GIB),
        ("0::/\n", {"memory.max": f"{64 * GIB}\n"}, 16 * GIB),
    ],
)
def test_the_least_of_all_limits(tmp_path: Path, cgroup: str, limits: dict[str, str], expected: int) -> None:
    assert machine(tmp_path, cgroup=cgroup, limits=limits) == expected


def test_nothing_to_read_is_nothing_known(tmp_path: Path) -> None:
    assert memory_bytes(str(tmp_path / "none"), str(tmp_path / "none")) == 0


def test_this_machine_says_something() -> None:
    assert memory_bytes() > 1 << 26


@pytest.mark.parametrize(("files", "connections"), [(64, 16), (128, 16), (200, 61), (1024, 576), (26317, 16384)])
def test_room_in_open_files(files: int, connections: int) -> None:
    assert connections_in(files) == connections
    assert connections_in(files_for(connections)) == connections
