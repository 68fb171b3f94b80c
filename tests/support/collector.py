"""An OpenTelemetry collector that keeps the spans it receives over OTLP/HTTP."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

WAIT_SECONDS = 10


class Collector:
    """What was received so far."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resource: dict[str, Any] = {}
        self.endpoint = ""
        self.release = threading.Event()
        """Cleared: requests are accepted, but not answered."""
        self.release.set()
        self.requested = threading.Event()
        self._arrived = threading.Condition()

    def receive(self, body: bytes) -> None:
        """Keep the spans of one export."""
        request = ExportTraceServiceRequest.FromString(body)
        with self._arrived:
            for resource_spans in request.resource_spans:
                self.resource = values_of(resource_spans.resource)
                for scope in resource_spans.scope_spans:
                    self.spans.extend(scope.spans)
            self._arrived.notify_all()

    def named(self, name: str, count: int = 1) -> list[Span]:
        """Wait until `count` spans of that name arrived and return them."""

        def found() -> list[Span]:
            return [span for span in self.spans if span.name == name]

        with self._arrived:
            arrived = self._arrived.wait_for(lambda: len(found()) >= count, WAIT_SECONDS)
        assert arrived, f"{name}: {len(found())} of {count} spans arrived"
        return found()


def values_of(holder: Any) -> dict[str, Any]:
    """Return the attributes of a span or resource as plain values."""
    return {pair.key: _plain(pair.value) for pair in holder.attributes}


def _plain(value: AnyValue) -> Any:
    return getattr(value, value.WhichOneof("value") or "string_value")


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector on a free port."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            collector.requested.set()
            collector.release.wait(WAIT_SECONDS)
            collector.receive(body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: the test reads the spans."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        collector.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
