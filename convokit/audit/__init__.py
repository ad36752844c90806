"""Verify histories, sign checkpoints, replay requests and compare them."""

from typing import TYPE_CHECKING

from convokit._lazy import import_on_use

if TYPE_CHECKING:
    from convokit.audit import branch_heads as branch_heads
    from convokit.audit import checkpoint as checkpoint
    from convokit.audit import consistency as consistency
    from convokit.audit import diff as diff
    from convokit.audit import flows as flows
    from convokit.audit import references as references
    from convokit.audit import removal_checks as removal_checks
    from convokit.audit import replay as replay
    from convokit.audit import sql as sql
    from convokit.audit import verify as verify
    from convokit.audit import window_parts as window_parts
else:
    __getattr__ = import_on_use(
        __name__,
        "branch_heads",
        "checkpoint",
        "consistency",
        "diff",
        "flows",
        "window_parts",
        "references",
        "removal_checks",
        "replay",
        "sql",
        "verify",
    )
