"""A child process that runs a user's Python code, one task at a time.

Started as `python -m orchd.executors.child DESCRIPTOR JOB`. It answers over the socket
`DESCRIPTOR` and ends when that is closed. What the code prints goes to stderr.
"""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import os
import signal
import socket
import sys
import threading
from typing import Any

import msgspec

from orchd.executors.invocation import (
    CannotLoad,
    Invocation,
    awaited,
    execution_answer,
    execution_error,
    load,
    task_of,
)
from orchd.executors.port import RunContext, Success
from orchd.executors.wire import Answer, answer_message, context_of
from orchd.processes.frames import pack, receive_frame
from orchd.system import RealSystem
from orchd.verifiers.verdicts import result_of, verification_answer, verification_error

_PR_SET_PDEATHSIG = 1
HEARTBEAT_SECONDS = 0.1
"""Heartbeats closer together than this are not worth a message."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What a child is for."""

    target: str
    method: str
    """`execute` or `verify`."""
    arguments: dict[str, Any]
    output_bytes_max: int
    parent: int
    """The daemon's process id."""


class Worker:
    """Answers the daemon's requests until it closes the channel."""

    def __init__(self, channel: socket.socket, job: Job) -> None:
        self._channel = channel
        self._job = job
        self._sending = threading.Lock()
        self._system = RealSystem()
        self._last_heartbeat = 0.0

    def work(self) -> None:
        """Load the target, then answer one request after the other."""
        try:
            invocation = load(self._job.target, self._job.method, self._job.arguments)
        except CannotLoad as error:
            self._send({"cannot_load": str(error)})
            return
        self._send({"ready": True, "asynchronous": invocation.asynchronous})
        while True:
            request = receive_frame(self._channel)
            answer = self._answer(invocation, request)
            self._send({"answer": answer_message(answer, self._job.output_bytes_max)})

    def _answer(self, invocation: Invocation, request: dict[str, Any]) -> Answer:
        context = context_of(request["context"], self._heartbeat)
        if self._job.method == "execute":
            return self._execute(invocation, context)
        success = msgspec.convert(request["result"], type=Success)
        return self._verify(invocation, context, success)

    def _execute(self, invocation: Invocation, context: RunContext) -> Answer:
        try:
            value = _returned(invocation, context, task_of(context))
            return execution_answer(value)
        except BaseException as error:
            return execution_error(error, self._system.now())

    def _verify(
        self, invocation: Invocation, context: RunContext, success: Success
    ) -> Answer:
        try:
            value = _returned(invocation, context, task_of(context), result_of(success))
            return verification_answer(value)
        except BaseException as error:
            return verification_error(error, self._system.now())

    def _heartbeat(self) -> None:
        now = self._system.monotonic()
        if now - self._last_heartbeat >= HEARTBEAT_SECONDS:
            self._last_heartbeat = now
            self._send({"heartbeat": True})

    def _send(self, message: dict[str, Any]) -> None:
        with self._sending:
            self._channel.sendall(pack(message))


def _returned(invocation: Invocation, context: RunContext, *arguments: object) -> object:
    value = invocation.call(context, *arguments)
    if inspect.isawaitable(value):
        return asyncio.run(awaited(value))
    return value


def _die_with_the_daemon(parent: int) -> None:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        # It died before the line above.
        sys.exit(1)


def main() -> None:
    """Run as a child of the daemon."""
    descriptor = int(sys.argv[1])
    job = msgspec.json.decode(sys.argv[2], type=Job)
    _die_with_the_daemon(job.parent)
    # The arguments are ours; user code that reads sys.argv must not stumble over them.
    sys.argv[1:] = []
    os.dup2(2, 1)
    with socket.socket(fileno=descriptor) as channel:
        channel.set_inheritable(False)
        try:
            Worker(channel, job).work()
        except (EOFError, ConnectionError):
            return


if __name__ == "__main__":
    main()
