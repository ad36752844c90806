"""The database's own clock, in microseconds since 1970: the only clock that leases are measured by.

Constant within a statement, as a distributed PostgreSQL asks of an UPDATE.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class now_us(FunctionElement[int]):  # noqa: N801  # reads as the SQL function it is
    """Microseconds since 1970 UTC."""

    inherit_cache = True
    type = BigInteger()
    name = "now_us"


@compiles(now_us, "sqlite")
def _sqlite(element: Any, compiler: Any, **options: Any) -> str:
    return "CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER) * 1000"


@compiles(now_us, "postgresql")
def _postgresql(element: Any, compiler: Any, **options: Any) -> str:
    return "CAST(extract(epoch FROM statement_timestamp()) * 1000000 AS BIGINT)"
