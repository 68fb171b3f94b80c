"""The documented diagram is the one that the machine draws."""

from pathlib import Path

from orchd.tasks.diagram import diagram
from orchd.tasks.events import EVENT_TYPES

DOCUMENT = Path(__file__).parents[3] / "docs" / "state_machine.md"


def test_the_documented_diagram_is_the_one_that_the_machine_draws() -> None:
    text = DOCUMENT.read_text()
    shown = text.partition("```mermaid\n")[2].partition("```")[0]
    assert shown == diagram(), "print it with `python -m orchd.tasks.diagram`"


def test_the_diagram_shows_every_event_that_moves_a_task() -> None:
    shown = diagram().replace(",", " ").split()
    missing = {name for name in EVENT_TYPES if name.removeprefix("task.") not in shown}
    assert missing == {"task.late_result_rejected", "task.erased"}


def test_no_arrow_leads_out_of_a_completed_or_cancelled_task() -> None:
    lines = [line.strip() for line in diagram().splitlines()]
    ends = [line for line in lines if line.startswith(("completed -->", "cancelled -->"))]
    assert ends == ["completed --> [*]", "cancelled --> [*]"]
