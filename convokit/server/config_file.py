"""Read the configuration of the gateway from `convokit.toml`.

One `GatewayConfig` holds everything that a server process needs. It can be pickled, so each worker gets it and opens its own
kits.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError
from starlette.applications import Starlette

from convokit.async_kit import AsyncConvokit
from convokit.errors import SettingsError
from convokit.runtime.tokenizer import TokenizeCounter
from convokit.server.application import create_app
from convokit.server.gateway_settings import GatewayModel, GatewaySettings, allow_anyone
from convokit.server.viewer_mount import mount_viewer
from convokit.settings import Budget


def _check_url(url: str) -> str:
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise PydanticCustomError("url", "must not contain a user or a password: use api_key_env")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise PydanticCustomError("url", "must be the URL of a server, such as https://api.openai.com/v1")
    return url


def _check_header(name: str) -> str:
    if not name.isascii() or not name.replace("-", "").isalnum():
        raise PydanticCustomError("header", "must be names of headers, such as x-session-id")
    return name


LogLevel = Literal["debug", "info", "warning", "error"]
Tokens = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)]
HeaderName = Annotated[str, AfterValidator(_check_header)]
ServerUrl = Annotated[str, AfterValidator(_check_url)]
_DEFAULTS = GatewaySettings()
_SECRETS = {"api_key", "base_url", "database"}
"""Keys whose values are never shown: URLs may contain passwords."""
_PROBLEMS = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "list_type": "must be a list",
    "dict_type": "must be a section",
    "model_type": "must be a section",
}
"""The problems by the types of pydantic's errors, where its own words name types of Python."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class UpstreamConfig(_Section):
    """A server that has models."""

    base_url: ServerUrl | None = None
    """Default: `OPENAI_BASE_URL`, else OpenAI."""
    api_key: str | None = Field(default=None, repr=False)
    api_key_env: Name | None = None
    """The environment variable that holds the key. Default: `OPENAI_API_KEY`, unless `base_url` is given."""
    profile: Name | None = None
    default_model: Name | None = None
    """The model that is listed if no section of `models` is there."""
    context_tokens: Tokens | None = None
    """The window of its models, where a model names none."""
    reply_tokens: Tokens | None = None
    """The longest reply, for requests that name no limit."""
    has_tokenizer: bool = False
    """Whether the server is a llama.cpp server that counts tokens."""

    def read_key(self) -> str | None:
        """Return the API key. Raises: SettingsError if the environment variable is not set."""
        if self.api_key_env is None:
            return self.api_key
        key = os.environ.get(self.api_key_env)
        if not key:
            raise SettingsError("api_key_env", f"the environment variable {self.api_key_env} is not set: export it")
        return key

    def open_kit(self, database: str | Path, *, read_only: bool = False) -> AsyncConvokit:
        """Return a kit for this server. Raises: SettingsError."""
        settings: dict[str, Any] = {
            "base_url": self.base_url,
            "api_key": self.read_key(),
            "profile": self.profile,
            "model": self.default_model,
        }
        if self.context_tokens is not None:
            settings["budget"] = Budget(self.context_tokens, self.reply_tokens)
        if self.reply_tokens is not None:
            settings["max_output_tokens"] = self.reply_tokens
        if self.has_tokenizer and self.base_url is not None:
            settings["counter"] = TokenizeCounter(self.base_url, api_key=settings["api_key"])
        # The gateway's clients know what their model accepts. A parameter that the server rejects is the server's error.
        return AsyncConvokit(
            database,
            mode="pass",
            read_only=read_only,
            **{key: value for key, value in settings.items() if value is not None},
        )


class ModelConfig(_Section):
    """A model that clients may ask for."""

    upstream: Name | None = None
    """The name of the upstream that has it. Default: the only one."""
    name: Name | None = None
    """Its name there. Default: the name that clients use."""
    context_tokens: Tokens | None = None


class LimitsConfig(_Section):
    """The limits of a client."""

    max_body_bytes: Annotated[int, Field(gt=0)] = _DEFAULTS.max_body_bytes
    body_timeout_s: Seconds = _DEFAULTS.body_timeout_s
    write_timeout_s: Seconds = _DEFAULTS.write_timeout_s
    hold_s: Seconds = _DEFAULTS.hold_s
    ping_s: Seconds = _DEFAULTS.ping_s
    keep_alive_s: Annotated[int, Field(gt=0)] = 5
    """After so many seconds without a request, a connection is closed."""


