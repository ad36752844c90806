"""Search the text of messages."""

from typing import TYPE_CHECKING

from convokit._lazy import import_on_use

if TYPE_CHECKING:
    from convokit.search import flows as flows
    from convokit.search import query as query
else:
    __getattr__ = import_on_use(
        __name__,
        "flows",
        "query",
    )
