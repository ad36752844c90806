"""Import the modules of a feature package at their first use.

A program that only sends messages never pays for loading search, audit or transfer. A feature package lists its modules for
type checkers, and its callers write `audit.flows.verify_flow`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType


def import_on_use(package: str, *modules: str) -> Callable[[str], ModuleType]:
    """Return a `__getattr__` for the package (PEP 562) that imports the modules when they are first read."""

    def __getattr__(name: str) -> ModuleType:  # noqa: N807  # becomes the package's own
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return import_module(f"{package}.{name}")

    return __getattr__
