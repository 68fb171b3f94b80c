"""The commented file that `orchd config init` writes."""

from __future__ import annotations

TEMPLATE = """\
# Configuration of orchd. Every key is shown with its default; remove the "#" to change it.
# A command's option beats a variable (ORCHD_SECTION__KEY), which beats this file.
# Durations are 250ms, 30s, 5m, 2h, 3d, or ISO 8601. `orchd config show` tells what holds.

# Where the state is: a SQLite file, or PostgreSQL for many daemons on one state.
# Default: $STATE_DIRECTORY/orchd.db, else $XDG_STATE_HOME/orchd/orchd.db.
# database = "sqlite:////var/lib/orchd/orchd.db"
# database = "postgresql://orchd@db.internal/orchd"

[server]
# Port 0 picks a free one. Anything but loopback needs a token_file of your own.
# listen = "127.0.0.1:8470"
# The default is made at the first start, beside the state.
# token_file = "/etc/orchd/token"
# Host names, besides loopback and the listening address, that clients may ask for.
# allowed_hosts = []

[worker]
# How many tasks this daemon runs at once, and from which queues.
# concurrency = 16
# queues = ["*"]
# How long running tasks may go on after SIGTERM; then SIGTERM, kill_grace, SIGKILL.
# drain_timeout = "30s"
# kill_grace = "2s"
# After this long without a sign of life another daemon takes over this one's tasks.
# lease = "10s"
# What is kept of a result.
# max_output = "32MiB"

[tasks]
# Used by submissions that do not name an executor or verifiers of their own.
# executor = "count"
# verifiers = []

# Most tasks of a queue in progress at once, over all daemons; 0 stands for no limit.
# [queues.default]
# concurrency = 0

# A command gets the task's description on stdin; its stdout is the result. Exit code 0
# is success, 75 means "later", anything else is a failure.
# [executors.count]
# type = "command"
# argv = ["wc", "-w"]
# timeout = "5m"
# retry = { max_attempts = 5 }

# A class or function, sync or async; sync code runs in a process of its own.
# [executors.mine]
# type = "python"
# target = "mypkg.mymod:MyExecutor"
# isolation = "process"

# [executors.claude]
# type = "claude"
# model = "…"

# Exit code 0 means passed, 1 refused (stdout is the feedback), anything else: broken.
# [verifiers.tests]
# type = "command"
# argv = ["./check.sh"]

[retry]
# max_attempts = 3
# max_crashes = 3
# max_deferrals = 100
# max_verify_errors = 10
# backoff = { initial = "1s", factor = 2.0, max = "5m", jitter = true }

[breaker]
# After so many failures in a row of what an executor depends on, it pauses this long.
# failures = 5
# cooldown = "60s"
"""
