"""The command line. `main` is the console script; without the `cli` extra it says in one line what to install.

Nothing is imported here: the library never pays for its command line.
"""

from __future__ import annotations

import sys

_EXTRA = ("typer", "rich")


def main() -> None:
    """Run the command line and exit."""
    try:
        from convokit.cli.app import run  # noqa: PLC0415  # an extra: the library works without it
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        print('convokit: the command line needs its extra: pip install "convokit-sql[cli]"', file=sys.stderr)
        raise SystemExit(1) from None
    run()
