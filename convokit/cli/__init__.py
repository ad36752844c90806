"""Run the command line. `main` is the console script.

The package imports nothing at the top: `import convokit` must not load typer and rich.
"""

from __future__ import annotations

import sys

_EXTRA = ("typer", "rich")


def main() -> None:
    """Run the command line and exit; without the `cli` extra, print what to install."""
    try:
        from convokit.cli.app import run  # noqa: PLC0415  # typer and rich are an optional extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        print('convokit: the command line needs its extra: pip install "convokit-sql[cli]"', file=sys.stderr)
        raise SystemExit(1) from None
    run()
