"""Where the time goes: what a sample of perf is called, that parts add up to the whole, and a run where perf may look."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
COMPILER = any(shutil.which(name) for name in ("cc", "gcc", "clang"))
POLLER = "/srv/fastgw/.venv/lib/python3.11/site-packages/fastgw/net/poller.cpython-311-x86_64-linux-gnu.so"
# As `perf script -F ip,sym,dso` prints them, innermost first.
SAMPLES = {
    ("user", "net/poller.py"): [f"7f01 [unknown] ({POLLER})", "7f02 [unknown] ([unknown])"],
    ("user", "accel/sse.py"): ["7f01 [unknown] (/work/fastgw/fastgw/accel/sse.cpython-311-x86_64-linux-gnu.so)"],
    ("user", "the interpreter"): ["4f10 _PyEval_EvalFrameDefault (/usr/bin/python3.11)", f"7f01 [unknown] ({POLLER})"],
    ("user", "libc"): ["9c0f __memmove_avx (/usr/lib/x86_64-linux-gnu/libc.so.6)"],
    ("user", "uvloop"): ["11 [unknown] (/v/site-packages/uvloop/loop.cpython-311-x86_64-linux-gnu.so)"],
    ("user", "the clock"): ["91 clock_gettime ([vdso])"],
    ("user", "nginx"): ["5a1 [unknown] (/usr/sbin/nginx)"],
    ("kernel", "send"): ["ffff0 tcp_write_xmit ({k})", "ffff1 __x64_sys_sendto ({k})", "ffff2 do_syscall_64 ({k})"],
    ("kernel", "send: the other side's receiving"): [
        *("ffff0 tcp_v4_rcv ({k})", "ffff1 __do_softirq ({k})", "ffff2 __x64_sys_sendto ({k})", "ffff3 do_syscall_64 ({k})"),
        "4f10 send (/usr/lib/x86_64-linux-gnu/libc.so.6)",
    ],
    ("kernel", "recv"): ["ffff0 tcp_recvmsg ({k})", "ffff1 __x64_sys_recvfrom ({k})", "ffff2 do_syscall_64 ({k})"],
    ("kernel", "epoll_wait: looking"): ["ffff0 do_epoll_wait+0x12 ({k})", "ffff1 __x64_sys_epoll_wait ({k})"],
    ("kernel", "epoll_wait: sleeping and waking"): [
        *("ffff0 finish_task_switch.isra.0 ({k})", "ffff1 schedule ({k})", "ffff2 __x64_sys_epoll_wait ({k})"),
    ],
    ("kernel", "accept4"): ["ffff0 inet_accept ({k})", "ffff1 __x64_sys_accept4 ({k})", "ffff2 do_syscall_64 ({k})"],
    ("kernel", "the way into the kernel and out"): ["ffff0 do_syscall_64 ({k})", "ffff1 entry_SYSCALL_64_after_hwframe ({k})"],
    ("kernel", "page faults"): ["ffff0 clear_page ({k})", "ffff1 exc_page_fault ({k})", f"7f01 [unknown] ({POLLER})"],
    ("kernel", "interrupts and the rest"): ["ffff0 asm_sysvec_apic_timer_interrupt ({k})"],
}


@pytest.fixture(autouse=True)
def _checkout_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def module(name: str) -> Any:
    return importlib.import_module(f"benchmarks.wire.{name}")


def script(samples: list[list[str]]) -> str:
    return "".join("".join(f"\t{line.format(k='[kernel.kallsyms]')}\n" for line in lines) + "\n\n" for lines in samples)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_called_by_its_own_frames(name: tuple[str, str]) -> None:
    assert module("where").shares(script([SAMPLES[name]])) == {name: 1.0}


def test_parts_add_up_to_the_whole() -> None:
    where = module("where")
    found = where.shares(script([*SAMPLES.values(), SAMPLES["kernel", "recv"]]))
    assert sum(found.values()) == pytest.approx(1)
    assert found["kernel", "recv"] == 2 * found["kernel", "send"]


def of(us: float, **user: float) -> dict[str, Any]:
    return {"us": us, "samples": 1, "bad": 0, "sleeps": us / 20, "kernel": {"recv": us - sum(user.values())}, "user": user}


def test_the_page_has_the_dearest_first_and_sums_up_what_is_small() -> None:
    where = module("where")
    fastgw = where.middle([of(10.0, libc=1.0, python=0.02), of(12.0, libc=3.0, python=0.02), of(11.0, libc=2.0, python=0.02)])
    results = {
        "machine": {"date": "2026-01-01T00:00:00Z", "cpu": "A CPU", "kernel": "6.1", "git_commit": "", "git_dirty": False},
        "settings": {"seconds": 4.0, "rounds": 3},
        "rows": {"plain, µs for each request": {"fastgw": fastgw, "nginx": of(9.0, nginx=4.0, libc=0.5)}},
    }
    rows = [line.strip("|").split(" | ") for line in where.section(results, "x").splitlines() if line.startswith("|")]
    assert [[cell.strip() for cell in row] for row in rows[2:]] == [
        ["all", "11.0", "9.0"],
        ["how often it sleeps", "0.55", "0.45"],
        ["**in system calls and the kernel**", "**9.0**", "**4.5**"],
        ["recv", "8.98", "4.50"],
        ["**in user code**", "**2.0**", "**4.5**"],
        ["libc", "2.00", "0.50"],
        ["nginx", "", "4.00"],
        ["less than half a per cent each", "0.02", ""],
    ]


def test_results_from_before_sleeps_were_counted_still_make_a_page() -> None:
    where = module("where")
    old = {name: value for name, value in of(9.0).items() if name != "sleeps"}
    results = {
        "machine": {"date": "2026-01-01T00:00:00Z", "cpu": "A CPU", "kernel": "6.1", "git_commit": "", "git_dirty": False},
        "settings": {"seconds": 4.0, "rounds": 3},
        "rows": {"plain, µs for each request": {"fastgw": where.middle([old, old]), "nginx": of(9.0)}},
    }
    assert "sleeps" not in where.section(results, "x")


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "benchmarks.wire.where", *arguments]
    return subprocess.run(argv, cwd=ROOT, env=os.environ | env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.bench
@pytest.mark.quiet
@pytest.mark.skipif(not COMPILER, reason="needs a C compiler")
def test_a_short_run_takes_a_request_apart_or_says_why_not(tmp_path: Path) -> None:
    out = tmp_path / "where.json"
    done = run("--rows", "plain", "--only", "floor", "--seconds", "0.5", "--rounds", "1", "--out", str(out))
    if done.returncode == 2:
        assert "perf" in done.stderr
        assert "Traceback" not in done.stderr
        return
    assert done.returncode == 0, done.stderr
    ((title, parts),) = json.loads(out.read_text())["rows"].items()
    assert title == "plain, µs for each request"
    floor = parts["floor"]
    assert floor["samples"] > 50
    assert 0 < floor["sleeps"] < 3
    assert sum(floor["kernel"].values()) + sum(floor["user"].values()) == pytest.approx(floor["us"])
    assert {"send", "recv"} <= set(floor["kernel"])
    assert sum(floor["user"].values()) < sum(floor["kernel"].values()), "it does nothing but copy"


@pytest.mark.skipif(not COMPILER, reason="needs a C compiler")
def test_without_perf_it_says_so_in_one_line(tmp_path: Path) -> None:
    compiler = next(found for name in ("cc", "gcc", "clang") if (found := shutil.which(name)))
    done = run("--only", "floor", "--out", str(tmp_path / "never"), PATH=str(tmp_path), CC=compiler)
    assert done.returncode == 2
    assert "perf is not installed" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "never").exists()
