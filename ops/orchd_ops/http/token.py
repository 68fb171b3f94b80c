"""The bearer token's file: made once, readable by its owner only."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from orchd.system import System

TOKEN_BYTES_MAX = 4096
MODE = 0o600


class TokenError(Exception):
    """The token file cannot be used; the text says why and what to do."""


def read_token(path: Path) -> str:
    """Return the token in a file.

    Raises:
        FileNotFoundError: there is no such file.
        TokenError: others may read it, or it holds no token.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(TOKEN_BYTES_MAX + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise TokenError(f"cannot read the token file {path}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise TokenError(f"the token file {path} is no regular file")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise TokenError(
            f"others may read or write the token file {path}; run: chmod 600 {path}"
        )
    return _token(path, content)


def ensure_token(path: Path, system: System) -> str:
    """Return the token in a file, which is made with a new one if it is missing.

    Raises:
        TokenError: as in `read_token`, or the file cannot be made.
    """
    try:
        return read_token(path)
    except FileNotFoundError:
        pass
    token = system.token()
    try:
        _create(path, token, system)
    except FileExistsError:
        # Another daemon was faster.
        return read_token(path)
    except OSError as error:
        raise TokenError(f"cannot make the token file {path}: {error.strerror}") from error
    return token


def _create(path: Path, token: str, system: System) -> None:
    # Written aside and linked into place, so that nobody ever reads half a token.
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{system.token(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    descriptor = os.open(aside, flags, MODE)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(token + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(aside, path)
    finally:
        aside.unlink()


def _token(path: Path, content: bytes) -> str:
    try:
        token = content.decode("ascii").strip()
    except UnicodeDecodeError:
        token = ""
    if not token or len(content) > TOKEN_BYTES_MAX or not token.isprintable():
        raise TokenError(
            f"the token file {path} holds no token; delete it to have a new one made"
        )
    return token
