"""How orchd is run and watched: command line, HTTP API, console, metrics."""
