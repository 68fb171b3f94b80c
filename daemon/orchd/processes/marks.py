"""Marks that tell which run, and which daemon, a process belongs to.

A mark is `<state>/<worker>/<task>/<run>[/<part>]@<owner>`. The owner is the daemon's
process, named so that no other one can be mistaken for it.
"""

from __future__ import annotations

import functools
import hashlib
import os
from urllib.parse import quote

from orchd.processes.table import MARK_VARIABLE
from orchd.system import own_pid, process_start

_DIRECTORY_DIGEST_LENGTH = 12
_FORK_SERVER = "fork-server"


def run_mark(prefix: str, *parts: object) -> str:
    """Return the mark of a run.

    Args:
        prefix: `<state>/<worker>` of the daemon.
        parts: the task's id, the run's number and what else tells it apart.
    """
    tail = "/".join(quote(str(part), safe="") for part in parts)
    return f"{prefix.replace(' ', '_')}/{tail}@{_owner(own_pid())}"


def fork_server_mark(mark: str) -> str:
    """Return the mark of the fork server, and its supervisors, that a run needs."""
    return f"{mark.partition('/')[0]}/{_FORK_SERVER}@{mark.rpartition('@')[2]}"


def is_fork_server(mark: str) -> bool:
    """Tell whether a mark is that of a fork server or of a supervisor."""
    return mark.rpartition("@")[0].partition("/")[2] == _FORK_SERVER


def inherited_mark(mark: str) -> str:
    """Return the variable's value for a child: the marks of this process, then `mark`."""
    outer = os.environ.get(MARK_VARIABLE)
    return f"{outer} {mark}" if outer else mark


def directory_prefix(mark: str) -> str:
    """Return how the names of a run's private directories begin."""
    state = mark.partition("/")[0]
    return f"{state_directory_prefix(state)}{mark.rpartition('@')[2]}-"


@functools.lru_cache(maxsize=4)
def state_directory_prefix(state: str) -> str:
    """Return how the names of all private directories of a state begin."""
    digest = hashlib.sha256(state.encode(errors="replace")).hexdigest()
    return f"orchd-{digest[:_DIRECTORY_DIGEST_LENGTH]}-"


def belongs_to_dead_daemon(mark: str, state: str) -> bool:
    """Tell whether a mark is of this state and its daemon is gone."""
    path, _, owner = mark.rpartition("@")
    return path.partition("/")[0] == state and is_dead(owner)


def is_dead(owner: str) -> bool:
    """Tell whether an owner is known to be gone; False when it cannot be known here."""
    namespace, _, process = owner.partition(".")
    pid, _, start = process.partition(".")
    if namespace != _namespace() or not (pid.isdigit() and start.isdigit()):
        return False
    return process_start(int(pid)) != int(start)


@functools.lru_cache(maxsize=4)
def _owner(pid: int) -> str:
    return f"{_namespace()}.{pid}.{process_start(pid) or 0}"


def _namespace() -> str:
    # A daemon in a container has pids of its own; the number of its name space keeps
    # them apart from ours.
    try:
        return str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        return "0"
