"""Let all engines of a test process share their compiled SQL statements.

A kit makes an engine, and an engine compiles each statement once. A test makes a kit or two for a few turns: half of its time
went into compiling the same statements. With `--matrix` each engine compiles for itself, as in a program.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from sqlalchemy.engine import Engine


class _Statements(dict[Any, Any]):
    """Compiled statements by the class of the dialect. SQLAlchemy's own key begins with the dialect object of one engine."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get((type(key[0]), *key[1:]), default)

    def __setitem__(self, key: Any, compiled: Any) -> None:
        super().__setitem__((type(key[0]), *key[1:]), compiled)


def share_compiled() -> None:
    """Replace the cache of each engine by one for all: from now on, and for this process."""
    statements: MutableMapping[Any, Any] = _Statements()
    setattr(Engine, "_compiled_cache", property(lambda engine: statements, lambda engine, cache: None))  # noqa: B010
