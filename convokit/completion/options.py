"""Settings on their way from kit, chat and call to one request.

Per call beats the chat, which beats the kit, setting by setting and parameter by parameter. A chat stores only what was set
on it: so a deploy with a new prompt reaches old conversations at their next turn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

from convokit.context.builder import ContextBuilder
from convokit.context.repair import PartialPolicy
from convokit.context.tokens import CharacterEstimate, Counter
from convokit.domain.params import RequestParams, check
from convokit.domain.profile import Profile, resolve
from convokit.errors import SettingsError
from convokit.settings import UNSET, Budget, Retry, Timeouts, Unset

Mode = Literal["strict", "drop", "pass"]
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Options:
    """What may be set on a kit, a chat or a call. `UNSET` is "not given"; None is a value."""

    model: str | Unset = UNSET
    developer_prompt: str | Unset | None = UNSET
    budget: Budget | Unset = UNSET
    retry: Retry | Unset = UNSET
    timeouts: Timeouts | Unset = UNSET
    profile: Profile | str | Unset = UNSET
    counter: Counter | Unset = UNSET
    mode: Mode | Unset = UNSET
    partial: PartialPolicy | Unset = UNSET
    params: RequestParams = field(default_factory=RequestParams)

    def __post_init__(self) -> None:
        check(self.params)
        if self.model is not UNSET and (not isinstance(self.model, str) or not self.model):
            raise SettingsError("model", f"must be a model's name, not {self.model!r}")

    def over(self, below: Options) -> Options:
        """Return these options, with `below` wherever nothing was given."""
        values = {
            each.name: getattr(self, each.name) if getattr(self, each.name) is not UNSET else getattr(below, each.name)
            for each in fields(self)
        }
        values["params"] = {**below.params, **self.params}
        return Options(**values)

    def to_json(self) -> str | None:
        """Return what a chat stores of its own settings: model, developer prompt and parameters."""
        values: dict[str, Any] = {}
        if self.model is not UNSET:
            values["model"] = self.model
        if self.developer_prompt is not UNSET:
            values["developer_prompt"] = self.developer_prompt
        if self.params:
            values["params"] = self.params
        return json.dumps(values, ensure_ascii=False, sort_keys=True) if values else None

    @classmethod
    def from_json(cls, stored: str | None) -> Options:
        """Return the settings that a chat stored."""
        values: Mapping[str, Any] = json.loads(stored) if stored else {}
        return cls(
            model=values.get("model", UNSET),
            developer_prompt=values.get("developer_prompt", UNSET),
            params=values.get("params", {}),
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything one request needs to know, settled."""

    model: str
    developer_prompt: str | None
    profile: Profile
    builder: ContextBuilder
    retry: Retry
    timeouts: Timeouts
    mode: Mode
    params: RequestParams

    @property
    def counter(self) -> Counter:
        return self.builder.counter

    @property
    def reply_tokens(self) -> int:
        """What is kept free for the reply: the request's own cap, else the budget's reserve."""
        given = self.params
        cap = given.get("max_output_tokens") or given.get("max_completion_tokens") or given.get("max_tokens")
        return cap or self.builder.budget.reply_tokens


def settle(options: Options, base_url: str) -> Plan:
    """Return the plan that `options` amount to. Raises: SettingsError when no model was named anywhere."""
    if isinstance(options.model, Unset):
        raise SettingsError("model", 'no model was named: pass model="..." to Convokit or set CONVOKIT_MODEL')
    profile = _profile(options, options.model, base_url)
    counter = _given(options.counter, None) or CharacterEstimate(profile.tokenizer)
    builder = ContextBuilder(
        budget=_given(options.budget, Budget()),
        profile=profile,
        counter=counter,
        partial=_given(options.partial, "include"),
    )
    return Plan(
        model=options.model,
        developer_prompt=_given(options.developer_prompt, None),
        profile=profile,
        builder=builder,
        retry=_given(options.retry, Retry()),
        timeouts=_given(options.timeouts, Timeouts()),
        mode=_given(options.mode, "drop"),
        params=options.params,
    )


def _given(value: Value | Unset, default: Value) -> Value:
    return default if isinstance(value, Unset) else value


def _profile(options: Options, model: str, base_url: str) -> Profile:
    if isinstance(options.profile, Profile):
        return options.profile
    return resolve(model, base_url, name=None if isinstance(options.profile, Unset) else options.profile)
