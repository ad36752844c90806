# Generated from async_kit.py by scripts/unasync.py. Change that file, then run the script.
"""A kit: the conversations of one database and one server, synchronous."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from datetime import date, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TextIO, Unpack
from uuid import UUID

from convokit import audit, erasure, history, search, transfer, usage
from convokit.chat import Chat
from convokit.completion import recovery
from convokit.completion.options import NO_OPTIONS, Options, to_tools
from convokit.completion.state import require_writable
from convokit.context.strategy import Strategy
from convokit.context.validity import PartialPolicy
from convokit.domain.conversation import Conversation
from convokit.domain.paging import Page, Progress
from convokit.domain.params import RequestParams
from convokit.domain.profiles import Profile
from convokit.domain.removal import Receipt
from convokit.domain.stored_records import TurnRecord
from convokit.domain.turn import Recovered, Turn
from convokit.domain.verification import Checkpoint, VerifiedAll
from convokit.errors import ChainBroken, InvalidInput
from convokit.observers import Observer
from convokit.runtime.config import ApiKey, make_chat_ref, make_kit_state, with_tenant
from convokit.runtime.http_client import Client
from convokit.runtime.sync import Runtime
from convokit.search.query import SearchPage
from convokit.settings import UNSET, Budget, Limits, Retry, Summary, Timeouts, Unset
from convokit.store.engine import Durability
from convokit.tokens.counter import Counter
from convokit.tools.decorator import ToolLike
from convokit.transfer.models import Exported, ExportFormat, Imported, ImportFormat, ImportSource, OnError
from convokit.usage.models import Price, Prices, UsageBy, UsageReport
from convokit.wire.message_encoding import Unsupported
from convokit.wire.request import Mode


class Convokit:
    """Conversations in one database, answered by one Chat Completions server.

    Every argument but `database`, `base_url`, `api_key`, `tenant`, `limits`, `durability`, `search`, `read_only`,
    `http_client` and `observers` is a default that chats and calls may override.

    Args:
        database: A SQLAlchemy URL, or the path of a SQLite file. A PostgreSQL URL may name several servers, as libpq writes it:
            `postgresql://user@host1:5432,host2:5432/name`. Default: `CONVOKIT_DATABASE_URL`.
        model: The model of every call. Default: `CONVOKIT_MODEL`.
        developer_prompt: Instructions at the beginning of every request.
        base_url: The URL of the server, up to and including `/v1`. Default: `OPENAI_BASE_URL`, else OpenAI.
        api_key: The key, or a function that returns it for each call. Default: `OPENAI_API_KEY`, unless `base_url` is
            given here.
        tenant: The owner of every conversation of this kit.
        budget: The number of tokens that a request may have.
        retry: How often and after how many seconds a failed call is repeated.
        timeouts: The time limits of a turn, in seconds.
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
        read_only: Whether every method that writes raises `ReadOnly` at once. The database refuses writes too. It may be
            a file without write permission, or a hot standby.
        http_client: A client of your own, for example `HttpxClient(httpx.Client(proxy=...))`.
        observers: Objects that are told what happens in turns (`convokit.observers`).
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
        read_only: bool = False,
        http_client: Client | None = None,
        observers: Sequence[Observer] = (),
        **params: Unpack[RequestParams],
    ) -> None:
        own = (model, developer_prompt, budget, retry, timeouts, profile, counter, mode, partial, unsupported)
        options = Options(*own, to_tools(tools), max_tool_rounds, strategy, summary, params)
        url, self._state = make_kit_state(
            database,
            options,
            base_url=base_url,
            api_key=api_key,
            tenant=tenant,
            limits=limits,
            search=search,
            read_only=read_only,
            observers=observers,
        )
        name = self._state.database.name
        self._runtime = Runtime(url, name, durability, http_client, search=search, read_only=read_only)

    @property
    def read_only(self) -> bool:
        """Whether every method that writes raises `ReadOnly`."""
        return self._state.read_only

    def migrate(self) -> None:
        """Create or upgrade the tables. A SQLite file that does not exist is created. Many processes may call it at once."""
        require_writable(self._state, "migrate")
        self._runtime.migrate()

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
        """Return the conversation under `key`, or with `id`, or a new one. Nothing is read or written yet.

        A conversation is created by its first `send`, and resumed by every later one, in any process. Settings given
        here override the kit's. Model, developer prompt and parameters are stored with the conversation at its next
        turn; budget, tools, strategy and summary hold for this handle only.

        Subject, title and metadata are stored at the next turn or `append` if the conversation has none. They overwrite
        nothing; `chat.update` changes them.

        Args:
            key: The conversation's name in your application.
            id: The id of an existing conversation, in place of a key.
            branch: The number or name of a branch that `fork` made. Default: the main branch.
            subject: The person that the conversation belongs to.
            title: The title of a conversation without a title.
            metadata: The conversation's own data, which is never sent. They are stored if the conversation has no metadata
                at all. The API's metadata is `api_metadata`.

        Raises: InvalidInput, SettingsError. A later call raises NotFound for an id or branch that does not exist, and
        InvalidInput, before it writes, for a conversation of another subject.
        """
        options = Options(
            model, developer_prompt, budget, tools=to_tools(tools), strategy=strategy, summary=summary, params=params
        )
        ref = make_chat_ref(
            self._state, key, id, subject=subject, title=title, metadata=metadata, options=options, branch=branch
        )
        return Chat(self._state, ref, self._runtime)

    def tenant(self, name: str) -> Convokit:
        """Return the same kit for another tenant. The two share their connections: closing one closes both."""
        other = copy(self)
        other._state = with_tenant(self._state, name)
        return other

    def conversation(self, key: str | None = None, *, id: UUID | str | None = None) -> Conversation | None:
        """Return the conversation under `key`, or with `id`; None if there is none.

        Raises: InvalidInput for both or neither.
        """
        if key is None and id is None:
            raise InvalidInput("key", "pass a key or an id")
        ref = make_chat_ref(self._state, key, id, subject=None, title=None, metadata=None, options=NO_OPTIONS)
        return self._runtime.run(history.conversation_flows.read_conversation_flow(self._state, ref))

    def turn(self, turn: Turn | UUID | str) -> TurnRecord:
        """Return a turn of any conversation by its id, with its API calls and tool runs.

        `TurnRecord.conversation_id` names the conversation. Raises: InvalidInput, NotFound.
        """
        return self._runtime.run(history.records.find_turn_flow(self._state, turn))

    def conversations(
        self,
        *,
        subject: str | None = None,
        prefix: str | None = None,
        archived: bool | None = None,
        open: bool | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> Page[Conversation]:
        """Return a page of the tenant's conversations, the last used first, each with its last message as preview.

        Args:
            subject: Only conversations of this person.
            prefix: Only conversations whose keys begin with this text, in the order of their keys. No character has a
                special meaning.
            archived: True for archived conversations only, False for the others only.
            open: True for conversations with an open turn only, False for the others only.
            since: Only conversations used at or after this time (`updated_at`), which has a time zone.
            until: Only conversations used last before this time, which has a time zone.
            limit: The number of conversations on a page.
            before: The `next` of a page, for the page after it. The filters are repeated.

        Raises: InvalidInput.
        """
        flow = history.conversation_flows.list_conversations_flow(
            self._state,
            subject=subject,
            prefix=prefix,
            archived=archived,
            open=open,
            since=since,
            until=until,
            limit=limit,
            before=before,
        )
        return self._runtime.run(flow)

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
        summaries: bool = False,
        limit: int = 20,
        before: str | None = None,
    ) -> SearchPage:
        """Return a page of the tenant's messages that contain every word of `query`, the best first.

        Without `role`, `key` and `id`, the first page also has the `conversations` that the query names: by their id or
        a message's id, by the beginning of their key, or by the words of their title, at most 20. `subject` and
        `metadata` hold for them too; `since` and `until` are limits of their last use.

        Args:
            query: Words in any language. Words in double quotes must follow each other. There is no other syntax.
            role: Only messages of this role.
            key: Only the conversation under this key.
            id: Only the conversation with this id.
            subject: Only conversations of this person.
            since: Only messages written at or after this time, which has a time zone.
            until: Only messages written before this time, which has a time zone.
            metadata: Only conversations whose metadata have these values.
            summaries: Also rolling summaries, which the library had a model write. `Hit.is_summary` marks them.
            limit: The number of hits on a page.
            before: The `next` of a page, for the page after it.

        Raises: InvalidInput, NotFound, SettingsError for a kit with search=False.
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
            summaries=summaries,
            limit=limit,
            before=before,
        )
        return self._runtime.run(flow)

    def reindex(self, *, progress: Callable[[int], object] | None = None) -> int:
        """Index the tenant's messages and titles that are not indexed, and return their number.

        Not indexed are those written with search=False, and titles from before revision 0005. Each transaction indexes
        some hundred messages. An interrupted call is repeated, and continues.

        Args:
            progress: Called with the number indexed so far.
        """
        require_writable(self._state, "reindex")
        return self._runtime.run(search.flows.reindex_flow(self._state, progress))

    def usage(
        self,
        *,
        by: UsageBy = "day",
        since: datetime | date | None = None,
        until: datetime | date | None = None,
        key: str | None = None,
        conversations: Iterable[UUID | str] | None = None,
        subject: str | None = None,
        prices: Mapping[str, Price] | Prices | None = None,
    ) -> UsageReport:
        """Return the tokens and the costs of the tenant's calls, in US dollars where the price is known.

        Args:
            by: One row for each "day" (UTC), "model" or "conversation".
            since: Only calls started at or after this time. A date means its start in UTC.
            until: Only calls started before this time. A date means its start in UTC.
            key: Only the conversation under this key.
            conversations: Only the conversations with these ids or keys, at most 1,000. An id has precedence over an equal
                key.
            subject: Only conversations of this person.
            prices: Prices by model name. A cost that the server reported has precedence; the price lists of the extra
                `prices` come last.

        Raises: InvalidInput, NotFound.
        """
        flow = usage.flows.usage_flow(
            self._state,
            by=by,
            since=since,
            until=until,
            key=key,
            conversations=conversations,
            subject=subject,
            prices=prices,
        )
        return self._runtime.run(flow)

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
        """Write conversations to a file: all of the tenant, or those that are selected.

        Args:
            to: A path, or an open text file. A file at a path appears when it is complete.
            format: "jsonl" is lossless, and `import_` restores it. "openai" is fine-tuning data: the complete turns of each
                path. "markdown" is for people.
            key: Only the conversation under this key.
            conversations: Only the conversations with these ids.
            subject: Only conversations of this person.
            progress: Called with the number of messages written and the total, which is None if it is not known.

        Returns: The number of conversations and messages.

        Raises: NotFound, TransferFailed.
        """
        flow = transfer.flows.export_flow(
            self._state, to, format=format, key=key, conversations=conversations, subject=subject, progress=progress
        )
        return self._runtime.run(flow)

    def import_(
        self,
        source: ImportSource,
        *,
        format: ImportFormat = "jsonl",
        key: str | None = None,
        prefix: str | None = None,
        trusted: bool = False,
        dry_run: bool = False,
        on_error: OnError = "raise",
        progress: Progress | None = None,
    ) -> Imported:
        """Import the conversations of files, each in a transaction of its own.

        Conversations that exist already are not changed. So an interrupted import is simply repeated.

        Args:
            source: A path, several paths, or an open file. In a folder or ZIP archive, the files of the format are read.
            format: "jsonl" is an export of convokit. "chatgpt" and "claude" are data exports of these services, "openwebui"
                is one of Open WebUI. "messages" and "openai" have arrays of messages in the API's shape.
            key: The key of the imported conversation, for a file with one conversation and the formats "jsonl", "messages" and
                "openai".
            prefix: The text before the key that a conversation has in the file. Without `key`, `prefix` and `trusted`, keys
                are left out, except those that name the service, such as `chatgpt:<id>`.
            trusted: Whether the file may bring instructions, settings, keys and subjects. A trusted export of convokit is
                restored with its ids, rows and hashes. Pass it for your own files only.
            dry_run: Whether to write nothing, and only return what would be imported and left out.
            on_error: "raise" ends at the first bad record. "skip" skips bad records and reports them in the result.
            progress: Called with the amount read and the size of the files, which is None if it is not known.

        Raises: BadRecord, ConversationExists, TransferFailed.
        """
        if not dry_run:
            require_writable(self._state, "import_")
        flow = transfer.flows.import_flow(
            self._state,
            source,
            format=format,
            key=key,
            prefix=prefix,
            trusted=trusted,
            dry_run=dry_run,
            on_error=on_error,
            progress=progress,
        )
        return self._runtime.run(flow)

    def verify(
        self,
        *,
        against: Checkpoint | str | Path | None = None,
        key: str | bytes | None = None,
        broken: Callable[[ChainBroken], object] | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> VerifiedAll:
        """Verify every conversation of the tenant, as `chat.verify` does with one.

        Each conversation is read in a transaction of its own.

        Args:
            against: A checkpoint, or its file. A conversation that it lists and that does not exist counts as broken.
                Conversations that are newer than the checkpoint are verified without it. `moved_heads` lists the branches that
                no longer have the head of the checkpoint on their path.
            key: The key that the checkpoint was signed with.
            broken: Called with the error of each broken conversation. Default: the first one is raised.
            progress: Called with the number of conversations verified and the total.

        Raises: ChainBroken, CheckpointError.
        """
        flow = audit.flows.verify_all_flow(self._state, against=against, key=key, broken=broken, progress=progress)
        return self._runtime.run(flow)

    def checkpoint(self, *, key: str | bytes, to: str | Path | IO[str] | None = None) -> Checkpoint:
        """Return a signed list of the chain heads and branch heads of the tenant's conversations.

        Store it where nobody who can write the database can write. `verify(against=...)` then detects chains that were cut
        off, rewritten as a whole, or deleted, and lists the branch heads that moved away.

        Args:
            key: The secret of the signature (HMAC-SHA256), 16 bytes or more.
            to: The file to write, with one line for each conversation. Default: the result's `text`, in memory.

        Raises: CheckpointError if the file cannot be written, SettingsError.
        """
        return self._runtime.run(audit.flows.checkpoint_flow(self._state, key=key, to=to))

    def recover(self) -> list[Recovered]:
        """Close the tenant's turns whose worker is dead, keep the partial replies, and return the turns.

        Calling it is optional: the next `send` to such a conversation does the same for it.
        """
        require_writable(self._state, "recover")
        return self._runtime.run(recovery.recover_all_flow(self._state))

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
        """Erase many conversations of the tenant, as `chat.erase` does with one.

        Each conversation is a transaction of its own, the longest unused first. An interrupted call is simply repeated.
        Conversations with an open turn are skipped and listed in the receipt.

        Args:
            subject: Only conversations of this person.
            older_than: Only conversations that were not used for this time.
            reason: Kept in the history for good.
            author: Kept in the history for good.
            dry_run: Count what would be removed, and remove nothing.
            progress: Called with the number of conversations done and the total.

        Raises: InvalidInput without `subject` and `older_than`.
        """
        if not dry_run:
            require_writable(self._state, "erase")
        flow = erasure.flows.erase_many_flow(
            self._state,
            subject=subject,
            older_than=older_than,
            reason=reason,
            author=author,
            dry_run=dry_run,
            progress=progress,
        )
        return self._runtime.run(flow)

    def purge(
        self,
        *,
        older_than: timedelta | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> Receipt:
        """Delete all rows of the tenant's erased conversations, their hash chains too.

        Conversations that were written to after they were erased stay.

        Args:
            older_than: Only conversations that were not used for this time.
            dry_run: Count what would be deleted, and delete nothing.
            progress: Called with the number of conversations done and the total.
        """
        if not dry_run:
            require_writable(self._state, "purge")
        flow = erasure.flows.purge_flow(self._state, older_than=older_than, dry_run=dry_run, progress=progress)
        return self._runtime.run(flow)

    def close(self) -> None:
        """Close all connections, after replies that finish in the background. A client that was passed in stays open."""
        self._runtime.close()

    def __enter__(self) -> Convokit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._state.database.name!r}, tenant={self._state.tenant!r})"
