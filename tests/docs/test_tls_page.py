"""What the page of TLS tells an operator to write and to type is taken by the programs that it is for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastgw.config import load
from tests.support.pki import Certificates
from tests.support.ports import closed_port

PAGE = (Path(__file__).parents[2] / "docs" / "tls.md").read_text()
FOLDER = "/etc/fastgw/tls"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def files(certs: Certificates, tmp_path: Path) -> Path:
    """The folder of the page."""
    shutil.copy(certs.gateway.cert, tmp_path / "fullchain.pem")
    shutil.copy(certs.gateway.key, tmp_path / "privkey.pem")
    shutil.copy(certs.ca, tmp_path / "engines-ca.pem")
    both = Path(certs.gateway.cert).read_text() + Path(certs.gateway.key).read_text()
    (tmp_path / "both.pem").write_text(both)
    return tmp_path


@pytest.mark.parametrize("number", range(len(blocks("toml"))))
def test_settings_are_taken(files: Path, number: int) -> None:
    (files / "fastgw.toml").write_text(blocks("toml")[number].replace(FOLDER, str(files)))
    load({"config": str(files / "fastgw.toml")}, {}, str(files))


def test_the_other_proxies_take_what_is_for_them(files: Path) -> None:
    port = str(closed_port())
    (http,) = blocks("nginx")
    config = files / "nginx.conf"
    text = http.replace(FOLDER, str(files)).replace("listen 443", f"listen 127.0.0.1:{port}")
    config.write_text(f"pid {files}/pid;\nevents {{ }}\nhttp {{ access_log off;\n{text}}}\n")
    (frontend,) = blocks("haproxy")
    other = files / "haproxy.cfg"
    other.write_text(frontend.replace(FOLDER, str(files)).replace("bind :443", f"bind 127.0.0.1:{port}"))
    tried = [
        argv for argv in (["nginx", "-t", "-e", "stderr", "-c", str(config)], ["haproxy", "-c", "-f", str(other)])
        if shutil.which(argv[0], path=f"{os.environ['PATH']}:/usr/sbin")
    ]  # fmt: skip
    if not tried:
        pytest.skip("there is neither nginx nor haproxy")
    for argv in tried:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False,
                              env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"})  # fmt: skip
        assert done.returncode == 0, done.stderr


def test_the_commands_do_what_they_should(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl program")
    (text,) = blocks("sh")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    text = text.replace(":8000", f":{closed_port()}")
    done = subprocess.run(["bash", "-euc", text], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
                          env={**os.environ, "PATH": path})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no answer: " in done.stdout


def test_the_hook_of_a_renewal_copies_what_was_renewed(files: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Certbot gives it to ``/bin/sh``, which need not be bash; what it names are links."""
    (hook,) = re.findall(r"--deploy-hook \\\n +'(.*?)'", PAGE)
    made = tmp_path_factory.mktemp("etc")
    renewed = tmp_path_factory.mktemp("live")
    for name in ("fullchain.pem", "privkey.pem"):
        (renewed / name).symlink_to(files / name)
    argv = ["/bin/sh", "-c", hook.replace(FOLDER, str(made)).replace("-o fastgw", f"-o {os.getuid()}")]
    subprocess.run(argv, check=True, timeout=20, env={**os.environ, "RENEWED_LINEAGE": str(renewed)})
    for name in ("fullchain.pem", "privkey.pem"):
        assert (made / name).read_bytes() == (files / name).read_bytes()
        assert (made / name).stat().st_mode & 0o777 == 0o600
        assert not (made / name).is_symlink()
