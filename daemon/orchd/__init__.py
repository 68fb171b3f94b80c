"""The orchestrator: it decides what happens to a task, and acts.

`from orchd import …` is the public API of the library. Each name is imported when it is
first used, so that `import orchd` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchd.client import Client
    from orchd.embedded.builder import OrchestratorBuilder
    from orchd.embedded.claude import ClaudeExecutor, ClaudeVerifier
    from orchd.embedded.components import (
        AlwaysPassVerifier,
        FakeExecutor,
        SimpleCircuitBreaker,
    )
    from orchd.embedded.lifecycle import (
        OrchestratorConfig,
        OrchestratorState,
        OrchestratorStats,
    )
    from orchd.embedded.orchestrator import Orchestrator
    from orchd.embedded.sql_store import SQLTaskStore
    from orchd.embedded.stores import InMemoryTaskStore, JSONTaskStore, PriorityTaskStore
    from orchd.embedded.variants import CheckpointingOrchestrator, ParallelOrchestrator
    from orchd.executors.port import RunContext
    from orchd.interfaces import (
        ExecutionResult,
        Executor,
        FinalFailure,
        Later,
        SafetyCheck,
        Task,
        TaskStatus,
        TaskStore,
        VerificationResult,
        Verifier,
    )

__all__ = [
    "AlwaysPassVerifier",
    "CheckpointingOrchestrator",
    "ClaudeExecutor",
    "ClaudeVerifier",
    "Client",
    "ExecutionResult",
    "Executor",
    "FakeExecutor",
    "FinalFailure",
    "InMemoryTaskStore",
    "JSONTaskStore",
    "Later",
    "Orchestrator",
    "OrchestratorBuilder",
    "OrchestratorConfig",
    "OrchestratorState",
    "OrchestratorStats",
    "ParallelOrchestrator",
    "PriorityTaskStore",
    "RunContext",
    "SQLTaskStore",
    "SafetyCheck",
    "SimpleCircuitBreaker",
    "Task",
    "TaskStatus",
    "TaskStore",
    "VerificationResult",
    "Verifier",
]

_NAMES_OF_MODULES = {
    "orchd.client": ("Client",),
    "orchd.embedded.builder": ("OrchestratorBuilder",),
    "orchd.embedded.claude": ("ClaudeExecutor", "ClaudeVerifier"),
    "orchd.embedded.components": (
        "AlwaysPassVerifier",
        "FakeExecutor",
        "SimpleCircuitBreaker",
    ),
    "orchd.embedded.lifecycle": (
        "OrchestratorConfig",
        "OrchestratorState",
        "OrchestratorStats",
    ),
    "orchd.embedded.orchestrator": ("Orchestrator",),
    "orchd.embedded.sql_store": ("SQLTaskStore",),
    "orchd.embedded.stores": (
        "InMemoryTaskStore",
        "JSONTaskStore",
        "PriorityTaskStore",
    ),
    "orchd.embedded.variants": ("CheckpointingOrchestrator", "ParallelOrchestrator"),
    "orchd.executors.port": ("RunContext",),
    "orchd.interfaces": (
        "ExecutionResult",
        "Executor",
        "FinalFailure",
        "Later",
        "SafetyCheck",
        "Task",
        "TaskStatus",
        "TaskStore",
        "VerificationResult",
        "Verifier",
    ),
}
_MODULES = {name: module for module, names in _NAMES_OF_MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
