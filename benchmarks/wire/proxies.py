"""The proxies that are compared. One more is one more class here or in `peers`, and its name in ``peers.ALL``.

Owns: how each is found, configured and started, with what a careful operator would set: keep-alive to the engine, no
buffering of answers, one worker. Must never give one of them an advantage: each gets the same core and the same engine.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.wire import tools
from benchmarks.wire.rows import Row

ROOT = Path(__file__).parents[2]
KEY = "sk-test"
"""The API key that the load generator sends; a proxy that checks keys is told to take it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a proxy is to run: an empty folder of its own, its port, the engine's, one for what else it opens, and how many
    clients it will have at once."""

    folder: Path
    port: int
    engine_port: int
    spare_port: int = 0
    clients: int = 64


@dataclass(frozen=True, slots=True)
class Command:
    """What to start. ``quiet``: output goes to /dev/null, for a proxy that writes a line per request."""

    argv: list[str]
    env: dict[str, str] | None = None
    quiet: bool = False


class Proxy:
    """A peer. ``command`` writes the configuration that it needs into the place's folder and says what to start."""

    name = ""
    start_deadline_s = 20.0
    most_connections: int | None = None
    """For one that is too slow to answer ``--connections`` of them in the time of a phase."""
    least_phase_s = 0.0
    """For one that has hardly answered anything in the time that is enough for the others."""
    extra_events = 0
    """Events that it adds to a stream of the engine's."""
    note = ""
    """What a reader of its figures has to know."""
    asked_for = False
    """Measured only where ``--only`` names it."""

    h2 = False
    """It speaks HTTP/2 to its engine, with prior knowledge; to its clients HTTP/1.1, as all do here."""
    takes_streams = True
    """Whether it is held against thousands of streams."""

    def takes(self, row: Row) -> bool:
        """Whether it is loaded with that row."""
        return True

    def fields(self, engine_port: int) -> tuple[str, ...]:
        """Fields of a request's head that it wants from clients, because it has no other way to be told where the engine is."""
        return ()

    def missing(self) -> str | None:
        """Why it cannot run here, or None."""
        return None

    def version(self) -> str:
        return ""

    def command(self, place: Place) -> Command:
        raise NotImplementedError


def operators_environment() -> dict[str, str]:
    """Nothing of the operator's own settings: the run is the same wherever it is made."""
    return {k: os.environ[k] for k in ("PATH", "HOME", "LANG") if k in os.environ}


def _find(program: str) -> str | None:
    """Servers live in sbin, which is often not on a user's PATH."""
    return shutil.which(program) or shutil.which(program, path="/usr/local/sbin:/usr/sbin:/sbin")


