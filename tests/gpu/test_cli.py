"""The program: what it takes, what it says, and how it ends, whatever the driver does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastgw import cli
from fastgw.config.names import GPU_NAMES
from tests.gpu.conftest import LIBRARY, Script
from tests.gpu.test_series import Samples, read

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("FASTGW_", "GPU_", "LD_LIBRARY"))}


class Program:
    """A running exporter."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log
        while not self.lines():
            assert process.poll() is None, log.read_text()
            time.sleep(0.01)
        self.url: str = self.lines()[0]["urls"]

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def told(self) -> list[tuple[str, str]]:
        """What the log says of the GPUs: how bad it is, and the word for it."""
        return [(line["level"], line["driver"]) for line in self.lines() if line["message"] == "GPUs"]

    def ask(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=20) as answer:
            found: bytes = answer.read()
            return found

    def metrics(self) -> Samples:
        return read(self.ask("/metrics"))

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)


@contextmanager
def exporter(folder: Path, environment: dict[str, str], *flags: str) -> Iterator[Program]:
    argv = [sys.executable, "-m", "fastgw", "gpu-exporter", *flags]
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(argv, cwd=folder, env={**CLEAN, "PYTHONPATH": os.getcwd(), **environment}, stderr=file)
    try:
        yield Program(process, log)
    finally:
        process.kill()
        process.wait()


def test_S2_23_it_serves_the_gpus_until_a_signal(script: Script, tmp_path: Path) -> None:
    environment = {**script.environment(), "GPU_EXPORTER_PORT": "0"}
    with exporter(tmp_path, environment, "--names", "seed,dcgm") as program:
        assert program.url.startswith("http://127.0.0.1:")
        found = program.metrics()
        assert [value for _, value in found["gpu_utilization_percent"]] == [42, 43]
        assert "DCGM_FI_DEV_GPU_UTIL" in found
        assert found["gpu_exporter_up"][0][1] == 1
        assert json.loads(program.ask("/health"))["status"] == "ok"
        assert program.end() == 0
        assert program.told() == [("info", "ok")]
        assert program.lines()[-1]["message"] == "stopped"


def test_M5_a_driver_that_hangs_from_the_start_holds_neither_the_start_nor_the_end(script: Script, tmp_path: Path) -> None:
    script.say("gpus 2", "hang nvmlInitWithFlags")
    with exporter(tmp_path, script.environment(), "--port", "0") as program:
        assert json.loads(program.ask("/health"))["driver"] == "starting"
        began = time.monotonic()
        assert program.end() == 0
        assert time.monotonic() - began < 5


def test_M5_without_a_driver_it_is_up_and_says_so(tmp_path: Path) -> None:
    (tmp_path / LIBRARY).write_text("no library")  # (so that a real one is not found either)
    with exporter(tmp_path, {"LD_LIBRARY_PATH": str(tmp_path)}, "--port", "0") as program:
        found = program.metrics()
        assert found["gpu_exporter_up"] == [({}, 0)]
        assert found["gpu_exporter_info"][0][0]["state"] == "library_not_found"
        assert "libnvidia-ml.so.1" in json.loads(program.ask("/health"))["detail"]
        assert program.end() == 0
        assert program.told() == [("warning", "library_not_found")]


@pytest.mark.parametrize(
    ("flags", "environment", "said"),
    [
        (["--names", "seed,foo"], {}, "--names: 'foo' is no set of names: seed, dcgm, nvidia_smi"),
        (["--port", "65536"], {}, "--port: must be a whole number from 0 to 65535"),
        (["--host", "a b"], {}, "--host: "),
        (["--processes", "-1"], {}, "--processes"),
        ([], {"GPU_EXPORTER_PORT": "x"}, "GPU_EXPORTER_PORT: gpu_exporter_port: must be a whole number"),
        ([], {"FASTGW_CONFIG": "/nowhere.toml"}, "/nowhere.toml"),
        ([], {"FASTGW_GPU_NAMES": "cuda"}, "FASTGW_GPU_NAMES: gpu_names: 'cuda' is no set of names"),
        (["--port", "9101"], {"GPU_EXPORTER_HOST": "192.0.2.1"}, "cannot listen on 192.0.2.1:9101"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], flags: list[str],
    environment: dict[str, str], said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name in (*environment, *(name for name in os.environ if name not in CLEAN)):
        monkeypatch.delenv(name, raising=False)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    code = cli.main(["gpu-exporter", *flags])
    (line,) = capfd.readouterr().err.splitlines()
    assert said in line
    assert code == (1 if "cannot listen" in said else 2)


def test_the_help_shows_how(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["gpu-exporter", "--help"])
    assert "fastgw gpu-exporter --names seed,dcgm" in capsys.readouterr().out
    cli.main(["--help"])
    assert "  gpu-exporter  tell Prometheus" in capsys.readouterr().out


@pytest.mark.gpu
def test_S2_23_on_a_real_gpu(tmp_path: Path) -> None:
    """What NVML says here, and what `nvidia-smi` says of the same."""
    with exporter(tmp_path, {}, "--port", "0", "--names", ",".join(GPU_NAMES)) as program:
        found = program.metrics()
        began = time.monotonic()
        time.sleep(1.1)
        program.ask("/metrics")
        print(f"a reading and its page: {time.monotonic() - began - 1.1:.3f} s")
        assert program.end() == 0
    assert found["gpu_exporter_up"] == [({}, 1)]
    smi = ["nvidia-smi", "--format=csv,noheader,nounits", "--query-gpu=uuid,memory.total,temperature.gpu,power.limit"]
    rows = [line.split(", ") for line in subprocess.run(smi, capture_output=True, text=True, check=True).stdout.splitlines()]
    assert [labels["uuid"] for labels, _ in found["gpu_up"]] == [row[0] for row in rows]
    totals = [value * 1024 for _, value in found["gpu_memory_total_gb"]]
    assert totals == pytest.approx([float(row[1]) for row in rows], abs=1)
    temperatures = [value for _, value in found["gpu_temperature_celsius"]]
    assert temperatures == pytest.approx([float(row[2]) for row in rows], abs=10)
    assert [value for _, value in found["gpu_power_limit_watts"]] == pytest.approx([float(row[3]) for row in rows], abs=1)
    for name in ("gpu_utilization_percent", "gpu_memory_used_gb", "gpu_memory_free_gb", "gpu_power_watts"):
        assert len(found[name]) == len(rows)
