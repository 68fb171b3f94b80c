"""Inspect every module of the standard library with orchd, and explain what failed."""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

from orchd import Client
from orchd.client import Unavailable, Unreachable

HERE = Path(__file__).resolve().parent
ORCHD = Path(sys.executable).with_name("orchd")
TASKS_MAX = 600
"""Enough for a convincing job that ends within a minute on two cores."""
SKIPPED = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages"})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", metavar="DIR", type=Path, help="keep the state in DIR")
    keep: Path | None = parser.parse_args().keep
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        return work(keep.resolve())
    with tempfile.TemporaryDirectory(prefix="orchd-stdlib-") as directory:
        return work(Path(directory))


def work(directory: Path) -> int:
    """Write the task file and the configuration, then do what a user would do."""
    tasks = directory / "tasks.jsonl"
    modules = standard_library()
    tasks.write_text("".join(json.dumps(task) + "\n" for task in modules))
    configuration = directory / "orchd.toml"
    text = (HERE / "orchd.toml").read_text()
    text = text.replace("${PYTHON}", sys.executable).replace("${HERE}", str(HERE))
    configuration.write_text(f'database = "sqlite:///{directory}/orchd.db"\n{text}')
    orchd = Orchd(directory, configuration)

    print(f"\n== {len(modules)} modules of the standard library, one task each\n")
    orchd.show("submit", "--file", str(tasks))
    failed = serve(orchd, directory, len(modules))
    if failed:
        return failed
    explain(orchd)
    print("\n== Does the log still add up to the state?\n")
    return orchd.show("replay", "--check")


def standard_library() -> list[dict[str, Any]]:
    """Return one task for each module, the larger ones first."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = [p for p in root.rglob("*.py") if not SKIPPED & set(p.relative_to(root).parts)]
    paths.sort(key=lambda path: (-path.stat().st_size, str(path)))
    return [
        {
            "id": ".".join(path.relative_to(root).with_suffix("").parts),
            "description": str(path),
            "metadata": {"bytes": path.stat().st_size},
        }
        for path in paths[:TASKS_MAX]
    ]


class Orchd:
    """The command line, always on the same state."""

    def __init__(self, directory: Path, configuration: Path) -> None:
        self._base = [str(ORCHD), "--config", str(configuration)]
        self.environment = {**os.environ, "ORCHD_SERVER__LISTEN": "127.0.0.1:0"}

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(
            [*self._base, *arguments], env=self.environment, text=True, **options
        )

    def show(self, *arguments: str) -> int:
        """Run a command and let the user see it and what it says."""
        print("$ orchd", *arguments, flush=True)
        return self.start(*arguments).wait()

    def items(self, *arguments: str) -> list[dict[str, Any]]:
        """Run a command that lists, and return what it lists."""
        process = self.start(*arguments, "-o", "json", stdout=subprocess.PIPE)
        out, _ = process.communicate()
        if process.returncode != 0:
            raise SystemExit(f"orchd {' '.join(arguments)} ended with {process.returncode}")
        items: list[dict[str, Any]] = json.loads(out)["items"]
        return items


def serve(orchd: Orchd, directory: Path, total: int) -> int:
    """Run the daemon until it is idle and show how far it is."""
    print("$ orchd serve --until-idle", flush=True)
    started = time.monotonic()
    daemon = orchd.start("serve", "--until-idle", stdout=subprocess.PIPE)
    assert daemon.stdout is not None
    url = daemon.stdout.readline().removeprefix("listening on").strip()
    if not url:
        return daemon.wait()
    token = (directory / "orchd.db.token").read_text().strip()
    with Client(url, token=token) as client:
        done = 0
        while daemon.poll() is None:
            done = done_of(client, done)
            show_progress(done, total, started)
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(timeout=2)
    show_progress(total, total, started)
    print("\n" + daemon.stdout.read().strip())
    return daemon.returncode


def done_of(client: Client, known: int) -> int:
    """Return how many tasks have ended; what was known while the daemon stops."""
    try:
        queues = client.request("GET", "/v1/queues")["items"]
    except (Unavailable, Unreachable):
        # Between its last task and its end it takes no requests, and then no connections.
        return known
    return sum(
        queue["depth"].get(s, 0) for queue in queues for s in ("completed", "failed")
    )


def show_progress(done: int, total: int, started: float) -> None:
    """Draw a bar on a terminal; elsewhere write a line every so often."""
    seconds = time.monotonic() - started
    if sys.stdout.isatty():
        filled = round(40 * done / total)
        bar = "█" * filled + "░" * (40 - filled)
        print(f"\r{bar} {done}/{total}  {seconds:.0f} s ", end="", flush=True)
    elif done == total or int(seconds) % 5 == 0:
        print(f"{done}/{total} tasks ended after {seconds:.0f} s", flush=True)


def explain(orchd: Orchd) -> None:
    """Show the dead letters, grouped by the verifier's reason."""
    letters = orchd.items("dlq", "list", "--limit", "1000")
    reasons = collections.Counter(reason_of(letter) for letter in letters)
    print(f"\n== {len(letters)} modules were refused; why:\n")
    for reason, count in reasons.most_common():
        print(f"{count:5}  {reason}")
    print("\nThe last of them:\n")
    for letter in letters[:5]:
        line = str(letter.get("feedback") or letter.get("error")).splitlines()[0]
        print(f"  {letter['id']:30.30}  {letter['error_class']:13}  {line:.70}")


def reason_of(letter: dict[str, Any]) -> str:
    """Return a dead letter's reason without what is particular to it."""
    text = str(letter.get("feedback") or letter.get("error") or "")
    if "bare except" in text:
        return "a bare except"
    if " has " in text and " lines" in text:
        return "a function that is too long"
    if "documented" in text:
        return "no docstring"
    return f"{letter['error_class']}: {text.splitlines()[0] if text else ''}"[:70]


if __name__ == "__main__":
    sys.exit(main())
