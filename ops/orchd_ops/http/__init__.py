"""The HTTP API: its doors, its routes, and the server that holds them open."""
