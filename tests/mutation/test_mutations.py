"""The catalogue of mutations fits the project, and judging by it tells right from wrong.

`make mutate` applies them all; here it is one that is noticed, and one that is not.
"""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from mutation.judging import notice_of_test
from mutation.mutation import Edit, Mutation, catalogue, chosen
from mutation.running import workers
from support import checkout

MUTATIONS = catalogue()


def _judged(mutation: Mutation) -> tuple[str, bool]:
    with workers(1) as pool:
        notice = pool.apply(notice_of_test, (mutation,))
    return notice.said, notice.is_right


def test_every_mutation_has_a_name_of_its_own() -> None:
    names = [mutation.name for mutation in MUTATIONS]
    assert len(set(names)) == len(names) > 0


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_every_edit_fits_the_source_once(mutation: Mutation) -> None:
    texts: dict[str, str] = {}
    for edit in mutation.edits:
        if edit.file not in texts:
            texts[edit.file] = (checkout.ROOT / edit.file).read_text()
        texts[edit.file] = edit.applied(texts[edit.file])
    assert texts
    assert all(mutation.invariants), mutation.simulation


def test_every_test_that_has_to_fail_is_there() -> None:
    tests = sorted({f"tests/{test}" for each in MUTATIONS for test in each.tests})
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0", *tests],
        cwd=checkout.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert set(tests) <= set(found.stdout.splitlines())


def test_a_mutation_is_noticed_by_its_own_test() -> None:
    [mutation] = chosen(["fence-token"])
    said, is_right = _judged(mutation)
    assert is_right, said
    assert mutation.unit.message in said


def test_a_mutation_that_nobody_notices_survives() -> None:
    edit = Edit(
        file="daemon/orchd/tasks/deciding.py",
        old='raise Refused("not_found", "no such task")',
        new='raise Refused("not_found", "there is no such task")',
    )
    [mutation] = chosen(["fence-token"])
    harmless = msgspec.structs.replace(mutation, edits=[edit])
    assert _judged(harmless) == ("nothing was noticed", False)


def test_a_project_that_is_merely_broken_is_no_notice() -> None:
    edit = Edit(
        file="daemon/orchd/tasks/deciding.py", old="import math\n", new="import maths\n"
    )
    [mutation] = chosen(["fence-token"])
    said, is_right = _judged(msgspec.structs.replace(mutation, edits=[edit]))
    assert not is_right
    assert "No module named 'maths'" in said


def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="there is no mutation nonsense; there are: fence"):
        chosen(["nonsense"])
