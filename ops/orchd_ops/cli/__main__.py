"""`python -m orchd_ops.cli` is `orchd`."""

from orchd_ops.cli import main

main()
