"""`python -m ul2tune` is the `ul2tune` command."""

import sys

from ul2tune.cli.main import script

if __name__ == "__main__":
    sys.exit(script())
