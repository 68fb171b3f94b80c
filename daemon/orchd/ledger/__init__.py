"""The engine's only way to state: one port, and its adapters."""
