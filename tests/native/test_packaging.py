"""Installing without a compiler, without Cython, and with both: what a user gets and is told.

The source distribution is made once from this checkout and everything else is built from it, in folders of its own. What
builds wheels takes its time, and runs with ``make packaging``; all but its last test compile one small twin only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
SUFFIX = str(sysconfig.get_config_var("EXT_SUFFIX"))
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
PAGE = "fastgw/control/page/page.html"
SMALL = "accel/tokens"  # depends on no other twin

pytestmark = pytest.mark.once  # of both twins, whichever runs


def backend(tree: Path, hook: str, target: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Call the build backend as pip does: from the tree, in a process of its own."""
    target.mkdir(exist_ok=True)
    code = f"import sys; sys.path.insert(0, 'native'); import backend; print(backend.{hook}(sys.argv[1]))"
    return subprocess.run(
        [sys.executable, "-c", code, str(target)],
        cwd=tree,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def environment(**more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1", **more}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    tree = folder / "tree"
    shutil.copytree(REPO / "fastgw", tree / "fastgw", ignore=shutil.ignore_patterns("__pycache__"))  # with what is compiled
    shutil.copytree(REPO / "native", tree / "native", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(REPO / name, tree)
    done = backend(tree, "build_sdist", folder)
    assert done.returncode == 0, done.stderr
    (made,) = folder.glob("*.tar.gz")
    return made


@pytest.fixture
def tree(sdist: Path, tmp_path: Path) -> Path:
    """The unpacked source distribution."""
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / sdist.name.removesuffix(".tar.gz")


def keep_one_twin(tree: Path) -> None:
    for path in [*(tree / "native").rglob("*.pyx"), *(tree / "native").rglob("*.pxd")]:
        if not path.with_suffix("").as_posix().endswith(SMALL):
            path.unlink()


def wheel(tree: Path, **env: str) -> tuple[Path, str]:
    """Build one; returns it and what was said."""
    target = tree.parent / "wheels"
    done = backend(tree, "build_wheel", target, **env)
    assert done.returncode == 0, done.stderr
    (made,) = target.glob("*.whl")
    return made, done.stderr


def contents(made: Path) -> list[str]:
    with zipfile.ZipFile(made) as archive:
        return archive.namelist()


def install(made: Path) -> Path:
    target = made.parent.parent / "installed"
    command = [*PIP, "install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(made)]
    subprocess.run(command, check=True, timeout=100, env=environment(), capture_output=True)
    return target


def fastgw(installed: Path, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastgw", *argv], cwd=installed.parent, env=environment(PYTHONPATH=str(installed), **env),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def assert_pure(made: Path) -> None:
    """A wheel for every platform, that runs, says what it is, and refuses to be what it is not."""
    assert made.name.endswith("-py3-none-any.whl")
    assert not [name for name in contents(made) if name.endswith((".so", ".c", ".pyx", ".pxd"))]
    assert f"fastgw/{SMALL}.py" in contents(made)
    installed = install(made)
    told = fastgw(installed, "version")
    assert (told.returncode, told.stdout.splitlines()[3]) == (0, "native: no"), told.stderr
    for argv in (["version"], ["serve", "--engine", "http://127.0.0.1:1", "--port", "0"]):
        refused = fastgw(installed, *argv, FASTGW_NATIVE="1")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.startswith("fastgw: error: FASTGW_NATIVE=1 ")
        assert len(refused.stderr.splitlines()) == 1


def test_source_distribution_has_all_sources_and_nothing_built(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    twins = {path.relative_to(REPO).as_posix() for path in (REPO / "native").rglob("*.p[yx][xd]")}
    assert twins
    assert {"setup.py", "native/backend.py", "native/build.py", "fastgw/py.typed", f"fastgw/{SMALL}.py", PAGE, *twins} <= names
    assert not [name for name in names if name.endswith((".so", ".c", ".pyc"))]


@pytest.mark.packaging
def test_wheel_that_is_told_not_to_compile(tree: Path) -> None:
    made, said = wheel(tree, FASTGW_BUILD_NATIVE="0")
    assert "pure Python" not in said, "who said it need not be told"
    assert_pure(made)


@pytest.mark.packaging
def test_wheel_without_a_compiler(tree: Path) -> None:
    made, said = wheel(tree, PATH="/nowhere", CC="")
    assert "fastgw: no C compiler here; it will run in pure Python" in said
    assert_pure(made)


@pytest.mark.packaging
def test_wheel_without_cython(tree: Path, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden/Cython"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError('not installed')\n")
    made, said = wheel(tree, PYTHONPATH=str(hidden.parent))
    assert "fastgw: Cython is not installed; it will run in pure Python" in said
    assert_pure(made)


@pytest.mark.packaging
@pytest.mark.both_twins  # there is a compiler
def test_wheel_whose_compiler_fails(tree: Path) -> None:
    keep_one_twin(tree)
    made, said = wheel(tree, CC="false")
    assert "fastgw: an extension cannot be built" in said
    assert_pure(made)


@pytest.mark.packaging
@pytest.mark.both_twins  # there is a compiler
def test_one_twin_that_fails_takes_the_others_with_it(tree: Path) -> None:
    keep_one_twin(tree)
    (tree / "native/accel/hashing.pyx").write_text('cdef extern from *:\n    """\n    #error "not here"\n    """\n    pass\n')
    made, said = wheel(tree)
    assert "fastgw: an extension cannot be built" in said
    assert_pure(made)
    insisted = backend(tree, "build_wheel", tree.parent / "insisted", FASTGW_BUILD_NATIVE="1")
    assert insisted.returncode != 0
    assert "the native twins cannot be built" in insisted.stderr


@pytest.mark.packaging
@pytest.mark.both_twins  # there is a compiler
def test_wheel_with_a_compiler(tree: Path) -> None:
    keep_one_twin(tree)
    made, _ = wheel(tree)
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert made.name.endswith(f"-{platform}.whl")
    names = contents(made)
    assert {f"fastgw/{SMALL}.py", f"fastgw/{SMALL}{SUFFIX}"} <= set(names)
    assert not [name for name in names if name.endswith((".c", ".pyx", ".pxd")) or name.startswith("native")]
    # One of several is none: this wheel's only twin must not run beside the others' sources.
    assert fastgw(install(made), "version").stdout.splitlines()[3] == "native: no"


@pytest.mark.parametrize(
    ("env", "asked"),
    [
        pytest.param({}, True, marks=pytest.mark.both_twins),  # there is a compiler
        ({"FASTGW_BUILD_NATIVE": "0"}, False),
        ({"PATH": "/nowhere", "CC": ""}, False),
    ],
)
def test_cython_is_fetched_only_where_a_compiler_can_use_it(env: dict[str, str], asked: bool) -> None:
    code = "import sys; sys.path.insert(0, 'native'); import backend; print(backend._cython())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, env=environment(**env), capture_output=True, text=True, timeout=60, check=True
    )
    assert ("Cython" in done.stdout) is asked


@pytest.mark.packaging
@pytest.mark.both_twins  # there is a compiler
@pytest.mark.timeout(900)
def test_a_fresh_environment_gets_every_twin(sdist: Path, tmp_path: Path) -> None:
    """As a user does it: pip, the source distribution, build isolation. Needs the network, and minutes."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True, timeout=100)
    python = str(tmp_path / "venv/bin/python")
    command = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", str(sdist)]
    subprocess.run(command, check=True, timeout=800, cwd=tmp_path, env=environment(FASTGW_BUILD_NATIVE="1"))
    told = subprocess.run([python, "-m", "fastgw", "version"], cwd=tmp_path, env=environment(), capture_output=True, check=True)
    assert told.stdout.decode().splitlines()[3] == "native: yes"
