"""The asynchronous face: `AsyncConvokit` and `AsyncChat`. The same names, the same order, the same flows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from types import TracebackType
from typing import Any, Unpack
from uuid import UUID

from convokit.audit.verify import verify
from convokit.completion import following, pinning, reading, recover, repeat
from convokit.completion.functions import ToolLike
from convokit.completion.options import Options, PartLike, tools_of
from convokit.completion.recover import OnBusy
from convokit.completion.scope import Scope, Target
from convokit.context.repair import PartialPolicy
from convokit.context.report import Context
from convokit.context.strategy import Strategy
from convokit.context.tokens import Counter
from convokit.domain.conversation import Conversation, Page, Verified
from convokit.domain.message import Message
from convokit.domain.params import RequestParams
from convokit.domain.profile import Profile
from convokit.domain.turn import Recovered, Reply, Turn
from convokit.run.aio import AsyncDriver, AsyncStream, open_store
from convokit.run.background import Background
from convokit.run.http import AsyncClient, AsyncHttpxClient, checked_client
from convokit.run.setup import ApiKey, OnDisconnect, check_on_disconnect, scope_for, scope_of, target_of
from convokit.run.sync import migrate_once
from convokit.settings import UNSET, Budget, Limits, Retry, Timeouts, Unset
from convokit.store.engine import Durability
from convokit.wire.messages import Unsupported
from convokit.wire.request import Mode


class AsyncConvokit:
    """Durable conversations in one database, answered by one Chat Completions server.

    `database` is a SQLAlchemy URL or the path of a SQLite file (default: `CONVOKIT_DATABASE_URL`). `model` has no default
    (or `CONVOKIT_MODEL`). `base_url` is the server's (default: `OPENAI_BASE_URL`, else OpenAI), `api_key` a string or a
    function that returns one (default: `OPENAI_API_KEY`, unless `base_url` is given here). `tenant` binds everything this kit
    does. `profile` is a provider's name (`"vllm"`, `"ollama"` …) or a `Profile`, found by host when not given. `mode` says what
    happens to parameters the model rejects: `"drop"` and report, `"strict"` raises, `"pass"` sends. Everything else is a
    default that chats and calls may override. Raises: SettingsError.
    """

    def __init__(
        self,
        database: str | Path | None = None,
        *,
        model: str | Unset = UNSET,
        developer_prompt: str | Unset | None = UNSET,
        base_url: str | None = None,
        api_key: ApiKey = None,
        tenant: str = "default",
        budget: Budget | Unset = UNSET,
        retry: Retry | Unset = UNSET,
        timeouts: Timeouts | Unset = UNSET,
        limits: Limits | None = None,
        profile: Profile | str | Unset = UNSET,
        counter: Counter | Unset = UNSET,
        mode: Mode | Unset = UNSET,
        partial: PartialPolicy | Unset = UNSET,
        unsupported: Unsupported | Unset = UNSET,
        tools: Sequence[ToolLike] | Unset = UNSET,
        max_tool_rounds: int | Unset = UNSET,
        strategy: Strategy | Unset = UNSET,
        durability: Durability = "full",
        http_client: AsyncClient | None = None,
        **params: Unpack[RequestParams],
    ) -> None:
        options = Options(
            model=model,
            developer_prompt=developer_prompt,
            budget=budget,
            retry=retry,
            timeouts=timeouts,
            profile=profile,
            counter=counter,
            mode=mode,
            partial=partial,
            unsupported=unsupported,
            tools=tools_of(tools),
            max_tool_rounds=max_tool_rounds,
            strategy=strategy,
            params=params,
        )
        self._url, self._scope = scope_of(
            database, options, base_url=base_url, api_key=api_key, tenant=tenant, limits=limits
        )
        self._store = open_store(self._url, self._scope.database.name, durability)
        self._client = checked_client(http_client) or AsyncHttpxClient()
        self._background = Background()

    async def migrate(self) -> None:
        """Bring the database's tables up to date, creating a SQLite file if it is not there. Safe from many processes."""
        await asyncio.to_thread(migrate_once, self._url, self._scope.database.name)

    def chat(
        self,
        key: str | None = None,
        *,
        id: UUID | str | None = None,
        subject: str | None = None,
        title: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        model: str | Unset = UNSET,
        developer_prompt: str | Unset | None = UNSET,
        budget: Budget | Unset = UNSET,
        tools: Sequence[ToolLike] | Unset = UNSET,
        strategy: Strategy | Unset = UNSET,
        **params: Unpack[RequestParams],
    ) -> AsyncChat:
        """Return a handle on the conversation under `key` (or with `id`, or a new one). Nothing is read or written yet.

        It is created by its first `send` and resumed ever after, by any process. `subject` is the person it belongs to.
        What is set here beats the kit's own settings. Model, developer prompt, parameters, subject, title and metadata are
        stored with the conversation at its next turn; budget, tools and strategy hold for this handle.
        """
        options = Options(model, developer_prompt, budget, tools=tools_of(tools), strategy=strategy, params=params)
        target = target_of(self._scope, key, id, subject=subject, title=title, metadata=metadata, options=options)
        return AsyncChat(self._scope, target, self._driver, self._background)

    def tenant(self, name: str) -> AsyncConvokit:
        """Return the same kit bound to another tenant. They share their connections: closing one closes both."""
        bound = copy(self)
        bound._scope = scope_for(self._scope, name)
        return bound

    async def conversations(
        self, *, subject: str | None = None, limit: int = 50, before: str | None = None
    ) -> Page[Conversation]:
        """Return the tenant's conversations, the last used first. `before` takes a page's `next`."""
        return await self._driver().run(reading.recent(self._scope, subject=subject, limit=limit, before=before))

    async def recover(self) -> list[Recovered]:
        """Close the tenant's turns whose worker is gone, keep what came of their replies, and say which they were.

        Nobody has to call this: whoever next sends to such a conversation does the same for it.
        """
        return await self._driver().run(recover.sweep(self._scope))

    async def close(self) -> None:
        """Close database and HTTP connections, after replies that finish in the background. A client passed in stays open."""
        await self._background.finished()
        await self._client.close()
        await self._store.close()

    async def __aenter__(self) -> AsyncConvokit:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncConvokit({self._scope.database.name!r}, tenant={self._scope.tenant!r})"

    def _driver(self) -> AsyncDriver:
        return AsyncDriver(self._store, self._client)


