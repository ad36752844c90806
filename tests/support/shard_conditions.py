"""Find tables that a statement reads or changes without naming the conversation.

A database that is distributed by conversation sends a statement to one server if each of its levels names the conversation by a
constant: `conversation_id = :id`. A join with another table that names it is not enough for a table in a sub-select.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import CTE, Alias, BindParameter, Column, Delete, Join, Select, Subquery, Table, Update
from sqlalchemy.engine import Dialect
from sqlalchemy.sql import operators
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import BinaryExpression, BooleanClauseList, ColumnElement, Grouping

from convokit.store.schema import conversation


def find_unnamed(statement: Any, dialect: Dialect) -> list[str]:
    """Return the names of tables below a conversation that stand at a level without `conversation_id = <bound>`."""
    return list(_search(statement, dialect, frozenset(), set()))


def _search(element: Any, dialect: Dialect, outer: frozenset[Any], seen: set[int]) -> Iterator[str]:
    inner = outer
    if isinstance(element, Subquery | CTE):
        inner = frozenset()  # neither sees the tables around it
        if id(element) in seen:
            return
        seen.add(id(element))
    elif isinstance(element, Select | Update | Delete):
        given = _list_froms(element, dialect) if isinstance(element, Select) else [element.table]
        froms, conditions = _flatten(given)
        own = [each for each in froms if each not in outer] or froms  # the others are those of the level around it
        named = {id(each) for each in _list_named([*conditions, *element._where_criteria])}
        yield from (each.name for each in own if _get_key(each) is not None and id(each) not in named)
        inner = outer | frozenset(own)
    for child in element.get_children():
        yield from _search(child, dialect, inner, seen)


def _list_froms(element: Any, dialect: Dialect) -> Any:
    # `get_final_froms()` compiles for no database in particular, which has no `now_us()`.
    return element._compile_state_factory(element, SQLCompiler(dialect, None))._get_display_froms()


def _flatten(elements: Any) -> tuple[list[Any], list[Any]]:
    """Return the tables and subqueries of a FROM clause, and the conditions of its inner and left joins."""
    froms, conditions = [], []
    for element in elements:
        if isinstance(element, Join):
            both = _flatten([element.left, element.right])
            froms += both[0]
            conditions += [*both[1], element.onclause]
        else:
            froms.append(element)
    return froms, conditions


def _get_key(element: Any) -> Any:
    """Return the column of a table that holds the conversation's id; None if it belongs to no conversation."""
    table = element.element if isinstance(element, Alias) and not isinstance(element, Subquery | CTE) else element
    if not isinstance(table, Table):
        return None
    return element.c.get("id" if table is conversation else "conversation_id")


def _list_named(conditions: list[Any]) -> Iterator[Any]:
    """Yield the tables whose conversation is compared with a constant by one of these conditions."""
    for condition in conditions:
        if isinstance(condition, Grouping):
            yield from _list_named([condition.element])
        elif isinstance(condition, BooleanClauseList) and condition.operator is operators.and_:
            yield from _list_named(list(condition.clauses))
        elif isinstance(condition, BinaryExpression) and condition.operator in (operators.eq, operators.in_op):
            for one, other in ((condition.left, condition.right), (condition.right, condition.left)):
                if isinstance(one, Column) and isinstance(other, BindParameter) and _is_key(one):
                    yield one.table


def _is_key(column: ColumnElement[Any] | Any) -> bool:
    key = _get_key(column.table)
    return key is not None and column is key
