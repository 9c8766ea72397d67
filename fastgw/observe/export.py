"""How spans get to a collector: by the OpenTelemetry SDK's exporters, over HTTP or gRPC, which wait for it and try again.

Owns: where they go and how (the settings; certificates alone the exporters read from OpenTelemetry's variables themselves), and
whose they are said to be. The exporters are given what ``otlp`` has written, in the place of spans that their encoder would
have to read: so they are modules of our own, of the SDK's source, and nobody else's are another's than they were. Must never:
read more than it must of what a collector answers, or keep any of it.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.cookiejar import DefaultCookiePolicy
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from threading import Event, Timer
from types import ModuleType
from typing import Any, Final
from urllib.parse import unquote

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.util.re import parse_env_headers

from fastgw.config import Config
from fastgw.config.address import parse_engine_url

GRPC: Final = "grpc"
GRPC_PORT: Final = 4317
_PACKAGE: Final = "opentelemetry.exporter.otlp.proto"
_PATH: Final = "/v1/traces"


class Exporter:
    """Sends to one collector, from one thread."""

    def __init__(self, exporter: Any) -> None:
        self._exporter = exporter
        self.stop: Callable[[], None] = exporter.shutdown  # (from any thread: it may be waiting to try again)

    def send(self, request: bytes) -> bool:
        """Whether the collector has taken it; waits as long as it must."""
        return self._exporter.export([request]) is SpanExportResult.SUCCESS


def exporter_of(config: Config) -> Exporter:
    """Whoever sends as ``config`` says. Raises ImportError where what it takes is not installed, ValueError where one of the
    exporter's own variables cannot be used."""
    # Its complaints would go to stderr, between the lines of the log; who wants them gives its logger a handler.
    logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
    protocol, url = target_of(config)
    given: dict[str, Any] = {
        "endpoint": url,
        "headers": parse_env_headers(config.otlp_headers, liberal=True) or None,
        "timeout": config.otlp_timeout_ms / 1e3,
    }
    compression = config.otlp_compression
    if protocol == GRPC:
        grpc = import_module("grpc")
        if compression == "deflate":
            raise ValueError("otlp_compression must be gzip or none over gRPC")
        given["insecure"] = url.startswith("http:")
        given["compression"] = grpc.Compression.Gzip if compression == "gzip" else grpc.Compression.NoCompression
    else:
        given["compression"] = import_module(f"{_PACKAGE}.http").Compression(compression)
        given["session"] = _session()
    return Exporter(_of_our_own(f"{_PACKAGE}.{protocol.partition('/')[0]}.trace_exporter").OTLPSpanExporter(**given))


def target_of(config: Config) -> tuple[str, str]:
    """The protocol, and the URL that the exporter is given."""
    own = config.otlp_traces_endpoint
    named = own or config.otlp_endpoint
    protocol: str = config.otlp_protocol
    if not protocol:
        protocol = GRPC if named and parse_engine_url(named).port == GRPC_PORT else "http/protobuf"
    if protocol == GRPC:
        return protocol, named or f"http://localhost:{GRPC_PORT}"
    if own:
        return protocol, own
    base = named.rstrip("/") or "http://localhost:4318"
    return protocol, base if base.endswith(_PATH) else base + _PATH


def resource_of(config: Config) -> Resource:
    """Who it is that sends."""
    pairs = [one.partition("=") for one in config.otel_resource_attributes.split(",")]
    about = {name.strip(): unquote(value.strip()) for name, is_one, value in pairs if is_one and name.strip()}
    return Resource.create({**about, SERVICE_NAME: config.otel_service_name or about.get(SERVICE_NAME) or "fastgw"})


def _session() -> Any:
    """What the exporter speaks HTTP by (``requests``): by itself it reads an answer whole, unpacks it and keeps its cookies,
    waits for each byte of a head as long as for all of it, and sends a collector what ``.netrc`` has for its host (in the place
    of ``Authorization`` among ``otlp_headers``)."""
    requests = import_module("requests")

    class Session(requests.Session):  # type: ignore[misc, name-defined]
        def merge_environment_settings(self, url: str, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
            # (By itself REQUESTS_CA_BUNDLE goes before the CA that the exporter was given.)
            return super().merge_environment_settings(url, proxies, stream, self.verify if verify is None else verify, cert)

    session = Session()
    session.stream = True
    session.auth = _no_other_secrets
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    session.hooks["response"].append(_its_status_alone)
    pools = _pools()

    class Adapter(requests.adapters.HTTPAdapter):  # type: ignore[misc, name-defined]
        def init_poolmanager(self, *how: Any, **more: Any) -> None:
            super().init_poolmanager(*how, **more)
            self.poolmanager.pool_classes_by_scheme = pools

        def proxy_manager_for(self, *how: Any, **more: Any) -> Any:
            found = super().proxy_manager_for(*how, **more)
            found.pool_classes_by_scheme = pools
            return found

    for scheme in pools:
        session.mount(f"{scheme}://", Adapter())
    return session


def _no_other_secrets(request: Any) -> Any:
    return request


def _pools() -> dict[str, Any]:
    """Pools of urllib3's, by the scheme, whose connections end where the head of an answer is not there in time."""
    connection, pool = import_module("urllib3.connection"), import_module("urllib3.connectionpool")

    def timely(kind: Any) -> Any:
        class Timely(kind):  # type: ignore[misc]
            def getresponse(self) -> Any:
                late = Event()

                def end() -> None:
                    late.set()
                    sock = self.sock
                    if sock is not None:
                        with suppress(OSError):  # (it has ended by itself)
                            sock.shutdown(socket.SHUT_RDWR)

                timer = Timer(self.timeout, end)
                timer.daemon = True
                timer.start()
                try:
                    return super().getresponse()
                finally:
                    timer.cancel()
                    if late.is_set():  # (what there is of a head by then reads as all of it)
                        raise TimeoutError("the head of the collector's answer has no end")

        return Timely

    def pool_of(kind: Any, made: Any) -> Any:
        return type(kind.__name__, (kind,), {"ConnectionCls": timely(made)})

    return {
        "http": pool_of(pool.HTTPConnectionPool, connection.HTTPConnection),
        "https": pool_of(pool.HTTPSConnectionPool, connection.HTTPSConnection),
    }


def _its_status_alone(response: Any, **_: Any) -> None:
    """Of an answer that has a body nothing more is read, and its connection closed; one that is empty, as those of collectors
    are, keeps it. And who sends elsewhere has taken nothing, which the exporter would count as taken."""
    if response.headers.get("content-length") == "0":
        _ = response.content
    response.close()
    if 300 <= response.status_code < 400:
        raise ValueError(f"the collector answers {response.status_code}, and is not followed elsewhere")


def _of_our_own(name: str) -> ModuleType:
    """The SDK's module ``name`` once more, which takes for spans what is written already."""
    spec = find_spec(name)
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "encode_spans"):
        raise ImportError(f"{name} is of a version that fastgw does not know")
    module.encode_spans = _written  # type: ignore[attr-defined]
    return module


def _written(requests: Sequence[bytes]) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    request.ParseFromString(b"".join(requests))
    return request
