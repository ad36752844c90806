"""Report tokens and cost of API calls."""

from typing import TYPE_CHECKING

from convokit._lazy import import_on_use

if TYPE_CHECKING:
    from convokit.usage import flows as flows
    from convokit.usage import models as models
    from convokit.usage import prices as prices
    from convokit.usage import sql as sql
else:
    __getattr__ = import_on_use(
        __name__,
        "flows",
        "models",
        "prices",
        "sql",
    )
