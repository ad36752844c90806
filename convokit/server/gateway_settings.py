"""Define the settings of the gateway, its models and its callers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from starlette.requests import Request

from convokit.async_kit import AsyncConvokit
from convokit.errors import SettingsError
from convokit.store.keys import CHAT, READ

CONVERSATION_HEADERS = ("x-openwebui-chat-id", "x-session-id", "x-litellm-session-id")
"""Headers in which other programs name a conversation. `X-Conversation-Id` has precedence over all of them."""
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
SCOPES = frozenset({CHAT, READ})
"""All scopes of a caller."""


@dataclass(frozen=True, slots=True)
class GatewayModel:
    """A model that clients may ask for."""

    kit: AsyncConvokit | None = None
    """The kit whose server has the model, on the database of the gateway's own kit. None: the gateway's own kit."""
    upstream_name: str | None = None
    """The name that the server knows the model by. None: the name that clients use."""
    context_tokens: int | None = None
    """The size of its context window in tokens. It matters where convokit chooses the window. None: what the kit knows."""


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """The settings of `create_app`. Sizes are in bytes, times in seconds."""

    models: Mapping[str, GatewayModel] = field(default_factory=dict)
    """The models that clients may ask for, by name. Empty: every name is passed on to the kit's server."""
    forward: tuple[str, ...] = ()
    """Request fields outside the API that are passed on, such as `top_k`. All others are refused."""
    match_history: bool = True
    """Whether a client that names no conversation continues the one that its messages match."""
    conversation_headers: tuple[str, ...] = CONVERSATION_HEADERS
    """Further headers that name a conversation, in the order of their precedence."""
    max_body_bytes: int = 10 * 1024 * 1024
    body_timeout_s: float = 30.0
    """For a client to send its request."""
    write_timeout_s: float = 60.0
    """For a client to take a part of a stream. A client that stalls longer is disconnected; its turn goes on."""
    hold_s: float = 2.0
    """The longest wait for the first chunk before the status of a stream is sent. An error until then gets its own status."""
    ping_s: float = 15.0
    """After so many seconds without a chunk, a stream sends a comment, which keeps proxies from closing it."""
    allowed_hosts: tuple[str, ...] | None = None
    """The names that the `Host` header may have, without ports. None: loopback names if `auth` is `allow_anyone`, else any."""

    def __post_init__(self) -> None:
        for name in ("max_body_bytes", "body_timeout_s", "write_timeout_s", "hold_s", "ping_s"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise SettingsError(name, f"must be a number above zero, not {value!r}")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request, as `auth` found out."""

    tenant: str
    """The owner of the conversations that the caller sees."""
    id: str = ""
    """The caller among those of the tenant. Histories are matched within one id."""
    scopes: frozenset[str] = SCOPES
    """`chat` to ask the model and write, `read` to read."""
    models: frozenset[str] | None = None
    """The models that the caller may use. None: all."""
    requests_per_minute: int | None = None
    key_digest: bytes | None = None
    """The digest of the API key. `requests_per_minute` is counted by it, in the database; without it, it is not counted."""
    name: str = ""
    """The name of the API key, for people."""


Authenticate = Callable[[Request], Awaitable[Caller | None]]
"""Returns the caller of a request, or None, which is answered with 401."""


async def allow_anyone(request: Request) -> Caller:
    """Let everyone in, as the tenant `default`. For a server that only this machine reaches."""
    return Caller("default")
