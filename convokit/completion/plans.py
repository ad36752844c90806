"""What a call, its chat and its kit set, put together."""

from __future__ import annotations

from typing import Any

from convokit.completion.options import NOTHING, Options, Plan, settle
from convokit.completion.scope import Scope, Target
from convokit.domain.conversation import ConversationRow
from convokit.settings import UNSET

_PLANS = 256
"""Settled plans that are kept: one for each way in which conversations are set."""


def plan_for(scope: Scope, target: Target, call: Options, row: ConversationRow | None) -> Plan:
    """Return the settled plan: call over chat over what the chat stored over kit.

    A call that sets nothing has the plan that was settled for the same stored settings before.
    """
    settings = row.settings if row is not None else None
    known = scope.plans if target.options is NOTHING else target.plans
    plan = known.get(settings) if call is NOTHING else None
    if plan is not None:
        return plan
    plan = settle(options_for(scope, target, call, row), scope.base_url)
    if call is NOTHING:
        if len(known) >= _PLANS:
            known.clear()
        known[settings] = plan
    return plan


def options_for(scope: Scope, target: Target, call: Options, row: ConversationRow | None) -> Options:
    """Return the options that hold: call over chat over what the chat stored over kit."""
    stored = Options.from_json(row.settings if row is not None else None)
    return call.over(target.options).over(stored).over(scope.options)


def given(scope: Scope, target: Target, call: Options, name: str) -> Any:
    """Return an option that no chat stores: call over chat over kit, `UNSET` where none of them gives it."""
    for options in (call, target.options, scope.options):
        value = getattr(options, name)
        if value is not UNSET:
            return value
    return UNSET
