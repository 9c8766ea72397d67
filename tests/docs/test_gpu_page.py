"""The page about GPUs: what it tells to type is typed, and every series and setting is on it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from fastgw.gpu import series
from fastgw.gpu.fields import FIELDS
from fastgw.gpu.reading import Reading
from tests.support.ports import closed_port

PAGE = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text()


def test_the_commands_do_what_they_should(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    port = str(closed_port())
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ends = "trap 'kill $(jobs -p); wait' EXIT\n"
    text = text.replace("9101", port).replace("--retry 20", "--retry 20 --retry-delay 1")
    done = subprocess.run(["bash", "-euc", ends + text], cwd=tmp_path, capture_output=True, text=True, timeout=40, check=False,
                          env={**os.environ, "PATH": path, "GPU_EXPORTER_PORT": port})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "gpu_exporter_up " in done.stdout
    assert '"status":' in done.stdout


def test_every_reading_has_its_row_under_all_names() -> None:
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in PAGE.splitlines() if row.startswith("| `gpu_")]
    there = {row[0]: (row[2], row[3]) for row in rows if len(row) == 4}
    assert len(there) == len(FIELDS)
    for field in FIELDS:
        labels = ",".join(f'{key}="{value}"' for key, value in field.seed.labels)
        dcgm, smi = there[f"`{field.seed.name}{'{' + labels + '}' if labels else ''}`"]
        assert re.findall(r"`(\w+)`", dcgm) == ([field.dcgm.name.removeprefix("DCGM_FI_DEV_")] if field.dcgm else [])
        assert re.findall(r"`(\w+)`", smi) == ([field.smi.name.removeprefix("nvidia_smi_")] if field.smi else [])


def test_so_has_what_it_says_of_itself() -> None:
    reading = Reading(at=0.0, state="ok", errors={"gpu_lost": 1})
    text = series.of_itself(reading, up=True, age_s=0.0, late=0, readings=1, version="1")
    names = re.findall(r"^# TYPE (\w+) ", text.decode(), re.MULTILINE)
    assert len(names) == 8
    assert [name for name in names if f"`{name}`" not in PAGE] == []
