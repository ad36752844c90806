"""Look up the known quirks of a model and its server.

`profiles.json` has one entry for each provider (by host name) and for each family of models (by name pattern). For unknown
models and servers, requests pass unchanged. A vendor prefix (`openai/`) and a date suffix (`-2025-08-07`) of a model's name are
ignored. `vocabularies.py` knows the vocabulary of a model.
"""

from __future__ import annotations

import functools
import json
import re
from importlib.resources import files
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from convokit.domain.vocabularies import find_vocabulary
from convokit.errors import SettingsError

DEFAULT_BASE_URL = "https://api.openai.com/v1"
_DATE = re.compile(r"-\d{4}-\d{2}-\d{2}$")


class ImageTokens(BaseModel):
    """The tokens of an image, for a family of OpenAI models (platform.openai.com/docs/guides/images-vision).

    Either by tiles of 512 pixels (`tile` is not 0), or by patches of 32 pixels.
    """

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid")

    base: int = 0
    """Tokens of any image, by tiles."""
    tile: int = 0
    """Tokens of each tile."""
    patches: int = 0
    """The most patches of an image."""
    factor: float = 1.0
    """Tokens of a patch."""
    side: int | None = None
    """The longest side in pixels; larger images are scaled down. None: any."""
    original_patches: int = 0
    """The most patches with detail `original`. 0: `original` counts as `high`."""
    original_side: int | None = None
    auto_original: bool = False
    """Whether detail `auto` means `original`. Otherwise it means `high`."""
    small_low: bool = False
    """Whether detail `low` scales the image to 512 pixels."""

    @property
    def name(self) -> str:
        """The name that is stored with counts of this family."""
        if self.tile:
            return f"tiles{self.base}/{self.tile}"
        return f"patches{self.patches}/{self.original_patches}*{self.factor:g}{'o' if self.auto_original else ''}"


class Profile(BaseModel):
    """Facts about one model on one server. The defaults suit an unknown compatible server."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid")

    name: str = "generic"
    provider: str = "generic"
    """The provider. Keys of a reply that only it defines are sent back to no other provider."""
    instructions: Literal["developer", "system", "fold"] = "system"
    """The role of the developer prompt. `fold` puts it into the first user message (chat templates like Gemma's)."""
    output_cap: Literal["max_completion_tokens", "max_tokens"] = "max_tokens"
    alternate: bool = False
    """Whether messages must alternate between user and assistant, starting with the user."""
    needs_key: bool = False
    auth_header: str = "Authorization"
    """`Authorization` carries `Bearer <key>`. Any other header carries the key alone (Azure: `api-key`)."""
    stream_usage: bool = True
    """Whether the server accepts `stream_options.include_usage`."""
    rejects: frozenset[str] = frozenset()
    """Request parameters that the server refuses with status 400."""
    rejects_unless_effort_none: frozenset[str] = frozenset()
    """Request parameters that the server refuses unless `reasoning_effort` is `none`."""
    efforts: tuple[str, ...] | None = None
    """The accepted values of `reasoning_effort`. None: unknown, any value is sent."""
    default_effort: str | None = None
    tools_need_effort_none: bool = False
    tool_choice_forms: Literal["all", "functions", "none"] = "all"
    parts: frozenset[str] = frozenset({"text", "image_url", "input_audio", "file"})
    """The types of content parts that the model accepts."""
    inline_images_only: bool = False
    """Whether images must be data: URLs (Ollama)."""
    tool_call_id_pattern: str | None = None
    """A pattern for ids of tool calls (Mistral). Other ids are replaced in requests. Stored ids do not change."""
    null_content: bool = True
    """Whether an assistant message may have null content. False: an empty text is sent."""
    refusal_part: bool = True
    """Whether a refusal is sent as a refusal part. False: it is sent as text."""
    replay_keys: frozenset[str] = frozenset()
    """Keys of an assistant message that this provider wants back unchanged."""
    replay_keys_with_calls: frozenset[str] = frozenset()
    """Keys that are sent back only with tool calls. A gateway to a reasoning model may refuse the calls without them."""
    needs_reasoning: bool = False
    """Whether each assistant message with tool calls must have `reasoning_content`. An empty one is sent if there is none."""
    json_schema: bool = True
    json_object: bool = True
    max_n: int = 128
    window_tokens: int | None = None
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    tokenizer: str | None = None
    """The model's vocabulary: `o200k_base`, or `~qwen3` for one that is only near it. None: unknown."""
    images: ImageTokens | None = None
    """The tokens of images. None: unknown, the largest are assumed."""
    template_tokens: int = 0
    """Tokens of the instructions that the model's chat template adds to a request without any."""

    @functools.cached_property
    def overrides(self) -> dict[str, Any]:
        """The facts that differ from the defaults, as JSON values."""
        return self.model_dump(mode="json", exclude_defaults=True)


def resolve_profile(model: str, base_url: str, *, name: str | None = None) -> Profile:
    """Return the profile for `model` at `base_url`. `name` selects a provider instead of the host name.

    Raises: SettingsError if no provider has that name.
    """
    facts = _read_facts()
    if name is None:
        provider = _find_provider(base_url)
    elif name in facts["providers"]:
        provider = name
    else:
        raise SettingsError("profile", f"no provider named {name!r}; known: {', '.join(sorted(facts['providers']))}")
    values: dict[str, Any] = {"name": provider, "provider": provider}
    provider_facts = dict(facts["providers"][provider])
    provider_facts.pop("hosts", None)
    uses_models = provider_facts.pop("uses_models", False)
    if uses_models:
        values |= _find_family(model)
    values |= provider_facts
    values.setdefault("template_tokens", _find_template_tokens(model))
    values["tokenizer"] = find_vocabulary(model)
    try:
        return Profile(**values)
    except ValidationError as error:  # an error in profiles.json is not a SettingsError of the caller
        raise RuntimeError(f"profiles.json is wrong for {provider}/{model}") from error


@functools.cache
def _read_facts() -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(files("convokit.domain").joinpath("profiles.json").read_text("utf-8"))
    return facts


def _find_provider(base_url: str) -> str:
    host = (urlsplit(base_url).hostname or "").lower()
    for provider, provider_facts in _read_facts()["providers"].items():
        if any(host == known or host.endswith("." + known) for known in provider_facts.get("hosts", ())):
            return str(provider)
    return "generic"


def _find_template_tokens(model: str) -> int:
    name = model.rsplit("/", 1)[-1].lower()
    templates = _read_facts()["templates"]
    return next((int(template["tokens"]) for template in templates if re.match(template["match"], name)), 0)


def _find_family(model: str) -> dict[str, Any]:
    name = _DATE.sub("", model.rsplit("/", 1)[-1].lower())
    for family in _read_facts()["models"]:
        if re.fullmatch(family["match"], name):
            return {"name": name, **{key: value for key, value in family.items() if key != "match"}}
    return {}