def first_line(argv: list[str], env: dict[str, str] | None = None) -> str:
    try:
        pipe, both = subprocess.PIPE, subprocess.STDOUT
        done = subprocess.run(argv, stdout=pipe, stderr=both, text=True, timeout=20, env=env, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().partition("\n")[0]


class Direct(Proxy):
    """No proxy: the load generator speaks to the engine. What the others add is counted from here."""

    name = "direct"


class Floor(Proxy):
    """What any proxy costs that copies bytes both ways and does nothing else: built here, in C."""

    name = "floor"

    def version(self) -> str:
        return "tools/floor.c"

    def command(self, place: Place) -> Command:
        return Command([str(tools.build("floor")), str(place.port), str(place.engine_port)])


H2_GROUPS = ("plain", "crowd", "unpaced", "paced")
"""What is measured with an engine over HTTP/2."""
_CROWD = 8000
"""More clients than this are one row's (ten thousand streams), for which each proxy's limits are raised."""

# What others have off in this comparison is off here too ...
LIMITS_OFF = ("--rate-limit-per-second", "0", "--cb-failure-threshold", "0")
# ... and everything at once, at figures that are never reached: what is measured is the asking.
LIMITS_ON = (
    *("--rate-limit-per-second", "1000000", "--rate-limit-per-minute", "1000000000", "--tokens-per-minute", "100000000000"),
    *("--daily-token-quota", "1000000000000000", "--on-exhausted", "cut", "--max-concurrent", "100000"),
    *("--key-concurrency", "100000", "--engine-max-concurrent", "100000", "--routes", "m|100000", "--queue-order", "adaptive"),
)


@dataclass
class Fastgw(Proxy):
    """This checkout, or the one in ``root``: keys checked, an access record per request written to standard error.
    ``limits``: every limit, the quota in a store, the breaker. ``h2``: to the engine over HTTP/2."""

    name: str = "fastgw"
    native: bool = True
    limits: bool = False
    h2: bool = False
    arguments: list[str] = field(default_factory=list)
    root: Path = ROOT

    def missing(self) -> str | None:
        if not (self.root / "fastgw" / "__main__.py").exists():
            return "this checkout has no fastgw/__main__.py"
        if self.h2 and "upstream_protocol" not in (self.root / "fastgw" / "config" / "table.py").read_text():
            return "this checkout speaks no HTTP/2 to engines: it has no setting upstream_protocol"
        if not self.native:
            return None
        argv = [*self._program(), "version"]
        asked = subprocess.run(argv, cwd=self.root, env=self._environment(), capture_output=True, timeout=20, check=False)
        return "its native extension is not built, or not whole (python native/build.py)" if asked.returncode else None

    def takes(self, row: Row) -> bool:
        return not self.h2 or row.group in H2_GROUPS

    @property
    def takes_streams(self) -> bool:  # type: ignore[override]
        return not self.h2

    def _program(self) -> list[str]:
        """-P: the folder that this was called in comes not before ``root``, which may be another checkout."""
        return [sys.executable, "-P", "-m", "fastgw"]

    def _environment(self) -> dict[str, str]:
        own = {"PYTHONPATH": str(self.root), "GATEWAY_API_KEYS": KEY, "FASTGW_NATIVE": "1" if self.native else "0"}
        return operators_environment() | own

    def version(self) -> str:
        return first_line([*self._program(), "version"], self._environment())

    def command(self, place: Place) -> Command:
        engine = f"http://127.0.0.1:{place.engine_port}"
        limits = (*LIMITS_ON, "--state-dir", str(place.folder / "state")) if self.limits else LIMITS_OFF
        argv = [*self._program(), "serve", "--engine", engine, "--port", str(place.port)]
        if place.clients > _CROWD:  # more than its defaults let in
            most = str(place.clients)
            argv += ["--max-connections", most, "--engine-max-connections", most]
        argv += ["--upstream-protocol", "h2"] if self.h2 else []
        argv += [*limits, *self.arguments]
        return Command(argv, self._environment(), quiet=True)


@dataclass
class Nginx(Proxy):
    """``body_buffer``: bodies up to this length and a quarter are kept in memory; longer ones, which with nginx's own 16 kB are
    most prompts of agents, are written to a file and read back."""

    name: str = "nginx"
    body_buffer: str = "1m"
    asked_for: bool = False

    def missing(self) -> str | None:
        return None if _find("nginx") else "nginx is not installed"

    def version(self) -> str:
        return first_line([_find("nginx") or "nginx", "-v"]).removeprefix("nginx version: ")

    def command(self, place: Place) -> Command:
        here = place.folder
        # As root, nginx hands its workers to another user, who must reach the temporary paths too.
        here.chmod(0o755)
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"  {kind}_temp_path {here}/{kind};\n" for kind in kinds)
        # Each client's is two: its own, and one to the engine. With fewer than a sixteenth of them free nginx drops connections
        # that have not said anything yet.
        connections = max(8192, 2 * place.clients * 5 // 4)
        descriptors = min(connections + 64, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        config = here / "nginx.conf"
        config.write_text(f"""\
daemon off;
worker_processes 1;
pid {here}/pid;
error_log stderr error;
worker_rlimit_nofile {descriptors};
events {{ worker_connections {connections}; }}
http {{
  access_log off;
  client_max_body_size 16m;
  client_body_buffer_size {self.body_buffer};
  keepalive_requests 100000000;
{temporary}\
  upstream engine {{
    server 127.0.0.1:{place.engine_port};
    keepalive {max(128, place.clients)};
    keepalive_requests 100000000;
  }}
  server {{
    listen 127.0.0.1:{place.port} backlog=4096;
    location / {{
      proxy_pass http://engine;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
""")
        return Command([_find("nginx") or "nginx", "-e", "stderr", "-p", str(here), "-c", str(config)])


@dataclass
class Haproxy(Proxy):
    """``h2``: to the engine over HTTP/2."""

    name: str = "haproxy"
    h2: bool = False

    def takes(self, row: Row) -> bool:
        return not self.h2 or row.group in H2_GROUPS

    @property
    def takes_streams(self) -> bool:  # type: ignore[override]
        return not self.h2

    def missing(self) -> str | None:
        return None if _find("haproxy") else "haproxy is not installed"

    def version(self) -> str:
        words = first_line([_find("haproxy") or "haproxy", "-v"]).split()
        return "haproxy/" + words[2] if len(words) > 2 else ""

    def command(self, place: Place) -> Command:
        config = place.folder / "haproxy.cfg"
        # It does not start with more than its descriptors allow, two for each client.
        most = min(max(8192, place.clients), (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 40) // 2)
        config.write_text(f"""\
global
  nbthread 1
  maxconn {most}
defaults
  mode http
  timeout connect 5s
  timeout client 75s
  timeout server 600s
  http-reuse always
  option http-no-delay
frontend gateway
  bind 127.0.0.1:{place.port} backlog 4096
  default_backend engine
backend engine
  server engine 127.0.0.1:{place.engine_port}{" proto h2" if self.h2 else ""}
""")
        return Command([_find("haproxy") or "haproxy", "-db", "-q", "-f", str(config)])
