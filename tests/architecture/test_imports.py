"""The house rules that a parser can see: which package may import which, and where each library lives."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.architecture.sources import Import, imports, modules

# From the top down. A name may import from lower lines only; names on one line do not import each other.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("selftest",),
    ("checking", "demo", "flags", "serve"),
    ("several",),
    ("reload", "successor"),
    ("app", "behind"),
    ("workers",),
    ("operating", "stored", "upgrade"),
    ("accounts", "assembled", "care", "doors", "draining"),
    ("certified", "engines", "explaining", "housekeeping", "keyring", "runners", "traces", "vitals"),
    ("crossings", "energy", "loading", "tunnels"),
    ("agent", "control", "gpu", "importing", "sim", "bench", "observe", "store", "top"),
    ("policy",),
    ("exchange",),
    ("upstream",),
    ("net",),
    ("protocol",),
    ("tasks",),
    ("limits",),
    ("accel", "stats", "config"),
    ("errors", "counters", "events", "digests", "late"),
    ("early", "twins"),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# From these the package's face hands out what embedding programs need.
FACE = {"app", "config", "twins"}

HOMES = {
    "httptools": {"fastgw.protocol.http1"},
    "h11": {"fastgw.protocol.http1", "fastgw.sim"},
    "h2": {"fastgw.protocol.h2", "fastgw.sim"},
    "hpack": {"fastgw.protocol.h2"},
    "aiohttp": {"fastgw.agent", "fastgw.control", "fastgw.gpu"},
    "prometheus_client": {"fastgw.observe"},
    "opentelemetry": {"fastgw.observe"},
    "pynvml": {"fastgw.gpu"},
    "sqlite3": {"fastgw.store"},
    "dns": {"fastgw.upstream"},
    "redis": {"fastgw.store"},
    "rich": {"fastgw.bench", "fastgw.top"},
    "yaml": {"fastgw.importing"},
    "ssl": {"fastgw.net", "fastgw.sim", "fastgw.bench"},
    "argparse": {
        *("fastgw.agent", "fastgw.cli", "fastgw.flags", "fastgw.gpu", "fastgw.sim", "fastgw.bench", "fastgw.store"),
        *("fastgw.importing", "fastgw.top"),
    },
}

SOCKET_HOMES = ("fastgw.net", "fastgw.sim", "fastgw.bench")
# What of the module `socket` others may call: it makes no socket. Constants and the type's name are free.
SOCKET_FREE = {"inet_pton", "inet_ntop"}

# Machines without I/O: time and chance are arguments.
PURE = ("fastgw.accel", "fastgw.limits", "fastgw.protocol")
IMPURE = {"asyncio", "uvloop", "socket", "ssl", "select", "selectors", "time", "logging", "random", "secrets", "threading"}

ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def _layer(module: str) -> str:
    return module.split(".")[1]


def _modules() -> dict[str, ast.Module]:
    return modules("fastgw")


def _imports() -> Iterator[Import]:
    return imports("fastgw")


def _internal() -> Iterator[Import]:
    return (found for found in _imports() if _within(found.target, "fastgw"))


def test_every_package_has_its_place_in_the_layers() -> None:
    assert {_layer(name) for name in _modules() if name != "fastgw"} <= set(RANK)


def test_imports_go_only_downward() -> None:
    wrong = []
    for importer, target, place in _internal():
        if target == "fastgw":
            continue  # the version
        if importer == "fastgw":
            if _layer(target) not in FACE:
                wrong.append(f"{place}: the package's face imports {target}")
        elif _layer(importer) != _layer(target) and RANK[_layer(importer)] >= RANK[_layer(target)]:
            wrong.append(f"{place}: {importer} imports {target}, which is not below it")
    assert wrong == []


def test_the_package_root_gives_nothing_but_its_version_to_the_inside() -> None:
    wrong = []
    for name, tree in _modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "fastgw" and not node.level:
                names = {alias.name for alias in node.names}
                wrong += [f"{name}:{node.lineno}: {one}" for one in sorted(names - set(RANK) - {"__version__"})]
    assert wrong == []


def test_the_simulator_stands_alone() -> None:
    """It judges the gateway, so it must not share the gateway's way of reading HTTP."""
    shared = [found.place for found in _internal() if _within(found.importer, "fastgw.sim")
              and found.target != "fastgw" and not _within(found.target, "fastgw.sim")]  # fmt: skip
    assert shared == []


@pytest.mark.parametrize("library", sorted(HOMES))
def test_each_library_has_one_home(library: str) -> None:
    homes = HOMES[library]
    strangers = [found.place for found in _imports() if _within(found.target, library)
                 and not any(_within(found.importer, home) for home in homes)]  # fmt: skip
    assert strangers == []


def test_only_net_makes_sockets() -> None:
    makers = []
    for name, tree in _modules().items():
        if any(_within(name, home) for home in SOCKET_HOMES):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "socket":
                makers.append(f"{name}:{node.lineno}: import the module, so that its use can be seen")
            call = node.func if isinstance(node, ast.Call) else None
            if isinstance(call, ast.Attribute) and isinstance(call.value, ast.Name) and call.value.id == "socket":
                makers += [f"{name}:{call.lineno}: socket.{call.attr}"] if call.attr not in SOCKET_FREE else []
    assert makers == []


@pytest.mark.parametrize("package", PURE)
def test_machines_do_no_io_and_read_no_clock(package: str) -> None:
    impure = [f"{found.place}: {found.target}" for found in _imports() if _within(found.importer, package)
              and found.target.split(".")[0] in IMPURE]  # fmt: skip
    assert impure == []


def test_only_the_configuration_reads_the_environment() -> None:
    readers = []
    for name, tree in _modules().items():
        if _within(name, "fastgw.config") or name == "fastgw.twins":  # it is asked before there is a configuration
            continue
        for node in ast.walk(tree):
            by_attribute = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
            by_name = isinstance(node, ast.ImportFrom) and node.module == "os"
            if (by_attribute and node.attr in ENVIRONMENT) or (by_name and ENVIRONMENT & {a.name for a in node.names}):
                readers.append(f"{name}:{node.lineno}")
    assert readers == []


def test_every_file_says_what_it_is() -> None:
    """A head docstring in each file: the house's only formality."""
    assert [name for name, tree in _modules().items() if tree.body and not ast.get_docstring(tree)] == []
