"""Append, branches, pins, copies, and pages of messages and turns."""

from typing import TYPE_CHECKING

from convokit._lazy import import_on_use

if TYPE_CHECKING:
    from convokit.history import append as append
    from convokit.history import branches as branches
    from convokit.history import conversation_flows as conversation_flows
    from convokit.history import copies as copies
    from convokit.history import history_pages as history_pages
    from convokit.history import message_pages as message_pages
    from convokit.history import pages as pages
    from convokit.history import pins as pins
    from convokit.history import records as records
else:
    __getattr__ = import_on_use(
        __name__,
        "append",
        "branches",
        "conversation_flows",
        "copies",
        "history_pages",
        "message_pages",
        "pages",
        "pins",
        "records",
    )
