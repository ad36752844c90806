"""Reading back: whether the history is the one that was written, what was sent, what it cost."""

from typing import TYPE_CHECKING

from convokit.rooms import opened_on_use

if TYPE_CHECKING:
    from convokit.audit import checkpoint as checkpoint
    from convokit.audit import differences as differences
    from convokit.audit import erase as erase
    from convokit.audit import export as export
    from convokit.audit import ledger as ledger
    from convokit.audit import prices as prices
    from convokit.audit import reading as reading
    from convokit.audit import search as search
    from convokit.audit import usage as usage
    from convokit.audit import verify as verify
else:
    __getattr__ = opened_on_use(
        __name__,
        "checkpoint",
        "differences",
        "erase",
        "export",
        "ledger",
        "prices",
        "reading",
        "search",
        "usage",
        "verify",
    )
