"""Rooms that are loaded when they are first asked for. A floor whose rooms no plain turn needs opens them this way.

Whoever uses such a floor imports the floor, and names the room at the place of use: `audit.verify.verify`. What loading it
takes is then paid by the first call that needs it, and by nobody else. The floor names its rooms to type checkers as well.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType


def opened_on_use(floor: str, *rooms: str) -> Callable[[str], ModuleType]:
    """Return the `__getattr__` of the package `floor` (PEP 562): it loads the room that is asked for."""

    def __getattr__(name: str) -> ModuleType:  # noqa: N807  # it becomes the package's own
        if name not in rooms:
            raise AttributeError(f"module {floor!r} has no attribute {name!r}")
        return import_module(f"{floor}.{name}")

    return __getattr__
