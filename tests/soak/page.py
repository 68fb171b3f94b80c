"""The page with a daemon's metrics."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from orchd.client import SocketTransport

ANSWER_SECONDS = 30.0


class Page:
    """Reads the metrics over one connection; not for several threads.

    asyncio leaves every closed connection to the garbage collector, which takes its time: a
    connection for each look would be seen as memory that grows.
    """

    def __init__(self, url: str) -> None:
        self._transport = SocketTransport(url)

    def read(self) -> dict[str, float]:
        """Return what the metrics say: name -> sum over its series."""
        answer = self._transport.request("GET", "/metrics", timeout_seconds=ANSWER_SECONDS)
        assert answer.status == 200, answer
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(answer.body.decode()):
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
        return found

    def finished(self) -> int:
        """Return how many runs have ended."""
        return finished(self.read())

    def close(self) -> None:
        """Hang up."""
        self._transport.close()


def finished(found: dict[str, float]) -> int:
    """Return how many runs have ended, from what `Page.read` found."""
    # The first one makes the series.
    return round(found.get("orchd_tasks_finished_total", 0.0))
