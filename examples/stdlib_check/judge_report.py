"""The verifier: refuse a report that names problems, and say which.

The report arrives on standard input. Exit code 0 passes it, 1 refuses it with the feedback
on standard output; anything else would mean that the verifier itself is broken.
"""

from __future__ import annotations

import json
import sys


def main() -> int:
    report = json.load(sys.stdin)
    problems = report["problems"]
    if not problems:
        return 0
    print(f"{report['module']}: {len(problems)} problems, first {problems[0]}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
