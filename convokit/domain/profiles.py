"""What is known about a model and the server it runs on, as plain flags.

A flag states a known fact; where nothing is known, everything passes through untouched. Facts live in `profiles.json` beside
this file: `providers` by host name, `models` by name pattern. A model id is a free string: a vendor prefix (`openai/`) and a
date suffix (`-2025-08-07`) do not hide the family.
"""

from __future__ import annotations

import functools
import json
import re
from importlib.resources import files
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from convokit.errors import SettingsError

DEFAULT_BASE_URL = "https://api.openai.com/v1"


class ImageTokens(BaseModel):
    """What an image costs a family of models: so much a 512-pixel tile, or so much a 32-pixel patch.

    Tiles: `base` and `tile` tokens. Patches: at most `patches` of an image fit into `side` pixels, times `factor`; detail
    `original` has its own limits, `auto_original` says that it is what `auto` means, `small_low` that `low` is 512 pixels.
    """

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid")

    base: int = 0
    tile: int = 0
    patches: int = 0
    factor: float = 1.0
    side: int | None = None
    original_patches: int = 0
    original_side: int | None = None
    auto_original: bool = False
    small_low: bool = False

    @property
    def name(self) -> str:
        """What tells this family's counts from another's."""
        if self.tile:
            return f"tiles{self.base}/{self.tile}"
        return f"patches{self.patches}/{self.original_patches}*{self.factor:g}{'o' if self.auto_original else ''}"


class Profile(BaseModel):
    """How to speak to one model on one server. The defaults suit a compatible server that nobody knows."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid")

    name: str = "generic"
    provider: str = "generic"
    """Who answers; extra keys of a message go back only to the provider that sent them."""
    instructions: Literal["developer", "system", "fold"] = "system"
    """The role of the developer prompt; `fold` puts it into the first user message (Gemma-style templates)."""
    output_cap: Literal["max_completion_tokens", "max_tokens"] = "max_tokens"
    alternate: bool = False
    """Whether user and assistant must take turns, beginning with the user."""
    needs_key: bool = False
    auth_header: str = "Authorization"
    """`Authorization` carries `Bearer <key>`; any other header carries the key alone (Azure: `api-key`)."""
    stream_usage: bool = True
    """Whether `stream_options.include_usage` is understood."""
    rejects: frozenset[str] = frozenset()
    """Request parameters this model answers with a 400."""
    rejects_unless_effort_none: frozenset[str] = frozenset()
    """Parameters that are rejected unless the reasoning effort resolves to `none`."""
    efforts: tuple[str, ...] | None = None
    """The accepted `reasoning_effort` values; None: not known, pass anything."""
    default_effort: str | None = None
    tools_need_effort_none: bool = False
    tool_choice_forms: Literal["all", "functions", "none"] = "all"
    parts: frozenset[str] = frozenset({"text", "image_url", "input_audio", "file"})
    """Content parts the model understands."""
    inline_images_only: bool = False
    """Whether images must come as data: URLs (Ollama)."""
    tool_call_id_pattern: str | None = None
    """What a tool call id must match there; other ids are mapped for the request, never in storage (Mistral)."""
    null_content: bool = True
    """Whether an assistant message may have null content; False sends an empty string."""
    refusal_part: bool = True
    """Whether a refusal is resent as a refusal part; False resends it as plain content."""
    replay_keys: frozenset[str] = frozenset()
    """Keys of an assistant message that this provider wants back as it sent them."""
    json_schema: bool = True
    json_object: bool = True
    max_n: int = 128
    window_tokens: int | None = None
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    tokenizer: str | None = None
    """The vocabulary (`o200k_base`, `cl100k_base`); None: not known, count more carefully."""
    images: ImageTokens | None = None
    """What an image costs; None: not known, count the worst."""
    template_tokens: int = 0
    """Tokens of instructions that the model's chat template adds of its own when a request has none."""

    @functools.cached_property
    def overrides(self) -> dict[str, Any]:
        """What differs from the defaults, as JSON: what a manifest says of it."""
        return self.model_dump(mode="json", exclude_defaults=True)


def resolve_profile(model: str, base_url: str, *, name: str | None = None) -> Profile:
    """Return the profile for `model` at `base_url`; `name` picks a provider instead of looking at the host.

    Raises: SettingsError when no provider has that name.
    """
    facts = _facts()
    if name is None:
        provider = _provider_of_host(base_url)
    elif name in facts["providers"]:
        provider = name
    else:
        raise SettingsError("profile", f"no provider named {name!r}; known: {', '.join(sorted(facts['providers']))}")
    values: dict[str, Any] = {"name": provider, "provider": provider}
    described = dict(facts["providers"][provider])
    described.pop("hosts", None)
    uses_models = described.pop("uses_models", False)
    if uses_models:
        values |= _family(model)
    values |= described
    values.setdefault("template_tokens", _template_tokens(model))
    try:
        return Profile(**values)
    except ValidationError as error:  # a mistake in our own data file must not look like the caller's
        raise RuntimeError(f"profiles.json is wrong for {provider}/{model}") from error


@functools.cache
def _facts() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(files("convokit.domain").joinpath("profiles.json").read_text("utf-8"))
    return loaded


def _provider_of_host(base_url: str) -> str:
    host = (urlsplit(base_url).hostname or "").lower()
    for provider, described in _facts()["providers"].items():
        if any(host == known or host.endswith("." + known) for known in described.get("hosts", ())):
            return str(provider)
    return "generic"


def _template_tokens(model: str) -> int:
    bare = model.rsplit("/", 1)[-1].lower()
    return next((int(each["tokens"]) for each in _facts()["templates"] if re.match(each["match"], bare)), 0)


_DATE = re.compile(r"-\d{4}-\d{2}-\d{2}$")


def _family(model: str) -> dict[str, Any]:
    bare = _DATE.sub("", model.rsplit("/", 1)[-1].lower())
    for entry in _facts()["models"]:
        if re.fullmatch(entry["match"], bare):
            described = {key: value for key, value in entry.items() if key != "match"}
            return {"name": bare, **described}
    return {}
