"""What the page about other gateways says is written is what is written, and what it names is there. (Its commands are typed in
``test_limits_page``.)"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from fastgw.config import load
from fastgw.config.entries import ENGINE_FIELDS, ROUTE_FIELDS
from fastgw.config.table import TABLE
from fastgw.importing import litellm, reading, tensorzero
from fastgw.importing import litellm_table as table
from fastgw.importing import tensorzero_table as other

PAGE = (Path(__file__).parents[2] / "docs" / "migrate.md").read_text()
TOML = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
SOURCES = dict(re.findall(r"^cat > ([\w.]+) <<'END'\n(.*?)^END$", PAGE, re.MULTILINE | re.DOTALL))


def test_it_says_what_is_written() -> None:
    draft, report = litellm.translate(reading.yaml(SOURCES["config.yaml"]), lambda name: "")
    assert tomllib.loads(draft.text()) == tomllib.loads(TOML[0])
    assert report.complete
    _, report = tensorzero.translate(reading.toml(SOURCES["tensorzero.toml"]))
    assert report.complete


@pytest.mark.parametrize("number", range(len(TOML)))
def test_settings_are_taken(number: int, tmp_path: Path) -> None:
    (tmp_path / "fastgw.toml").write_text(TOML[number])
    assert load({"config": "fastgw.toml"}, {"ENGINE_KEY": "k"}, tmp_path).warnings == ()


def test_what_it_names_is_there() -> None:
    """On its left what the other gateways call it, on its right what is here."""
    rows = [line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("| `")]
    there, here = ("".join(row[column] for row in rows) for column in (0, 1))
    settings = {row.name for row in (*TABLE, *ENGINE_FIELDS, *ROUTE_FIELDS)}
    assert set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", here)) - settings == {"api_key_env", "model_name", "routing_strategy"}
    flags = {row.flag for row in TABLE}
    assert set(re.findall(r"`(--[a-z-]+)", here)) <= flags
    providers = set(re.findall(r"`([a-z_-]+)/`", there))
    assert providers - table.PROVIDERS.keys() == {"azure", "bedrock", "anthropic", "vertex_ai"}
    assert {f"`{name}`" for name in other.PROVIDERS if f"`{name}`" not in there} == set()


def test_nginx_takes_what_is_for_it(tmp_path: Path) -> None:
    path = f"{os.environ['PATH']}:/usr/sbin"
    if shutil.which("nginx", path=path) is None:
        pytest.skip("there is no nginx")
    (http,) = re.findall(r"^```nginx\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    config = tmp_path / "nginx.conf"
    config.write_text(f"pid {tmp_path}/pid;\nevents {{ }}\nhttp {{ access_log off;\n{http}}}\n")
    argv = ["nginx", "-t", "-e", "stderr", "-c", str(config)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False, env={**os.environ, "PATH": path})
    assert done.returncode == 0, done.stderr
