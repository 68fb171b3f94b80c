"""What the daemons' metrics say, against what the log says."""

from __future__ import annotations

import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence

from prometheus_client.parser import text_string_to_metric_families

from chaos.fleet import Daemon, Fleet

OUTCOMES = ("completed", "retried", "failed", "released", "cancelled")
ANSWER_SECONDS = 10


def samples(daemon: Daemon) -> Counter[str]:
    """Return sample name, with the outcome where there is one -> sum, to the next whole."""
    with urllib.request.urlopen(f"{daemon.url}/metrics", timeout=ANSWER_SECONDS) as page:
        text = page.read().decode()
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            outcome = sample.labels.get("outcome", "")
            found[f"{sample.name}/{outcome}" if outcome else sample.name] += round(
                sample.value
            )
    return found


def metric_faults(fleet: Fleet, daemons: Sequence[Daemon]) -> Iterator[str]:
    """What these daemons counted together is what is in the log.

    Only for a storm in which they were all the daemons there ever were: the counters of
    a process end with it.
    """
    counted: Counter[str] = Counter()
    for daemon in daemons:
        counted += samples(daemon)
    events = Counter(event.type for event in fleet.state.events())
    expected = {
        "orchd_tasks_submitted_total": events["task.submitted"],
        "orchd_tasks_started_total": events["task.started"],
        "orchd_late_results_rejected_total": events["task.late_result_rejected"],
    } | {
        f"orchd_tasks_finished_total/{outcome}": events[f"task.{outcome}"]
        for outcome in OUTCOMES
    }
    for name, value in expected.items():
        if counted[name] != value:
            yield f"{name} is {counted[name]} over all daemons, and {value} in the log"
