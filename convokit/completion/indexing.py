"""Filling the search index with what is not in it: messages that were written without one."""

from __future__ import annotations

from collections.abc import Callable

from convokit.completion.effects import Flow, write_once
from convokit.completion.reading import check_indexed
from convokit.completion.scope import Scope, ready
from convokit.store import search


def fill(scope: Scope, progress: Callable[[int], object] | None) -> Flow[int]:
    """Index what is missing of the tenant's messages, some at a time, each lot in a transaction; return how many there were.

    What is indexed stays so when it is interrupted: the next call goes on. `progress` is told the number so far.
    """
    check_indexed(scope)
    yield from ready(scope)
    place, count = None, 0
    while True:
        place, found = yield from write_once(search.fill, scope.tenant, place)
        count += found
        if progress is not None:
            progress(count)
        if place is None:
            return count
