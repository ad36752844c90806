"""Export and import conversations."""

from typing import TYPE_CHECKING

from convokit._lazy import opened_on_use

if TYPE_CHECKING:
    from convokit.transfer import flows as flows
else:
    __getattr__ = opened_on_use(__name__, "flows")
