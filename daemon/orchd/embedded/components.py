"""Ready-made parts that need no key: for trying out, for tests, against runaways."""

from __future__ import annotations

from orchd.interfaces import (
    ExecutionResult,
    Executor,
    SafetyCheck,
    Task,
    VerificationResult,
    Verifier,
)


class FakeExecutor(Executor):
    """Pretends to execute; `call_count` tells how often."""

    def __init__(self, success: bool = True, output: str = "Fake result") -> None:
        self.success = success
        self.output = output
        self.call_count = 0

    def execute(self, task: Task) -> ExecutionResult:
        """Return the configured answer, with the task's description in the output."""
        self.call_count += 1
        return ExecutionResult(
            success=self.success,
            output=f"{self.output} for: {task.description}",
            confidence=0.9 if self.success else 0.0,
            error=None if self.success else "Fake failure",
        )


class AlwaysPassVerifier(Verifier):
    """Passes every result."""

    def verify(self, task: Task, result: ExecutionResult) -> VerificationResult:
        """Pass."""
        return VerificationResult(passed=True, confidence=1.0, feedback="Auto-passed")


class SimpleCircuitBreaker(SafetyCheck):
    """Ends a run after so many attempts, or so many failures in a row.

    It keeps its counts over several runs; make a new one to begin at zero.
    """

    def __init__(
        self, max_iterations: int = 100, max_consecutive_failures: int = 5
    ) -> None:
        self.max_iterations = max_iterations
        self.max_consecutive_failures = max_consecutive_failures
        self.iterations = 0
        self.consecutive_failures = 0
        self.stop_reason: str | None = None

    def allow_continue(self) -> bool:
        """Tell whether both counts are below their limits."""
        if self.iterations >= self.max_iterations:
            self.stop_reason = f"Max iterations ({self.max_iterations}) reached"
            return False
        if self.consecutive_failures >= self.max_consecutive_failures:
            self.stop_reason = (
                f"Too many consecutive failures ({self.consecutive_failures})"
            )
            return False
        return True

    def record_success(self) -> None:
        """Count an attempt; the row of failures ends."""
        self.iterations += 1
        self.consecutive_failures = 0

    def record_failure(self, error: str) -> None:
        """Count an attempt and one more failure in a row."""
        self.iterations += 1
        self.consecutive_failures += 1

    def get_stop_reason(self) -> str | None:
        """Return why `allow_continue` said no, or None."""
        return self.stop_reason
