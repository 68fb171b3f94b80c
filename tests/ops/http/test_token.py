"""The token's file."""

import os
import stat
from pathlib import Path

import pytest

from orchd.system import RealSystem
from orchd_ops.http.token import TokenError, ensure_token, read_token


def test_a_missing_token_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "token"
    before = os.umask(0)
    try:
        token = ensure_token(path, RealSystem())
    finally:
        os.umask(before)
    assert len(token) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ensure_token(path, RealSystem()) == token
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_token_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    path.write_text("secret\n")
    path.chmod(mode)
    with pytest.raises(TokenError, match="chmod 600"):
        read_token(path)


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe", b"a\nb", b"x" * 5000])
def test_a_file_without_a_token_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(TokenError, match="holds no token"):
        read_token(path)


def test_a_directory_is_no_token(tmp_path: Path) -> None:
    with pytest.raises(TokenError):
        read_token(tmp_path)
