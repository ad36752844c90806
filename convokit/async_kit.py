"""A kit: the conversations of one database and one server, asynchronous."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from datetime import date, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TextIO, Unpack
from uuid import UUID

from convokit import audit, erasure, history, search, transfer, usage
from convokit.async_chat import AsyncChat
from convokit.completion import recovery
from convokit.completion.options import Options, to_tools
from convokit.context.strategy import Strategy
from convokit.context.validity import PartialPolicy
from convokit.domain.conversation import Conversation
from convokit.domain.paging import Page, Progress
from convokit.domain.params import RequestParams
from convokit.domain.profiles import Profile
from convokit.domain.removal import Receipt
from convokit.domain.turn import Recovered
from convokit.domain.verification import Checkpoint, VerifiedAll
from convokit.errors import ChainBroken
from convokit.runtime.aio import AsyncRuntime
from convokit.runtime.config import ApiKey, make_chat_ref, make_kit_state, with_tenant
from convokit.runtime.http_client import AsyncClient
from convokit.search.query import Hit
from convokit.settings import UNSET, Budget, Limits, Retry, Summary, Timeouts, Unset
from convokit.store.engine import Durability
from convokit.tokens.counter import Counter
from convokit.tools.decorator import ToolLike
from convokit.transfer.models import Exported, ExportFormat, Imported, ImportFormat, OnError
from convokit.usage.models import Price, Prices, UsageBy, UsageReport
from convokit.wire.messages import Unsupported
from convokit.wire.request import Mode


class AsyncConvokit:
    """Conversations in one database, answered by one Chat Completions server.

    Every argument but `database`, `base_url`, `api_key`, `tenant`, `limits`, `durability`, `search` and `http_client`
    is a default that chats and calls may override.

    Args:
        database: A SQLAlchemy URL, or the path of a SQLite file. Default: `CONVOKIT_DATABASE_URL`.
        model: The model of every call. Default: `CONVOKIT_MODEL`.
        developer_prompt: Instructions at the beginning of every request.
        base_url: The URL of the server, up to and including `/v1`. Default: `OPENAI_BASE_URL`, else OpenAI.
        api_key: The key, or a function that returns it for each call. Default: `OPENAI_API_KEY`, unless `base_url` is
            given here.
        tenant: The owner of every conversation of this kit.
        budget: How many tokens a request may have.
        retry: When a failed call is repeated.
        timeouts: How long to wait for what, in seconds.
        limits: The largest inputs that are accepted, in bytes or characters.
        profile: A provider's name ("vllm", "ollama" …) or a `Profile`. Default: found by the host.
        counter: Counts tokens. Default: the model's exact vocabulary if it is installed, else an estimate.
        mode: What happens to parameters that the model rejects: "drop" and report them, "strict" raises, "pass" sends them.
        partial: Whether replies that broke off are sent again: "include", "mark" or "leave_out".
        unsupported: What happens to content parts that the server cannot take: "raise", or send a "placeholder".
        tools: Typed functions, `Tool`s or the API's own dicts that every call offers.
        max_tool_rounds: The maximum number of rounds in which tool calls are run (8); 0 runs none.
        strategy: Chooses the history that is sent. Default: `StepWindow`.
        summary: Summarizes messages that fall out of the window. Default: no summaries.
        durability: "full" waits for the disk at every commit. "fast" does not: no crash of a process loses anything,
            but a power cut may lose the last seconds.
        search: Whether messages enter the search index.
        http_client: A client of your own, for example `AsyncHttpxClient(httpx.AsyncClient(proxy=...))`.
        params: Request parameters of every call, such as `temperature`.

    Raises: SettingsError, InvalidInput.
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
        summary: Summary | Unset | None = UNSET,
        durability: Durability = "full",
        search: bool = True,
        http_client: AsyncClient | None = None,
        **params: Unpack[RequestParams],
    ) -> None:
        own = (model, developer_prompt, budget, retry, timeouts, profile, counter, mode, partial, unsupported)
        options = Options(*own, to_tools(tools), max_tool_rounds, strategy, summary, params)
        url, self._state = make_kit_state(
            database, options, base_url=base_url, api_key=api_key, tenant=tenant, limits=limits, search=search
        )
        name = self._state.database.name
        self._runtime = AsyncRuntime(url, name, durability, http_client, search=search)

    async def migrate(self) -> None:
        """Bring the database's tables up to date; create a SQLite file that does not exist. Safe from many processes
        at once.
        """
        await self._runtime.migrate()

    def chat(
        self,
        key: str | None = None,
        *,
        id: UUID | str | None = None,
        branch: int | str = 0,
        subject: str | None = None,
        title: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        model: str | Unset = UNSET,
        developer_prompt: str | Unset | None = UNSET,
        budget: Budget | Unset = UNSET,
        tools: Sequence[ToolLike] | Unset = UNSET,
        strategy: Strategy | Unset = UNSET,
        summary: Summary | Unset | None = UNSET,
        **params: Unpack[RequestParams],
    ) -> AsyncChat:
        """Return the conversation under `key`, or with `id`, or a new one. Nothing is read or written yet.

        A conversation is created by its first `send`, and resumed by every later one, in any process. Settings given
        here override the kit's. Model, developer prompt, parameters, subject, title and metadata are stored with the
        conversation at its next turn; budget, tools, strategy and summary hold for this handle only.

        Args:
            key: The conversation's name in your application.
            id: The id of an existing conversation, in place of a key.
            branch: The number or name of a branch that `fork` made. Default: the main branch.
            subject: The person that the conversation belongs to.

        Raises: InvalidInput, SettingsError. A later call raises NotFound for an id or branch that does not exist.
        """
        options = Options(
            model, developer_prompt, budget, tools=to_tools(tools), strategy=strategy, summary=summary, params=params
        )
        ref = make_chat_ref(
            self._state, key, id, subject=subject, title=title, metadata=metadata, options=options, branch=branch
        )
        return AsyncChat(self._state, ref, self._runtime)

    def tenant(self, name: str) -> AsyncConvokit:
        """Return the same kit for another tenant. The two share their connections: closing one closes both."""
        other = copy(self)
        other._state = with_tenant(self._state, name)
        return other

    async def conversations(
        self, *, subject: str | None = None, limit: int = 50, before: str | None = None
    ) -> Page[Conversation]:
        """Return a page of the tenant's conversations, the last used first. `before` takes the `next` of a page."""
        flow = history.pages.list_conversations_flow(self._state, subject=subject, limit=limit, before=before)
        return await self._runtime.run(flow)

    async def search(
        self,
        query: str,
        *,
        role: str | None = None,
        key: str | None = None,
        id: UUID | str | None = None,
        subject: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        limit: int = 20,
        before: str | None = None,
    ) -> Page[Hit]:
        """Return the tenant's messages that hold every word of `query`, the best first.

        Words in double quotes must follow each other; nothing else in a query is syntax. `key` or `id` names one conversation,
        `subject` a person's, `metadata` those whose metadata have these values; `since` and `until` (not included) are times
        with a zone. `before` takes a page's `next`. Raises: InvalidInput, NotFound, SettingsError for a kit with search=False.
        """
        flow = search.flows.search_flow(
            self._state,
            query,
            role=role,
            key=key,
            id=id,
            subject=subject,
            since=since,
            until=until,
            metadata=metadata,
            limit=limit,
            before=before,
        )
        return await self._runtime.run(flow)

    async def reindex(self, *, progress: Callable[[int], object] | None = None) -> int:
        """Enter the tenant's messages that were written with search=False into the search index; return how many there were.

        Some hundred at a time, each lot in a transaction: what was interrupted goes on where it was. `progress` is called with
        the number so far.
        """
        return await self._runtime.run(search.flows.reindex_flow(self._state, progress))

    async def usage(
        self,
        *,
        by: UsageBy = "day",
        since: datetime | date | None = None,
        until: datetime | date | None = None,
        key: str | None = None,
        subject: str | None = None,
        prices: Mapping[str, Price] | Prices | None = None,
    ) -> UsageReport:
        """Return what the tenant's calls took and cost: tokens, and US dollars where the price is known.

        `by` is `"day"` (UTC), `"model"` or `"conversation"`; `since` and `until` (not included) bound when calls began, a date
        meaning its beginning in UTC; `key` keeps to one conversation, `subject` to a person's. What the server said a call cost
        counts first, then `prices` by model name, then the lists of the `prices` extra. Raises: InvalidInput, NotFound.
        """
        flow = usage.report.usage_flow(
            self._state, by=by, since=since, until=until, key=key, subject=subject, prices=prices
        )
        return await self._runtime.run(flow)

    async def export(
        self,
        to: str | Path | TextIO,
        *,
        format: ExportFormat = "jsonl",
        key: str | None = None,
        conversations: Iterable[UUID | str] | None = None,
        subject: str | None = None,
        progress: Progress | None = None,
    ) -> Exported:
        """Write conversations to a file, and return how many: the one under `key`, these, one person's, or all of the tenant's.

        `to` is a path, where the file appears when it is whole, or an open text file. `format`: "jsonl" is lossless (`import_`
        restores it), "openai" is fine-tuning data (the complete turns of each path), "markdown" is for people. `progress` is
        called with the messages done, and all there are if that is known. Raises: NotFound, TransferFailed.
        """
        flow = transfer.flows.export_flow(
            self._state, to, format=format, key=key, conversations=conversations, subject=subject, progress=progress
        )
        return await self._runtime.run(flow)

    async def import_(
        self,
        source: str | Path | IO[Any],
        *,
        format: ImportFormat = "jsonl",
        key: str | None = None,
        on_error: OnError = "raise",
        progress: Progress | None = None,
    ) -> Imported:
        """Write the conversations of a file, one transaction each, and return what became of them.

        `source` is a path or an open file. `format`: "jsonl" is an export of convokit's, "chatgpt" ChatGPT's
        `conversations.json`, "messages" arrays in the API's shape (one may be named by `key`). What is there already is left
        alone, so an import that broke off is simply repeated. A bad record raises, or is skipped and reported with
        `on_error="skip"`. `progress` is called with how much of the file is read, and its size if that is known.
        Raises: BadRecord, ConversationExists, TransferFailed.
        """
        flow = transfer.flows.import_flow(
            self._state, source, format=format, key=key, on_error=on_error, progress=progress
        )
        return await self._runtime.run(flow)

    async def verify(
        self,
        *,
        against: Checkpoint | str | Path | None = None,
        key: str | bytes | None = None,
        broken: Callable[[ChainBroken], object] | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> VerifiedAll:
        """Verify every conversation of the tenant, as `chat.verify` does one, each from a snapshot of its own.

        Raises ChainBroken at the first one that is not whole, or, with `broken`, calls that with each of them and goes on.
        Against a checkpoint, a conversation that it knows and that is not there is one of these; later ones are no fault.
        `progress` is called with how many are done, and how many there are. Raises: CheckpointError.
        """
        flow = audit.flows.verify_all_flow(self._state, against=against, key=key, broken=broken, progress=progress)
        return await self._runtime.run(flow)

    async def checkpoint(self, *, key: str | bytes, to: str | Path | IO[str] | None = None) -> Checkpoint:
        """Return a list of the heads of the tenant's conversations, signed with `key` (HMAC-SHA256; 16 bytes or more).

        Kept where nobody who can write the database can write, it shows later what no chain can show alone. `to` is the file
        it is written to, a line for each conversation; else it is kept in memory, as the result's `text`. Raises:
        CheckpointError when the file cannot be written, SettingsError.
        """
        return await self._runtime.run(audit.flows.checkpoint_flow(self._state, key=key, to=to))

    async def recover(self) -> list[Recovered]:
        """Close the tenant's turns whose worker is gone, keep what came of their replies, and say which they were.

        Nobody has to call this: whoever next sends to such a conversation does the same for it.
        """
        return await self._runtime.run(recovery.recover_all_flow(self._state))

    async def erase(
        self,
        *,
        subject: str | None = None,
        older_than: timedelta | None = None,
        reason: str | None = None,
        author: str | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> Receipt:
        """Erase the tenant's conversations of a `subject`, or those not used for `older_than`, or both at once; as
        `Chat.erase` does, each in a transaction of its own, the longest unused first.

        Killed in between, it is simply run again. Conversations with an open turn are `skipped`, and named in the receipt.
        `progress` is called with how many are done, and how many there are. Raises: InvalidInput when neither is given.
        """
        flow = erasure.flows.erase_many_flow(
            self._state,
            subject=subject,
            older_than=older_than,
            reason=reason,
            author=author,
            dry_run=dry_run,
            progress=progress,
        )
        return await self._runtime.run(flow)

    async def purge(
        self,
        *,
        older_than: timedelta | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> Receipt:
        """Delete the tenant's erased conversations altogether: rows, tombstones, chains. Nothing shows that they were there.

        Those that were written to after they were erased stay. `older_than` leaves those that were in use more recently.
        """
        flow = erasure.flows.purge_flow(self._state, older_than=older_than, dry_run=dry_run, progress=progress)
        return await self._runtime.run(flow)

    async def close(self) -> None:
        """Close all connections, after replies that finish in the background. A client that was passed in stays open."""
        await self._runtime.close()

    async def __aenter__(self) -> AsyncConvokit:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._state.database.name!r}, tenant={self._state.tenant!r})"
