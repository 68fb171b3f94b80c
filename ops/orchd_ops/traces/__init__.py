"""Traces in OpenTelemetry: off, and not even imported, unless an endpoint is set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from orchd.errors import ConfigurationError

if TYPE_CHECKING:
    from orchd_ops.traces.traces import Traces

__all__ = ["is_wanted", "open_traces"]

ENDPOINT_VARIABLES = (
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
)


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Tell whether the standard variables ask for traces.

    Raises:
        ConfigurationError: they ask for an exporter that orchd does not have.
    """
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower() or "otlp"
    if exporter == "none" or not any(environment.get(v) for v in ENDPOINT_VARIABLES):
        return False
    if exporter != "otlp":
        rule = "has to be otlp or none"
        raise ConfigurationError("OTEL_TRACES_EXPORTER", rule, exporter)
    return True


def open_traces(release: str = "") -> Traces | None:
    """Return an observer that exports traces, or None when no endpoint is set.

    Raises:
        ConfigurationError: traces are wanted but cannot be exported.
    """
    if not is_wanted(os.environ):
        return None
    try:
        from orchd_ops.traces.provider import ChosenIds, open_provider
    except ModuleNotFoundError as missing:
        variable = next(v for v in ENDPOINT_VARIABLES if os.environ.get(v))
        raise ConfigurationError(
            variable,
            f"needs the module {missing.name}: install orchd[otlp], or unset the variable",
        ) from missing
    from orchd_ops.traces.traces import Traces

    ids = ChosenIds()
    return Traces(open_provider(release, ids), ids)
