"""The synchronous face: `Convokit`. Thin: every method runs one flow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from datetime import date, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TextIO, Unpack
from uuid import UUID

from convokit import audit, erasure, search, transfer, usage
from convokit.chat import Chat
from convokit.completion import recovery
from convokit.completion.options import Options, to_tools
from convokit.context.strategy import Strategy
from convokit.context.validity import PartialPolicy
from convokit.domain.conversation import Checkpoint, Conversation, Page, VerifiedAll
from convokit.domain.paging import Progress
from convokit.domain.params import RequestParams
from convokit.domain.profiles import Profile
from convokit.domain.removal import Receipt
from convokit.domain.turn import Recovered
from convokit.errors import ChainBroken
from convokit.history import queries
from convokit.runtime.config import ApiKey, scope_for, scope_of, target_of
from convokit.runtime.http_client import Client, HttpxClient, checked_client
from convokit.runtime.sync import SyncDriver, SyncStore, migrate_once
from convokit.search.query import Hit
from convokit.settings import UNSET, Budget, Limits, Retry, Summary, Timeouts, Unset
from convokit.store.engine import Durability, open_engine
from convokit.tokens.counter import Counter
from convokit.tools.decorator import ToolLike
from convokit.transfer.models import Exported, ExportFormat, Imported, ImportFormat, OnError
from convokit.usage.models import Price, Prices, UsageBy, UsageReport
from convokit.wire.messages import Unsupported
from convokit.wire.request import Mode


class Convokit:
    """Durable conversations in one database, answered by one Chat Completions server.

    `database` is a SQLAlchemy URL or the path of a SQLite file (default: `CONVOKIT_DATABASE_URL`). `model` has no default
    (or `CONVOKIT_MODEL`). `base_url` is the server's (default: `OPENAI_BASE_URL`, else OpenAI), `api_key` a string or a
    function that returns one (default: `OPENAI_API_KEY`, unless `base_url` is given here). `tenant` binds everything this kit
    does. `profile` is a provider's name (`"vllm"`, `"ollama"` …) or a `Profile`, found by host when not given. `mode` says what
    happens to parameters the model rejects: `"drop"` and report, `"strict"` raises, `"pass"` sends. `durability="fast"` waits
    for no disk at a commit: a power cut may take the last seconds. `search=False` enters nothing into the search index.
    Everything else is a default that chats and calls may override. Raises: SettingsError.
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
        http_client: Client | None = None,
        **params: Unpack[RequestParams],
    ) -> None:
        own = (model, developer_prompt, budget, retry, timeouts, profile, counter, mode, partial, unsupported)
        options = Options(*own, to_tools(tools), max_tool_rounds, strategy, summary, params)
        self._url, self._scope = scope_of(
            database, options, base_url=base_url, api_key=api_key, tenant=tenant, limits=limits, search=search
        )
        self._store = SyncStore(open_engine(self._url, durability=durability, search=search), self._scope.database.name)
        self._client = checked_client(http_client) or HttpxClient()

    def migrate(self) -> None:
        """Bring the database's tables up to date, creating a SQLite file if it is not there. Safe from many processes."""
        migrate_once(self._url, self._scope.database.name)

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
    ) -> Chat:
        """Return a handle on the conversation under `key` (or with `id`, or a new one). Nothing is read or written yet.

        It is created by its first `send` and resumed ever after, by any process. `subject` is the person it belongs to.
        `branch` is the number or name of a branch that `fork` made: NotFound at the first use if there is none.
        What is set here beats the kit's own settings. Model, developer prompt, parameters, subject, title and metadata are
        stored with the conversation at its next turn; budget, tools, strategy and summary hold for this handle.
        """
        options = Options(
            model, developer_prompt, budget, tools=to_tools(tools), strategy=strategy, summary=summary, params=params
        )
        target = target_of(
            self._scope, key, id, subject=subject, title=title, metadata=metadata, options=options, branch=branch
        )
        return Chat(self._scope, target, self._driver)

    def tenant(self, name: str) -> Convokit:
        """Return the same kit bound to another tenant. They share their connections: closing one closes both."""
        bound = copy(self)
        bound._scope = scope_for(self._scope, name)
        return bound

    def conversations(
        self, *, subject: str | None = None, limit: int = 50, before: str | None = None
    ) -> Page[Conversation]:
        """Return the tenant's conversations, the last used first. `before` takes a page's `next`."""
        return self._driver().run(queries.recent(self._scope, subject=subject, limit=limit, before=before))

    def search(
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
            self._scope,
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
        return self._driver().run(flow)

    def reindex(self, *, progress: Callable[[int], object] | None = None) -> int:
        """Enter the tenant's messages that were written with search=False into the search index; return how many there were.

        Some hundred at a time, each lot in a transaction: what was interrupted goes on where it was. `progress` is called with
        the number so far.
        """
        return self._driver().run(search.flows.reindex_flow(self._scope, progress))

    def usage(
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
        answer = usage.report.question(
            self._scope.limits, by=by, since=since, until=until, key=key, subject=subject, prices=prices
        )
        return self._driver().run(queries.of_tenant(self._scope, answer))

    def export(
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
        writer = transfer.export.Writer(to, format)
        flow = transfer.flows.export(
            self._scope, writer, key=key, conversations=conversations, subject=subject, progress=progress
        )
        return self._driver().run(flow)

    def import_(
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
        counter = recovery.resolve_counter(self._scope, None)
        found = transfer.flows.reader(source, format, key=key, limits=self._scope.limits, counter=counter)
        return self._driver().run(transfer.flows.import_(self._scope, found, on_error=on_error, progress=progress))

    def verify(
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
        flow = audit.flows.every(
            self._scope, audit.verify.verify, audit.checkpoint.known(against, key), broken, progress
        )
        return self._driver().run(flow)

    def checkpoint(self, *, key: str | bytes, to: str | Path | IO[str] | None = None) -> Checkpoint:
        """Return a list of the heads of the tenant's conversations, signed with `key` (HMAC-SHA256; 16 bytes or more).

        Kept where nobody who can write the database can write, it shows later what no chain can show alone. `to` is the file
        it is written to, a line for each conversation; else it is kept in memory, as the result's `text`. Raises:
        CheckpointError when the file cannot be written, SettingsError.
        """
        return self._driver().run(audit.flows.checkpoint(self._scope, audit.checkpoint.Signing(key, to)))

    def recover(self) -> list[Recovered]:
        """Close the tenant's turns whose worker is gone, keep what came of their replies, and say which they were.

        Nobody has to call this: whoever next sends to such a conversation does the same for it.
        """
        return self._driver().run(recovery.recover_all_flow(self._scope))

    def erase(
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
        flow = erasure.flows.erase_many(
            self._scope,
            erasure.flows.Work(erasure.erase.erase, erasure.erase.check),
            subject=subject,
            older_than=older_than,
            reason=reason,
            author=author,
            dry_run=dry_run,
            progress=progress,
        )
        return self._driver().run(flow)

    def purge(
        self,
        *,
        older_than: timedelta | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> Receipt:
        """Delete the tenant's erased conversations altogether: rows, tombstones, chains. Nothing shows that they were there.

        Those that were written to after they were erased stay. `older_than` leaves those that were in use more recently.
        """
        flow = erasure.flows.purge(self._scope, older_than=older_than, dry_run=dry_run, progress=progress)
        return self._driver().run(flow)

    def close(self) -> None:
        """Close database and HTTP connections. A client that was passed in stays open."""
        self._client.close()
        self._store.close()

    def __enter__(self) -> Convokit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Convokit({self._scope.database.name!r}, tenant={self._scope.tenant!r})"

    def _driver(self) -> SyncDriver:
        return SyncDriver(self._store, self._client)
