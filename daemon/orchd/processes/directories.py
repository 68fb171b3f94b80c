"""Private directories of runs. Disks may be slow: none of it is done in the event loop."""

from __future__ import annotations

import asyncio
import itertools
import os
import stat
import tempfile
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import msgspec

from orchd.processes import marks
from orchd.processes.waiting import see_through

_makers = ThreadPoolExecutor(2, thread_name_prefix="orchd-directory")
"""Threads of their own: removing what a program left behind may take others a while."""


class PrivateDirectory(msgspec.Struct, frozen=True, kw_only=True):
    """A directory that only this user can enter (mode 0700), with what a run needs."""

    path: Path
    work: Path
    """An empty directory for the program to run in."""
    files: Mapping[str, str]
    """The paths of the files by their names."""

    async def remove(self) -> None:
        """Remove it with everything in it, also when the caller is cancelled meanwhile."""
        await asyncio.shield(asyncio.to_thread(remove_directory, self.path))


async def make_private_directory(mark: str, texts: Mapping[str, str]) -> PrivateDirectory:
    """Return a new directory for a run, with files of these texts.

    Raises:
        OSError: there is no room for it.
    """
    loop = asyncio.get_running_loop()
    making = loop.run_in_executor(_makers, _make, mark, texts)
    made, interruption = await see_through(making)
    if interruption is None:
        return made.result()
    if made.exception() is None:
        await made.result().remove()
    raise interruption


def _make(mark: str, texts: Mapping[str, str]) -> PrivateDirectory:
    path = make_directory(mark)
    try:
        work = path / "work"
        work.mkdir()
        files = {name: str(path / name.lower()) for name in texts}
        for name, text in texts.items():
            Path(files[name]).write_bytes(text.encode("utf-8", "replace"))
    except BaseException:
        remove_directory(path)
        raise
    return PrivateDirectory(path=path, work=work, files=files)


def make_directory(mark: str) -> Path:
    """Return a new directory for a run that only this user can enter (mode 0700)."""
    return Path(tempfile.mkdtemp(prefix=marks.directory_prefix(mark)))


def remove_directory(path: Path) -> None:
    """Remove a run's directory with everything in it; what cannot be removed is left.

    Links are not followed, and what is no directory of this user's is not touched.
    """
    with suppress(OSError):
        own = path.lstat()
        if not stat.S_ISDIR(own.st_mode) or own.st_uid != os.geteuid():
            return
        # A program may take permissions from its own directories.
        path.chmod(0o700)
        aside = Path(tempfile.mkdtemp(dir=path))
        _empty(path, aside)
        aside.rmdir()
        path.rmdir()


def _empty(path: Path, aside: Path) -> None:
    # Directories are moved aside before they are emptied, so that no depth of nesting
    # takes frames, descriptors or path names without end.
    waiting = deque((path,))
    numbers = itertools.count()
    while waiting:
        directory = waiting.popleft()
        for entry in os.scandir(directory):
            with suppress(OSError):
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                elif entry.path != str(aside):
                    os.chmod(entry.path, 0o700)
                    waiting.append(aside / str(next(numbers)))
                    os.rename(entry.path, waiting[-1])
        if directory != path:
            with suppress(OSError):
                directory.rmdir()