class GatewayConfig(_Section):
    """The configuration of `convokit serve`: the keys of `convokit.toml`."""

    database: Name = Field(default="sqlite:///convokit.db", repr=False)
    host: Name = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    workers: Annotated[int, Field(gt=0, le=256)] = 1
    require_keys: bool = False
    """Whether a request needs an API key although the database has none. With keys in the database, it always needs one."""
    trusted_proxies: list[Name] = []
    """Addresses of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed."""
    allowed_hosts: list[Name] | None = None
    forward: list[Name] = []
    match_history: bool = True
    conversation_headers: list[HeaderName] = list(_DEFAULTS.conversation_headers)
    drain_timeout_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0
    log_level: LogLevel = "info"
    viewer: bool = True
    """Whether the pages of `convokit view` are served under `/view`."""
    limits: LimitsConfig = LimitsConfig()
    upstreams: dict[str, UpstreamConfig] = {}
    models: dict[str, ModelConfig] = {}

    @property
    def database_url_or_path(self) -> str | Path:
        """The database as a kit takes it: a URL, or the path of a SQLite file."""
        return self.database if "://" in self.database else Path(self.database).expanduser()

    def find_upstream(self, model: str) -> str:
        """Return the name of the upstream that has a model. Raises: SettingsError."""
        upstream, known = self.models[model].upstream, ", ".join(self.upstreams)
        if upstream is None and len(self.upstreams) <= 1:
            return next(iter(self.upstreams), "")
        if upstream is None:
            raise SettingsError(f"models.{model}.upstream", f"is missing: name one of the upstreams {known}")
        if upstream not in self.upstreams:
            choice = f"name one of {known}" if known else "there is no section [upstreams.NAME]"
            raise SettingsError(f"models.{model}.upstream", f"there is no upstream {upstream!r}: {choice}")
        return upstream

    def check(self) -> None:
        """Check what one key alone does not show. Raises: SettingsError."""
        for name, upstream in self.upstreams.items():
            if upstream.api_key is not None and upstream.api_key_env is not None:
                raise SettingsError(f"upstreams.{name}", "has api_key and api_key_env: remove api_key")
            try:
                upstream.read_key()
            except SettingsError as error:
                raise SettingsError(f"upstreams.{name}.{error.setting}", str(error).partition(": ")[2]) from None
        for model in self.models:
            self.find_upstream(model)
        if len(self.upstreams) > 1 and not self.models:
            names = ", ".join(self.upstreams)
            problem = f"is empty, and there are several upstreams ({names}): add a section [models.NAME] for each model"
            raise SettingsError("models", problem)

    def make_settings(self, kits: Mapping[str, AsyncConvokit]) -> GatewaySettings:
        """Return the settings of the application. `kits` has a kit for each upstream."""
        models = {
            name: GatewayModel(kits[self.find_upstream(name)], model.name, model.context_tokens)
            for name, model in self.models.items()
        }
        return GatewaySettings(
            models=models,
            forward=tuple(self.forward),
            match_history=self.match_history,
            conversation_headers=tuple(name.lower() for name in self.conversation_headers),
            **self.limits.model_dump(exclude={"keep_alive_s"}),
            allowed_hosts=None if self.allowed_hosts is None else tuple(name.lower() for name in self.allowed_hosts),
        )


@asynccontextmanager
async def open_application(config: GatewayConfig) -> AsyncIterator[Starlette]:
    """Open the kits of a configuration, and yield the application on them. The kits are closed when the block ends."""
    database = config.database_url_or_path
    upstreams = config.upstreams or {"": UpstreamConfig()}
    async with AsyncExitStack() as stack:
        kits = {
            name: await stack.enter_async_context(upstream.open_kit(database)) for name, upstream in upstreams.items()
        }
        auth = None if config.require_keys else allow_anyone
        app = create_app(next(iter(kits.values())), settings=config.make_settings(kits), auth=auth)
        if config.viewer:
            upstream = next(iter(upstreams.values()))
            kit = await stack.enter_async_context(upstream.open_kit(database, read_only=True))
            mount_viewer(app, kit, require_keys=config.require_keys)
        yield app


def read_config(file: Path | None, given: Mapping[str, Any]) -> GatewayConfig:
    """Return the configuration of a file, and of options that have precedence over it. Raises: SettingsError."""
    values = {**({} if file is None else _read_toml(file)), **given}
    place = "" if file is None else f" ({file})"
    try:
        config = GatewayConfig.model_validate(values)
        config.check()
    except ValidationError as error:
        raise _describe(error.errors()[0], place) from None
    except SettingsError as error:
        raise SettingsError(error.setting, f"{str(error).partition(': ')[2]}{place}") from None
    return config


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise SettingsError("config", f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError("config", f"{file} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError("config", f"{file} is not valid TOML: {error}") from None


def _describe(error: ErrorDetails, place: str) -> SettingsError:
    *section, key = error["loc"]
    while section and isinstance(key, int):  # an element of a list
        *section, key = section
    setting = ".".join(map(str, [*section, key]))
    if error["type"] == "extra_forbidden":
        names = ", ".join(_list_keys(section))
        return SettingsError(setting, f"is not a key of the configuration{place}: the keys here are {names}")
    problem = _PROBLEMS.get(error["type"]) or error["msg"].replace("Input should", "must")
    if key not in _SECRETS:
        problem += f", not {error['input']!r}"
    return SettingsError(setting, f"{problem}{place}")


def _list_keys(section: list[Any]) -> list[str]:
    models: dict[str, type[_Section]] = {"upstreams": UpstreamConfig, "models": ModelConfig, "limits": LimitsConfig}
    return list(models[str(section[0])].model_fields if section else GatewayConfig.model_fields)
