"""The demonstration: a short story on the real engine, told by its own log."""
