"""Where things are in the checkout."""

from __future__ import annotations

from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
PEERS = BENCH / "peers"
ENVIRONMENTS = BENCH / ".environments"
"""What the set-up of the peers installs; not kept in version control."""
RESULTS = BENCH / "results"
