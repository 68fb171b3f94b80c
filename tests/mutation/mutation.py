"""What a mutation is: one safety mechanism, how it is disabled, and what must notice."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec

from simulation.violations import Invariant

CATALOGUE = Path(__file__).with_name("catalogue.toml")


class Edit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An exact replacement of text. Where the old text begins is found only once."""

    file: str
    """Relative to the root of the project."""
    old: str
    new: str

    def applied(self, text: str) -> str:
        """Return the file's text with the replacement made.

        Raises:
            ValueError: the old text is not there exactly once, or nothing would change.
        """
        found = text.count(self.old)
        if found != 1:
            raise ValueError(f"{self.file} holds {found} times, not once:\n{self.old}")
        if self.old == self.new:
            raise ValueError(f"{self.file} would not change:\n{self.old}")
        return text.replace(self.old, self.new)


class Watcher(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A test that has to fail, and what its failure has to say."""

    test: str
    """As pytest names it, relative to `tests`."""
    message: str
    """A part of the failure's message, so that no other failure passes for this one."""


class Mutation(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"edits": "edit"}
):
    """A mechanism that is disabled, and the two that must notice: a test of its own, and a
    whole system at work. That is the simulation, or a scenario of `tests/chaos` where the
    simulation has nothing like it; what neither can meet names another test, and why."""

    name: str
    mechanism: str
    why: str
    """What goes wrong without it, or why it is noticed where it is."""
    edits: list[Edit]
    unit: Watcher
    simulation: list[str] = []
    """Names of invariants, one of which the simulation has to see broken."""
    seeds: list[int] = []
    """Seeds that are tried before the first ones, where those may not meet the mechanism.
    What a seed does moves with every change of the engine, so there are several."""
    scenario: Watcher | None = None
    environment: dict[str, str] = {}
    """Sizes of the scenario, see `chaos.sizes`."""

    def __post_init__(self) -> None:
        """Refuse a mutation that only one of the two would have to notice."""
        if bool(self.simulation) == (self.scenario is not None):
            raise ValueError(f"{self.name}: either the simulation or a scenario sees it")

    @property
    def invariants(self) -> list[Invariant]:
        """What the simulation has to see broken, one of these."""
        return [Invariant[name] for name in self.simulation]

    @property
    def tests(self) -> list[str]:
        """The tests that this mutation names."""
        return [each.test for each in (self.unit, self.scenario) if each is not None]


class _Catalogue(msgspec.Struct, rename={"mutations": "mutation"}):
    mutations: list[Mutation]


def catalogue() -> list[Mutation]:
    """Return all mutations."""
    found = tomllib.loads(CATALOGUE.read_text())
    return msgspec.convert(found, type=_Catalogue).mutations


def chosen(names: list[str]) -> list[Mutation]:
    """Return the mutations with these names; all of them when none are given.

    Raises:
        ValueError: there is no mutation of a name.
    """
    known = {mutation.name: mutation for mutation in catalogue()}
    unknown = [name for name in names if name not in known]
    if unknown:
        listed = ", ".join(known)
        raise ValueError(f"there is no mutation {', '.join(unknown)}; there are: {listed}")
    return [known[name] for name in names] if names else list(known.values())
