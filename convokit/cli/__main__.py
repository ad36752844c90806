"""`python -m convokit.cli`: the same as the console script."""

from __future__ import annotations

from convokit.cli import main

main()
