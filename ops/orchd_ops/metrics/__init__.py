"""Figures for Prometheus: what this process did, and how the database stands."""

from orchd_ops.metrics.metrics import Metrics

__all__ = ["Metrics"]
