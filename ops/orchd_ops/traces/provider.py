"""The OpenTelemetry SDK as orchd uses it; the only module that imports the exporter.

The standard `OTEL_*` variables decide: endpoint, headers, compression, timeouts, sampler,
resource, limits of the queue and of spans.
"""

from __future__ import annotations

import logging
import os

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator

logger = logging.getLogger(__name__)


class ChosenIds(IdGenerator):
    """Hands out the ids that were chosen for the next span."""

    def __init__(self) -> None:
        self.trace_id = 0
        self.span_id = 0

    def generate_trace_id(self) -> int:
        """Return the chosen id of the trace."""
        return self.trace_id

    def generate_span_id(self) -> int:
        """Return the chosen id of the span."""
        return self.span_id


def open_provider(release: str, ids: ChosenIds) -> TracerProvider:
    """Return a provider that exports in the background, from a bounded queue."""
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", ""
    )
    if protocol not in ("", "http/protobuf"):
        logger.warning("traces are exported as http/protobuf, not as %s", protocol)
    provider = TracerProvider(
        resource=_resource(release), id_generator=ids, shutdown_on_exit=False
    )
    # A full queue drops its oldest spans; the engine never waits for the exporter.
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _resource(release: str) -> Resource:
    own = {"service.version": release} if release else {}
    resource = Resource.create()
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        own["service.name"] = "orchd"
    return resource.merge(Resource(own))
