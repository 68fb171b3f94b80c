"""The daemon's process: puts the parts together, listens, and ends in good order."""
