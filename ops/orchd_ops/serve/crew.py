"""The executors and verifiers of a daemon, and their exchange when it reloads."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TypeVar

from orchd.config import places
from orchd.config.settings import ExecutorSettings, Settings, VerifierSettings
from orchd.executors.factory import build_executor
from orchd.executors.port import ExecutorPort
from orchd.system import System
from orchd.verifiers.factory import build_verifier
from orchd.verifiers.port import VerifierPort

logger = logging.getLogger(__name__)

Member = TypeVar("Member", bound=ExecutorPort | VerifierPort)


class Crew:
    """What this daemon executes and verifies with.

    Raises:
        ConfigurationError: one of them cannot be built.
    """

    def __init__(self, settings: Settings, system: System, old: Crew | None = None) -> None:
        self.settings = settings
        self._system = system
        self._mark: str = (
            f"{places.state_hash(settings.database)}/{system.new_id()}"
            if old is None
            else old._mark
        )
        unchanged = old is not None and old.settings.worker == settings.worker
        known = old if unchanged else None
        self.executors = {
            name: self._executor(one, known) for name, one in settings.executors.items()
        }
        self.verifiers = {
            name: self._verifier(one, known) for name, one in settings.verifiers.items()
        }

    def _executor(self, wanted: ExecutorSettings, old: Crew | None) -> ExecutorPort:
        if old is not None and old.settings.executors.get(wanted.name) == wanted:
            return old.executors[wanted.name]
        return build_executor(wanted, self.settings.worker, self._system, self._mark)

    def _verifier(self, wanted: VerifierSettings, old: Crew | None) -> VerifierPort:
        if old is not None and old.settings.verifiers.get(wanted.name) == wanted:
            return old.verifiers[wanted.name]
        return build_verifier(wanted, self.settings.worker, self._system, self._mark)

    def replaced_by(self, new: Crew) -> list[ExecutorPort | VerifierPort]:
        """Return the members that `new` does without."""
        return [
            *_missing(self.executors, new.executors),
            *_missing(self.verifiers, new.verifiers),
        ]


def _missing(old: Mapping[str, Member], new: Mapping[str, Member]) -> list[Member]:
    return [member for name, member in old.items() if new.get(name) is not member]
