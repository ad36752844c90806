"""The completion service: a turn, from the question to the saved reply, as one generator of effects."""

from typing import TYPE_CHECKING

from convokit.rooms import opened_on_use

if TYPE_CHECKING:
    from convokit.completion import branching as branching
    from convokit.completion import indexing as indexing
    from convokit.completion import pinning as pinning
    from convokit.completion import proving as proving
    from convokit.completion import removing as removing
    from convokit.completion import transfer as transfer
else:
    __getattr__ = opened_on_use(
        __name__,
        "branching",
        "indexing",
        "pinning",
        "proving",
        "removing",
        "transfer",
    )
