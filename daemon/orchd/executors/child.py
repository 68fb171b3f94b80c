"""A child process that runs a user's Python code, one task at a time.

Started as `python -m orchd.executors.child JOB`. It answers over the socket that is its
stdin and ends when that is closed. What the code prints goes to stderr.
"""

from __future__ import annotations

import asyncio
import inspect
import os
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

HEARTBEAT_SECONDS = 0.1
"""Heartbeats closer together than this are not worth a message."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What a child is for."""

    target: str
    method: str
    """`execute` or `verify`."""
    arguments: dict[str, Any]
    output_bytes_max: int


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


def _channel() -> socket.socket:
    # The code itself gets an empty stdin.
    channel = socket.socket(fileno=os.dup(0))
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    return channel


def main() -> None:
    """Run as a child of the daemon."""
    job = msgspec.json.decode(sys.argv[1], type=Job)
    # The argument is ours; user code that reads sys.argv must not stumble over it.
    sys.argv[1:] = []
    with _channel() as channel:
        try:
            Worker(channel, job).work()
        except (EOFError, ConnectionError):
            return


if __name__ == "__main__":
    main()