class AsyncChat:
    """A handle on one conversation. Cheap to make, safe to share between tasks."""

    def __init__(self, scope: Scope, target: Target, driver: Callable[[], AsyncDriver], background: Background) -> None:
        self._scope = scope
        self._target = target
        self._driver = driver
        self._background = background

    def __repr__(self) -> str:
        return f"AsyncChat({self._target.name!r})"

    @property
    def id(self) -> UUID | None:
        """The conversation's id; None until it is known (a key's id depends on the database)."""
        return self._target.id

    @property
    def key(self) -> str | None:
        """The key it was opened under."""
        return self._target.key

    async def send(
        self,
        content: str | Sequence[PartLike],
        *,
        context: Sequence[str] = (),
        model: str | Unset = UNSET,
        developer_prompt: str | Unset | None = UNSET,
        budget: Budget | Unset = UNSET,
        retry: Retry | Unset = UNSET,
        timeouts: Timeouts | Unset = UNSET,
        tools: Sequence[ToolLike] | Unset = UNSET,
        max_tool_rounds: int | Unset = UNSET,
        on_busy: OnBusy = "raise",
        idempotency_key: str | None = None,
        **params: Unpack[RequestParams],
    ) -> Reply:
        """Save the question, call the model, save and return its reply.

        `content` is text, or a list of content parts in the API's shape (text, image_url, input_audio, file). `tools` are typed
        functions, `Tool`s or the API's own dicts; the model's calls of functions are run, for at most `max_tool_rounds` rounds.
        `on_busy` says what to do while another turn is open on this branch: "raise", "wait" for it (`Timeouts.busy_s`), or
        "supersede" it; a superseded turn's reply is kept, off the path. Under an `idempotency_key` the same send may be
        repeated: it comes back to its turn, whose question is saved once, and has the same reply. `context` is retrieved text
        for this turn only: saved, sent right before the question, and not sent again with later turns.
        Raises: ConvokitError; `ModelError` for a failed call; `ParseFailed` when `response_format` was a type and did not come.
        """
        options = Options(
            model,
            developer_prompt,
            budget,
            retry,
            timeouts,
            tools=tools_of(tools),
            max_tool_rounds=max_tool_rounds,
            params=params,
        )
        return await self._driver().run(
            repeat.send(
                self._scope, self._target, content, context, options, idempotency_key, stream=False, on_busy=on_busy
            )
        )

    def stream(
        self,
        content: str | Sequence[PartLike],
        *,
        context: Sequence[str] = (),
        model: str | Unset = UNSET,
        developer_prompt: str | Unset | None = UNSET,
        budget: Budget | Unset = UNSET,
        retry: Retry | Unset = UNSET,
        timeouts: Timeouts | Unset = UNSET,
        tools: Sequence[ToolLike] | Unset = UNSET,
        max_tool_rounds: int | Unset = UNSET,
        on_busy: OnBusy = "raise",
        idempotency_key: str | None = None,
        on_disconnect: OnDisconnect = "stop",
        **params: Unpack[RequestParams],
    ) -> AsyncStream[Reply]:
        """Return the reply as it comes: a context manager over events.

        When its reader leaves early, `on_disconnect` says what becomes of the reply: "stop" it and keep what came, or "finish"
        it, in a task of its own, which `close` of the kit waits for.
        """
        options = Options(
            model,
            developer_prompt,
            budget,
            retry,
            timeouts,
            tools=tools_of(tools),
            max_tool_rounds=max_tool_rounds,
            params=params,
        )
        background = self._background if check_on_disconnect(on_disconnect) else None
        return AsyncStream(
            self._driver(),
            repeat.send(
                self._scope, self._target, content, context, options, idempotency_key, stream=True, on_busy=on_busy
            ),
            background=background,
        )

    async def resume(
        self,
        *,
        model: str | Unset = UNSET,
        retry: Retry | Unset = UNSET,
        timeouts: Timeouts | Unset = UNSET,
        tools: Sequence[ToolLike] | Unset = UNSET,
        on_busy: OnBusy = "raise",
        **params: Unpack[RequestParams],
    ) -> Reply:
        """Finish the last turn: ask again for the reply it is missing, without a second question, or return the one it has.

        The right move after a `ModelError`. Tool results that are recorded are not made again.
        """
        options = Options(model=model, retry=retry, timeouts=timeouts, tools=tools_of(tools), params=params)
        return await self._driver().run(
            repeat.resume(self._scope, self._target, options, stream=False, on_busy=on_busy)
        )

    def follow(self, turn: UUID | str | None = None, *, after: int = 0) -> AsyncStream[Reply]:
        """Attach to a reply that is on its way in any process, or over: its text, as a stream like any other.

        `turn` is the newest when not given; `after` is how many characters of its text the reader already has. Several may
        follow one turn; leaving changes nothing for it. Raises: Interrupted, with the turn's state as `code`, when it ends
        without a whole reply.
        """
        return AsyncStream(self._driver(), following.follow(self._scope, self._target, turn, after=after))

    async def cancel(self, turn: UUID | str | None = None) -> bool:
        """End the branch's open turn (or the one named), whoever runs it. Return whether it was open.

        What is stored of its reply is kept. Whoever runs it learns of it at the next piece: `Interrupted`, code "cancelled".
        """
        return await self._driver().run(following.cancel(self._scope, self._target, turn))

    async def turns(self, *, limit: int = 50, before: UUID | str | None = None) -> list[Turn]:
        """Return the newest `limit` turns of this chat, oldest first; `before` (a turn's id) goes further back."""
        return await self._driver().run(following.listing(self._scope, self._target, limit=limit, before=before))

    async def messages(
        self, *, limit: int = 50, before: str | int | None = None, passages: bool = False
    ) -> list[Message]:
        """Return the newest `limit` messages, oldest first; `before` (a message's id or seq) goes further back.

        `passages` lists what was sent as a turn's `context` as well.
        """
        flow = reading.listing(self._scope, self._target, limit=limit, before=before, passages=passages)
        return await self._driver().run(flow)

    async def pin(self, message: Message | str | int) -> None:
        """Have a message (or its id or seq) sent with every request of a path it lies on, also from before the window."""
        await self._driver().run(pinning.pin(self._scope, self._target, message, pinned=True))

    async def unpin(self, message: Message | str | int) -> None:
        """Undo `pin`. Nothing stored changes, neither way: only what is sent."""
        await self._driver().run(pinning.pin(self._scope, self._target, message, pinned=False))

    async def context(
        self,
        content: str | Sequence[PartLike] | None = None,
        *,
        context: Sequence[str] = (),
        model: str | Unset = UNSET,
        developer_prompt: str | Unset | None = UNSET,
        budget: Budget | Unset = UNSET,
        tools: Sequence[ToolLike] | Unset = UNSET,
        strategy: Strategy | Unset = UNSET,
        **params: Unpack[RequestParams],
    ) -> Context:
        """Return what `send` would send with these, and what it leaves out and why, with token counts. No call is made."""
        options = Options(model, developer_prompt, budget, tools=tools_of(tools), strategy=strategy, params=params)
        return await self._driver().run(reading.context(self._scope, self._target, content, context, options))

    async def verify(self) -> Verified:
        """Recompute the conversation's chain against its rows. Raises: ChainBroken naming the first place that differs."""
        return await self._driver().run(reading.over(self._scope, self._target, verify))
