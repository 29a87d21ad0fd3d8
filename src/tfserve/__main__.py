"""``python -m tfserve``."""

from tfserve.cli import main

main()
