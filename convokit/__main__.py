"""Run the command line as `python -m convokit`."""

from __future__ import annotations

from convokit.cli import main

main()
