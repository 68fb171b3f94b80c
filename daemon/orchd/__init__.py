"""The orchestrator: it decides what happens to a task, and acts."""
