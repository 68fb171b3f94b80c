"""The engine: claims tasks, runs and verifies them, and records what came of it."""
