"""Verify histories, sign checkpoints, replay requests and compare them."""

from typing import TYPE_CHECKING

from convokit._lazy import import_on_use

if TYPE_CHECKING:
    from convokit.audit import branch_heads as branch_heads
    from convokit.audit import checkpoint as checkpoint
    from convokit.audit import consistency as consistency
    from convokit.audit import diff as diff
    from convokit.audit import flows as flows
    from convokit.audit import past_window as past_window
    from convokit.audit import references as references
    from convokit.audit import removal_checks as removal_checks
    from convokit.audit import replay as replay
    from convokit.audit import sql as sql
    from convokit.audit import verify as verify
else:
    __getattr__ = import_on_use(
        __name__,
        "branch_heads",
        "checkpoint",
        "consistency",
        "diff",
        "flows",
        "past_window",
        "references",
        "removal_checks",
        "replay",
        "sql",
        "verify",
    )
