"""Whether the executors and verifiers of the configuration can be built and started."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

from orchd.config.settings import ExecutorSettings, VerifierSettings
from orchd.errors import ConfigurationError
from orchd.executors.requirements import check_command, check_python
from orchd.maintenance.findings import Examination, Finding, counted, fail, ok, warn


def programs(examination: Examination) -> Iterator[Finding]:
    """Look at what each executor and verifier starts, without starting it."""
    settings = examination.settings
    known: dict[str, ExecutorSettings | VerifierSettings] = {
        **{f"executors.{name}": one for name, one in settings.executors.items()},
        **{f"verifiers.{name}": one for name, one in settings.verifiers.items()},
    }
    found = [finding for key, one in known.items() for finding in _problems(key, one)]
    yield from found
    if not found:
        number = counted(len(known), "executor or verifier", "executors and verifiers")
        yield ok("programs", f"{number}: each command's program is there")


def _problems(key: str, one: ExecutorSettings | VerifierSettings) -> Iterator[Finding]:
    try:
        if one.type == "command":
            check_command(key, one)
        elif one.type == "python":
            check_python(key, one)
    except ConfigurationError as error:
        yield fail("programs", str(error), "mend the configuration")
        return
    if one.type == "command" and not _is_there(one.argv[0], one.cwd):
        hint = "install it, or name it by its whole path; the daemon's own $PATH counts"
        yield warn("programs", f"{key}: there is no program {one.argv[0]}", hint)


def _is_there(program: str, cwd: str | None) -> bool:
    # A path with a slash is relative to the directory that the command runs in.
    place = os.path.join(cwd or "", program) if "/" in program else program
    return shutil.which(place) is not None
