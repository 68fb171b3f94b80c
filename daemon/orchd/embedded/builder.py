"""A fluent way to put an orchestrator together."""

from __future__ import annotations

from orchd.embedded.lifecycle import OrchestratorConfig
from orchd.embedded.orchestrator import Hook, Orchestrator
from orchd.interfaces import Executor, SafetyCheck, TaskStore, Verifier


class OrchestratorBuilder:
    """Collects the parts; `build()` makes the orchestrator."""

    def __init__(self) -> None:
        self._task_store: TaskStore | None = None
        self._executor: Executor | None = None
        self._verifier: Verifier | None = None
        self._safety: SafetyCheck | None = None
        self._config: OrchestratorConfig | None = None
        self._hooks: dict[str, list[Hook]] = {}

    def with_task_store(self, store: TaskStore) -> OrchestratorBuilder:
        """Take tasks from this store."""
        self._task_store = store
        return self

    def with_executor(self, executor: Executor) -> OrchestratorBuilder:
        """Execute tasks with this executor."""
        self._executor = executor
        return self

    def with_verifier(self, verifier: Verifier) -> OrchestratorBuilder:
        """Verify results with this verifier."""
        self._verifier = verifier
        return self

    def with_safety(self, safety: SafetyCheck) -> OrchestratorBuilder:
        """Ask this safety check before each task."""
        self._safety = safety
        return self

    def with_config(self, config: OrchestratorConfig) -> OrchestratorBuilder:
        """Use this configuration."""
        self._config = config
        return self

    def on_task_start(self, hook: Hook) -> OrchestratorBuilder:
        """Call `hook` before a task is claimed."""
        return self._on("on_task_start", hook)

    def on_task_complete(self, hook: Hook) -> OrchestratorBuilder:
        """Call `hook` when a task is done."""
        return self._on("on_task_complete", hook)

    def on_task_fail(self, hook: Hook) -> OrchestratorBuilder:
        """Call `hook` when a task has failed for good."""
        return self._on("on_task_fail", hook)

    def on_task_retry(self, hook: Hook) -> OrchestratorBuilder:
        """Call `hook` when a task will be tried again."""
        return self._on("on_task_retry", hook)

    def on_run_start(self, hook: Hook) -> OrchestratorBuilder:
        """Call `hook` when a run begins."""
        return self._on("on_run_start", hook)

    def on_run_end(self, hook: Hook) -> OrchestratorBuilder:
        """Call `hook` when a run ends."""
        return self._on("on_run_end", hook)

    def _on(self, event: str, hook: Hook) -> OrchestratorBuilder:
        self._hooks.setdefault(event, []).append(hook)
        return self

    def build(self) -> Orchestrator:
        """Return the orchestrator.

        Raises:
            ValueError: there is no task store or no executor.
        """
        # A store or executor may define __len__ or __bool__, so only None is missing.
        if self._task_store is None:
            raise ValueError("TaskStore is required")
        if self._executor is None:
            raise ValueError("Executor is required")
        orchestrator = Orchestrator(
            task_store=self._task_store,
            executor=self._executor,
            verifier=self._verifier,
            safety=self._safety,
            config=self._config,
        )
        for event, hooks in self._hooks.items():
            for hook in hooks:
                orchestrator.add_hook(event, hook)
        return orchestrator
