"""The library: an `Orchestrator` over any `TaskStore`, on the daemon's own engine."""
