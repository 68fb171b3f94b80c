"""The life of a task as a pure state machine: no I/O, no clock, no randomness."""
