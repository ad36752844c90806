"""Hold what the requests of one gateway share."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request

from convokit.async_kit import AsyncConvokit
from convokit.domain.message import USER
from convokit.server import addressing
from convokit.server.addressing import Address, Addressing, Place
from convokit.server.api_ids import format_conversation_id
from convokit.server.callers import KeyAuthentication, RequestLimits
from convokit.server.database import Database
from convokit.server.gateway_settings import (
    LOOPBACK_HOSTS,
    Authenticate,
    Caller,
    GatewayModel,
    GatewaySettings,
    allow_anyone,
)
from convokit.server.refusals import NO_RETRY, Refusal
from convokit.server.request_body import read_header, read_json, read_name, read_retry_count, to_header
from convokit.server.running_turns import TurnRegistry
from convokit.server.turn_requests import ON_BUSY, OnBusy, StartedTurn, TurnRequest, TurnStarter

_MAX_TOOLS = 1_000
"""Tools of one request: OpenAI accepts 128."""


class Gateway:
    """The state of a gateway: its kit, its settings, and the turns that run in this process."""

    def __init__(self, kit: AsyncConvokit, settings: GatewaySettings, auth: Authenticate | None) -> None:
        self.kit = kit
        self.settings = settings
        self.database = Database(kit)
        self.auth = auth if auth is not None else KeyAuthentication(self.database)
        self.limits = RequestLimits(self.database)
        self.running = TurnRegistry()
        self.is_draining = False
        """Whether new requests are refused because the process is about to end."""
        loopback = LOOPBACK_HOSTS if self.auth is allow_anyone else None
        self.allowed_hosts = settings.allowed_hosts if settings.allowed_hosts is not None else loopback

    async def drain(self, timeout_s: float) -> int:
        """Refuse new requests, and wait until the running turns have ended. Return how many have not in that time."""
        self.is_draining = True
        return await self.running.finish(timeout_s)

    async def open_session(self, request: Request, scope: str) -> Session:
        """Authenticate a request. Raises: Refusal, for a caller who may not do what `scope` names, too."""
        caller = await self.auth(request)
        if caller is None:
            raise Refusal("Incorrect API key provided.", status=401, code="invalid_api_key")
        if scope not in caller.scopes:
            problem = f"the API key has not the scope {scope!r}"
            raise Refusal(problem, status=403, code="insufficient_scope")
        await self.limits.count(caller)
        return Session(self, request, caller, self.kit.tenant(caller.tenant))


@dataclass(slots=True)
class Session:
    """One request of a caller."""

    gateway: Gateway
    request: Request
    caller: Caller
    kit: AsyncConvokit
    """The kit of the caller's tenant. Everything that the request reads or writes goes through it."""

    async def read_body(self) -> dict[str, Any]:
        """Return the body of the request. Raises: Refusal."""
        settings = self.gateway.settings
        return await read_json(self.request, max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s)

    def use_model(self, name: str) -> GatewayModel:
        """Return the model of a name, with the kit for it, and use that kit from now on. Raises: Refusal."""
        models = self.gateway.settings.models
        model = models.get(name) if models else GatewayModel()
        if model is None or (self.caller.models is not None and name not in self.caller.models):
            raise model_refusal(name)
        if model.kit is not None:
            self.kit = model.kit.tenant(self.caller.tenant)
        return model

    def list_models(self) -> list[str]:
        """Return the names of the models that the caller may use."""
        own = self.gateway.kit._state.options.model
        names = list(self.gateway.settings.models) or ([own] if isinstance(own, str) else [])
        return [name for name in names if self.caller.models is None or name in self.caller.models]

    def read_address(self, body: dict[str, Any]) -> Address:
        """Return what the request says of its conversation. Raises: Refusal."""
        request, settings = self.request, self.gateway.settings
        user = body.get(USER)
        person = body.get("safety_identifier") or user
        scope = json.dumps([self.caller.id, person if isinstance(person, str) else None])
        mode = (read_header(request, "x-conversation-mode") or "auto").lower()
        if mode not in ("auto", "append"):
            problem = f"must be auto or append, not {mode!r}"
            raise Refusal(f"X-Conversation-Mode: {problem}", code="invalid_value", param="X-Conversation-Mode")
        thread = request.path_params.get("thread") or read_name(request, "x-conversation-id")
        for name in () if thread else settings.conversation_headers:
            thread = thread or read_name(request, name)
        key = read_header(request, "idempotency-key")
        if not thread and key is not None:
            thread = addressing.hash_thread(scope, key)
        return Address(
            thread or None,
            scope,
            user if isinstance(user, str) and user else None,
            "append" if mode == "append" else "auto",
            is_retry=read_retry_count(request) > 0,
            match_history=settings.match_history,
        )

    def read_on_busy(self) -> OnBusy:
        """Return what happens to messages that are all new while another turn is open. Raises: Refusal."""
        given = read_header(self.request, "x-conversation-on-busy") or "raise"
        for known in ON_BUSY:
            if given == known:
                return known
        problem = f"must be one of {', '.join(ON_BUSY)}, not {given!r}"
        raise Refusal(f"X-Conversation-On-Busy: {problem}", code="invalid_value", param="X-Conversation-On-Busy")

    def prepare(self, request: TurnRequest, model: GatewayModel, name: str) -> None:
        """Complete a turn's request with what the headers and the model say. Raises: Refusal."""
        tools = request.options.get("tools")
        if isinstance(tools, list) and len(tools) > _MAX_TOOLS:
            problem = f"{len(tools):,} tools are over the limit of {_MAX_TOOLS:,}"
            raise Refusal(f"tools: {problem}", status=413, param="tools", code="too_large")
        request.options["model"] = model.upstream_name or name
        request.context_tokens = model.context_tokens
        request.idempotency_key = read_header(self.request, "idempotency-key")
        request.on_busy = self.read_on_busy()
        request.is_managed = (read_header(self.request, "x-conversation-context") or "").lower() == "managed"

    async def start_turn(self, request: TurnRequest, address: Address) -> StartedTurn:
        """Start the turn of a request that sends its history, or attach to it. Raises: ConvokitError, Refusal."""
        starter = await self.make_starter()
        chat = None
        if request.idempotency_key is not None and address.thread is not None:
            chat = await starter.addressing.open_thread(address.thread)

        async def find_place(has_failed: bool) -> Place:
            where = replace(address, is_retry=address.is_retry or has_failed)
            return await starter.addressing.find_place(where, request.sent)

        return await starter.start(request, chat, find_place)

    async def make_starter(self) -> TurnStarter:
        """Return what starts the turns of this request."""
        database = Database(self.kit)
        secret = await database.read_secret()
        return TurnStarter(Addressing(self.kit, database), self.gateway.running, secret)

    def format_headers(self, started: StartedTurn, address: Address | None = None) -> dict[str, str]:
        """Return the headers that say where the turn went."""
        named = address.thread if address is not None else None
        if named is None or named.startswith("idempotency:"):
            named = format_conversation_id(started.turn.conversation_id)
        return {"x-conversation-id": to_header(named), "x-conversation-place": started.place.kind}


def model_refusal(name: str) -> Refusal:
    """Return the answer for a model that does not exist, or that the caller may not use."""
    problem = f"The model '{name}' does not exist or you do not have access to it."
    return Refusal(problem, status=404, code="model_not_found", param="model", headers=NO_RETRY)
