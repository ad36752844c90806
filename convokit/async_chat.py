"""A conversation, asynchronous. Every method runs one flow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack
from uuid import UUID

from convokit import audit, erasure, history
from convokit.completion import follow, preview, recovery, resume
from convokit.completion.on_busy import OnBusy
from convokit.completion.options import CallOptions, PartLike, to_options
from convokit.completion.saved_reply import Parsed, Reply, ResponseFormat, TurnLike
from convokit.completion.send import SendRequest, send_flow
from convokit.completion.state import ChatRef, KitState, require_writable
from convokit.completion.tool_results import list_open_calls_flow
from convokit.context.report import Context
from convokit.domain.conversation import Branch, Conversation
from convokit.domain.history import History, Run
from convokit.domain.message import Message, NewMessage
from convokit.domain.past_window import PastWindow
from convokit.domain.removal import Receipt
from convokit.domain.stored_records import ChainEntry, StoredBlob, SummaryRecord, TurnRecord
from convokit.domain.stored_request import Diff, Replay
from convokit.domain.turn import Turn
from convokit.domain.verification import Checkpoint, Verified
from convokit.runtime.aio import AsyncRuntime, AsyncStream
from convokit.runtime.config import OnDisconnect, make_chat_ref
from convokit.settings import UNSET, Unset


class AsyncChat:
    """A conversation, or one of its branches. Cheap to make, and safe to share between tasks and threads."""

    def __init__(self, state: KitState, ref: ChatRef, runtime: AsyncRuntime) -> None:
        self._state = state
        self._ref = ref
        self._runtime = runtime

    def __repr__(self) -> str:
        branch = f", branch={self.branch!r}" if self.branch else ""
        return f"{type(self).__name__}({self._ref.name!r}{branch})"

    @property
    def id(self) -> UUID | None:
        """The conversation's id; None until the first call, because the id of a key depends on the database."""
        return self._ref.id

    @property
    def key(self) -> str | None:
        """The key that the conversation was opened under."""
        return self._ref.key

    @property
    def branch(self) -> int | str:
        """The number of the branch; before the first call, the name that it was opened by. 0 is the main branch."""
        return self._ref.branch if self._ref.unresolved_branch is None else self._ref.unresolved_branch

    async def send(
        self,
        content: str | Sequence[PartLike] | None = None,
        *,
        tool_results: Mapping[str, Any] | None = None,
        passages: Sequence[str] = (),
        after: Message | str | int | None = None,
        expect: Message | str | int | None = None,
        messages: Sequence[Mapping[str, Any] | NewMessage] | None = None,
        turn_metadata: Any = None,
        on_busy: OnBusy = "raise",
        idempotency_key: str | None = None,
        response_format: ResponseFormat[Parsed] = UNSET,
        **options: Unpack[CallOptions],
    ) -> Reply[Parsed]:
        """Save the question or tool results, call the model, and save and return its reply.

        Args:
            content: Text, or a list of content parts in the API's shape (text, image_url, input_audio, file).
            tool_results: The results of open calls (`Reply.open_calls`), by the calls' ids. A result is text, a list of
                content parts, or a value that becomes JSON. Without `content`, every open call needs a result. With it,
                the results stand before the question, and calls without a result are left out of the request. The same
                results again return the same reply.
            passages: Retrieved texts for this question only. They are saved, sent right before the question, and not
                sent again with later questions.
            after: The message (or its id or seq) that the new messages follow; 0 is before the first message. This
                chat's branch moves there. Default: the end of the branch.
            expect: The last message (or its id or seq) that the caller read, or 0. If the branch ends otherwise,
                `HeadMoved` is raised and nothing is written. It is checked after waiting for another turn.
            messages: Messages that are written before the question, as dicts in the API's shape or `NewMessage`. They
                are part of the conversation. Tool results come right behind the calls that they answer.
            turn_metadata: A JSON value that is kept with the turn and returned as `Turn.metadata`.
            on_busy: What to do while another turn is open on this branch: "raise", "wait" for it (`Timeouts.busy_s`),
                or "supersede" it. The reply of a superseded turn is kept, off the path.
            idempotency_key: Makes the send repeatable. A repeat, from any process, returns the reply of the same turn;
                the question is saved once.
            response_format: A pydantic model, dataclass or TypedDict that `Reply.parsed` is an instance of, a `TypeAdapter`,
                or the API's own object as a dict. None overrides the chat's and sends none.
            options: Settings of this call and request parameters. `tools` are typed functions, `Tool`s or the API's own
                dicts; the functions that the model calls are run, for at most `max_tool_rounds` rounds. `metadata` is
                the API's own and needs `store=True`. `window="exact"` with `start` (a seq, default 1) sends the path
                from there, whole.

        Raises: ConvokitError; ModelError for a failed call; HeadMoved; ParseFailed when `response_format` is a type and
        the reply does not fit.
        """
        require_writable(self._state, "send")
        request = SendRequest(
            content,
            passages,
            to_options(options, response_format),
            on_busy,
            idempotency_key,
            tool_results,
            after,
            expect,
            messages,
            turn_metadata,
        )
        return await self._runtime.run(send_flow(self._state, self._ref, request, stream=False))

    def stream(
        self,
        content: str | Sequence[PartLike] | None = None,
        *,
        tool_results: Mapping[str, Any] | None = None,
        passages: Sequence[str] = (),
        after: Message | str | int | None = None,
        expect: Message | str | int | None = None,
        messages: Sequence[Mapping[str, Any] | NewMessage] | None = None,
        turn_metadata: Any = None,
        on_busy: OnBusy = "raise",
        idempotency_key: str | None = None,
        on_disconnect: OnDisconnect = "stop",
        response_format: ResponseFormat[Parsed] = UNSET,
        **options: Unpack[CallOptions],
    ) -> AsyncStream[Reply[Parsed]]:
        """Return the reply as it comes: a context manager over events.

        Args:
            on_disconnect: What happens to the reply when its reader leaves early. "stop" ends it and keeps the text
                that came. "finish" brings it to its end: in the async API in a task of its own, which the kit's `close`
                waits for; in the sync API before leaving returns.

        The other arguments are those of `send`.
        """
        require_writable(self._state, "stream")
        request = SendRequest(
            content,
            passages,
            to_options(options, response_format),
            on_busy,
            idempotency_key,
            tool_results,
            after,
            expect,
            messages,
            turn_metadata,
        )
        return self._runtime.open_stream(send_flow(self._state, self._ref, request, stream=True), on_disconnect)

    async def resume(
        self,
        *,
        on_busy: OnBusy = "raise",
        response_format: ResponseFormat[Parsed] = UNSET,
        **options: Unpack[CallOptions],
    ) -> Reply[Parsed]:
        """Finish the last turn: return its reply, or ask for it again without a second question.

        Use it after a `ModelError`. Tool results that are saved are not made again.
        """
        require_writable(self._state, "resume")
        flow = resume.resume_flow(self._state, self._ref, to_options(options, response_format), on_busy=on_busy)
        return await self._runtime.run(flow)

    async def regenerate(
        self,
        message: Message | str | int | None = None,
        *,
        turn_metadata: Any = None,
        on_busy: OnBusy = "raise",
        idempotency_key: str | None = None,
        response_format: ResponseFormat[Parsed] = UNSET,
        **options: Unpack[CallOptions],
    ) -> Reply[Parsed]:
        """Make another reply to a question, beside the old one.

        The question is sent again with its passages; it is not saved again. Tools run anew. Meanwhile, and if the call
        fails, this chat's branch ends with the question: `resume` asks again, `checkout` goes back to the old reply.

        Args:
            message: The question or its reply, as a message, id or seq. Default: the last question.
            idempotency_key: Makes the call repeatable. A repeat, from any process, returns the reply of the same turn.

        The other arguments are those of `send`. Raises: InvalidInput where there is no question, NotFound, and what
        `send` raises.
        """
        require_writable(self._state, "regenerate")
        given = to_options(options, response_format)
        request = SendRequest(None, (), given, on_busy, idempotency_key, turn_metadata=turn_metadata)
        flow = history.branches.regenerate_flow(self._state, self._ref, message, request, stream=False)
        return await self._runtime.run(flow)

    async def edit(
        self,
        message: Message | str | int,
        content: str | Sequence[PartLike],
        *,
        passages: Sequence[str] = (),
        on_busy: OnBusy = "raise",
        idempotency_key: str | None = None,
        response_format: ResponseFormat[Parsed] = UNSET,
        **options: Unpack[CallOptions],
    ) -> Reply[Parsed]:
        """Ask a question in place of another one. This chat's branch continues from the new question.

        The old question and everything after it stay as they are; `checkout` goes back.

        Args:
            message: The question to replace, as a message, id or seq, on any branch; the first question too.

        The other arguments are those of `send`. Raises: InvalidInput for a message that is not a question, NotFound,
        and what `send` raises.
        """
        require_writable(self._state, "edit")
        request = SendRequest(content, passages, to_options(options, response_format), on_busy, idempotency_key)
        flow = history.branches.edit_flow(self._state, self._ref, message, request, stream=False)
        return await self._runtime.run(flow)

    def stream_regenerate(
        self,
        message: Message | str | int | None = None,
        *,
        turn_metadata: Any = None,
        on_busy: OnBusy = "raise",
        idempotency_key: str | None = None,
        on_disconnect: OnDisconnect = "stop",
        response_format: ResponseFormat[Parsed] = UNSET,
        **options: Unpack[CallOptions],
    ) -> AsyncStream[Reply[Parsed]]:
        """Return another reply as it comes: `regenerate` as a stream."""
        require_writable(self._state, "stream_regenerate")
        given = to_options(options, response_format)
        request = SendRequest(None, (), given, on_busy, idempotency_key, turn_metadata=turn_metadata)
        flow = history.branches.regenerate_flow(self._state, self._ref, message, request, stream=True)
        return self._runtime.open_stream(flow, on_disconnect)

    def stream_edit(
        self,
        message: Message | str | int,
        content: str | Sequence[PartLike],
        *,
        passages: Sequence[str] = (),
        on_busy: OnBusy = "raise",
        idempotency_key: str | None = None,
        on_disconnect: OnDisconnect = "stop",
        response_format: ResponseFormat[Parsed] = UNSET,
        **options: Unpack[CallOptions],
    ) -> AsyncStream[Reply[Parsed]]:
        """Return the reply to an edited question as it comes: `edit` as a stream."""
        require_writable(self._state, "stream_edit")
        request = SendRequest(content, passages, to_options(options, response_format), on_busy, idempotency_key)
        flow = history.branches.edit_flow(self._state, self._ref, message, request, stream=True)
        return self._runtime.open_stream(flow, on_disconnect)

    def follow(self, turn: UUID | str | None = None, *, after: int = 0) -> AsyncStream[Reply]:
        """Return the reply of a turn that any process runs, as a stream. Several readers may follow one turn.

        The events are those of `stream` with text, reasoning, refusals and tool calls of the first choice, in larger
        chunks.

        Args:
            turn: The turn's id. Default: the newest turn.
            after: The number of characters of its text that the reader has already. Chunks of other kinds that came
                before that character are not repeated.

        Leaving the stream changes nothing for the turn. Raises: Interrupted, with the turn's state as `code`, when the
        turn ends without a whole reply. A read-only kit cannot close the turn of a dead worker: its code is "open" then.
        """
        return self._runtime.open_stream(follow.follow_flow(self._state, self._ref, turn, after=after))

    async def cancel(self, turn: UUID | str | None = None) -> bool:
        """End an open turn of any process, and return whether it was open. The stored part of its reply is kept.

        Its worker notices at the next chunk and raises `Interrupted` with code "cancelled".

        Args:
            turn: The turn's id. Default: the open turn of this branch.
        """
        require_writable(self._state, "cancel")
        return await self._runtime.run(recovery.cancel_flow(self._state, self._ref, turn))

    async def open_calls(self) -> list[dict[str, Any]]:
        """Return the tool calls at the end of this branch that wait for `send(tool_results=...)`, in the API's shape.

        Calls of Python functions that a turn runs, or was running when its process died, are not among them.
        """
        return await self._runtime.run(list_open_calls_flow(self._state, self._ref))

    async def fork(self, after: Message | str | int | None = None, *, name: str | None = None) -> AsyncChat:
        """Make a branch that ends with the message `after`, and return a chat on it. Nothing is copied.

        Both branches can answer at the same time, and neither moves the other.

        Args:
            after: A message, its id or its seq; 0 is before the first message. Default: the end of this chat's branch.
            name: A name that is unique in the conversation. `kit.chat(key, branch=...)` opens a branch by name or number.

        Raises: NotFound, InvalidInput for a name that is taken.
        """
        require_writable(self._state, "fork")
        ref = await self._runtime.run(history.branches.fork_flow(self._state, self._ref, after, name))
        return AsyncChat(self._state, ref, self._runtime)

    async def append(
        self,
        messages: Sequence[NewMessage | Mapping[str, Any]],
        *,
        after: Message | str | int | None = None,
        expect: Message | str | int | None = None,
        on_busy: OnBusy = "raise",
    ) -> list[Message]:
        """Write messages in one transaction, and return them. No model is called. `resume` answers an appended question.

        Args:
            messages: `NewMessage`s, or dicts in the API's shape (role, content, tool_calls, tool_call_id, name,
                created_at, kind, item; other keys are left out). An empty list creates an empty conversation; with
                `after`, it goes back to a message.
            after: The message that they follow, on any branch, as a message, id or seq: the branch's head moves there
                first. 0 is before the first message. Default: the end of this chat's branch.
            expect: The last message that you read, or 0 if there was none. If the branch ends with another message,
                nothing is written. A repeat after a lost answer finds its own messages there and returns them.
                Default: nothing is checked, and a repeat writes again.
            on_busy: What to do while a turn is open on this branch: "raise", "wait" for it, or "supersede" it. `expect`
                is checked afterwards.

        Raises: HeadMoved if the branch does not end with `expect`; ConversationBusy, InvalidInput, TooLarge, NotFound.

        Example:
            chat.append([NewMessage("assistant", "Hello. How can I help?")], expect=0)
        """
        require_writable(self._state, "append")
        flow = history.append.append_flow(self._state, self._ref, messages, after=after, expect=expect, on_busy=on_busy)
        return await self._runtime.run(flow)

    async def checkout(self, message: Message | str | int) -> None:
        """Move this chat's branch to end with `message`: the next question follows it. 0 is before the first message.

        No message changes or is lost; `leaves` lists where paths end. Raises: ConversationBusy while a turn is open on
        the branch, NotFound, InvalidInput for a passage or summary.
        """
        require_writable(self._state, "checkout")
        await self._runtime.run(history.branches.checkout_flow(self._state, self._ref, message))

    async def copy(
        self,
        key: str | None = None,
        *,
        message: Message | str | int | None = None,
        subject: str | None = None,
        title: str | None = None,
    ) -> AsyncChat:
        """Copy the path to `message` into a conversation of its own under `key`, and return a chat on it.

        The copy has rows and a chain of its own, whose first entry names this conversation. Erasing one does not touch
        the other. Settings, pins, summaries and metadata are copied, subject and title if none is
        given; turns and usage are not. It is one transaction: other writers of the conversation wait.

        Args:
            message: Where the path ends, as a message, id or seq. Default: the end of this chat's branch.

        Raises: InvalidInput when there is a conversation under the key, NotFound.
        """
        require_writable(self._state, "copy")
        into = make_chat_ref(
            self._state, key, None, subject=subject, title=title, metadata=None, options=self._ref.options
        )
        ref = await self._runtime.run(history.copies.copy_flow(self._state, self._ref, message, into))
        return AsyncChat(self._state, ref, self._runtime)

    async def branches(self, *, limit: int = 50, before: int | None = None) -> list[Branch]:
        """Return the newest `limit` branches, by number; 0 is the main branch. `before` (a number) goes further back."""
        flow = history.pages.list_branches_flow(self._state, self._ref, limit=limit, before=before)
        return await self._runtime.run(flow)

    async def leaves(self, *, limit: int = 50, before: str | int | None = None) -> list[Message]:
        """Return the newest `limit` messages that no message follows, newest first: the ends of all paths."""
        flow = history.pages.list_leaves_flow(self._state, self._ref, limit=limit, before=before)
        return await self._runtime.run(flow)

    async def siblings(self, message: Message | str | int) -> list[Message]:
        """Return the messages that follow the same message as this one, in the order of writing, this one among them.

        For a question these are its other versions, for a reply the other replies. Passages are skipped.
        """
        return await self._runtime.run(history.pages.list_siblings_flow(self._state, self._ref, message))

    async def children(
        self, message: Message | str | int = 0, *, limit: int = 50, before: str | int | None = None
    ) -> list[Message]:
        """Return the newest `limit` messages that follow a message on any branch, oldest first. Passages are skipped.

        Args:
            message: A message, its id or its seq. Default: 0, which lists the first messages of the conversation.
            before: A child's id or seq: go further back from it.

        Raises: NotFound, InvalidInput for a passage or summary.
        """
        flow = history.pages.list_children_flow(self._state, self._ref, message, limit=limit, before=before)
        return await self._runtime.run(flow)

    async def turns(
        self,
        *,
        question: Message | str | int | None = None,
        idempotency_key: str | None = None,
        limit: int = 50,
        before: UUID | str | None = None,
    ) -> list[Turn]:
        """Return the newest `limit` turns of this chat, oldest first; `before` (a turn's id) goes further back.

        An open turn of this branch whose worker is gone is closed first, unless the kit is read-only.

        Args:
            question: A message, its id or its seq: the turns that answered this question, on all branches. They are the
                turn that wrote it, regenerations, and turns that answered its tool calls with results.
            idempotency_key: Only the turn of this conversation that was sent with this key, on any branch.

        Raises: NotFound; InvalidInput for a message that is not a question.
        """
        flow = history.pages.list_turns_flow(
            self._state, self._ref, question, idempotency_key, limit=limit, before=before
        )
        return await self._runtime.run(flow)

    async def messages(
        self,
        *,
        limit: int | None = 50,
        before: Message | str | int | None = None,
        after: Message | str | int | None = None,
        around: Message | str | int | None = None,
        passages: bool = False,
    ) -> list[Message]:
        """Return messages of this chat's path, oldest first: its newest `limit`, unless another place is given.

        The cost does not depend on the length of the path. `Message.parts_at` shows where other versions follow.

        Args:
            limit: The size of the page, at most 1,000. None returns the whole path, read in one snapshot.
            before: A message, its id or its seq: the messages that it follows, on its own path.
            after: The messages that follow it on this branch; 0 is before the first message.
            around: The messages before and after it. The path is this branch if the message is on it, otherwise the path
                through the message to the newest of the leaves behind it.
            passages: Include retrieved passages.

        Raises: NotFound for a message that does not exist; InvalidInput for an `after` that is not on this branch.
        """
        flow = history.message_pages.list_messages_flow(
            self._state, self._ref, limit=limit, before=before, after=after, around=around, passages=passages
        )
        return await self._runtime.run(flow)

    async def history(
        self,
        *,
        limit: int = 50,
        before: Message | str | int | None = None,
        after: Message | str | int | None = None,
        around: Message | str | int | None = None,
    ) -> History:
        """Return a page of messages with what a screen shows beside them, in one snapshot: turns, calls and removals.

        `limit`, `before`, `after` and `around` are those of `messages`; passages are included and counted. No turn is closed.

        Raises: NotFound for a conversation, branch or message that does not exist; InvalidInput.
        """
        flow = history.history_pages.read_history_flow(
            self._state, self._ref, limit=limit, before=before, after=after, around=around
        )
        return await self._runtime.run(flow)

    async def runs(self, *, limit: int = 200, before: Message | str | int | None = None) -> list[Run]:
        """Return the newest `limit` runs of messages on all branches, oldest first: the shape of the conversation.

        Only the first message of each run is read. `before` (the `first` of a run) goes further back.
        """
        flow = history.records.list_runs_flow(self._state, self._ref, limit=limit, before=before)
        return await self._runtime.run(flow)

    async def turn(self, turn: Turn | UUID | str) -> TurnRecord:
        """Return a turn with its API calls, the stored parts of their requests, and the Python functions that it ran.

        `chat.replay(turn, call=...)` builds the requests again. Raises: NotFound.
        """
        return await self._runtime.run(history.records.read_turn_flow(self._state, self._ref, turn))

    async def turn_records(self, turns: Iterable[Turn | UUID | str]) -> list[TurnRecord]:
        """Return several turns with their API calls, in the order of their start.

        Their tool runs and the windows of their calls are not read.

        Args:
            turns: Turns or their ids, at most 1,000.

        Raises: NotFound, InvalidInput.
        """
        return await self._runtime.run(history.records.read_turn_records_flow(self._state, self._ref, turns))

    async def removals(self, *, limit: int = 50, before: int | None = None) -> list[ChainEntry]:
        """Return the newest `limit` redactions and erasures, oldest first; `before` (a number) goes further back."""
        flow = history.records.list_removals_flow(self._state, self._ref, limit=limit, before=before)
        return await self._runtime.run(flow)

    async def entries(self, *, limit: int = 50, before: int | None = None) -> list[ChainEntry]:
        """Return the newest `limit` entries of the hash chain, oldest first; `before` (a number) goes further back."""
        flow = history.records.list_entries_flow(self._state, self._ref, limit=limit, before=before)
        return await self._runtime.run(flow)

    async def blob(self, digest: str) -> StoredBlob:
        """Return a binary of this conversation: an image, audio or file of a message.

        Args:
            digest: The reference in the content of a message, `blob:<sha256>`, or its digits alone.

        Raises: NotFound for a binary of another conversation, or of a redacted message.
        """
        return await self._runtime.run(history.records.read_blob_flow(self._state, self._ref, digest))

    async def summaries(self, *, limit: int = 50, before: int | None = None) -> list[SummaryRecord]:
        """Return the newest `limit` rolling summaries of all branches, oldest first; `before` (a number) goes further back."""
        flow = history.records.list_summaries_flow(self._state, self._ref, limit=limit, before=before)
        return await self._runtime.run(flow)

    async def prompt(self, digest: str) -> str:
        """Return a developer prompt, or tools as JSON, by the digest in a call's window. Raises: NotFound.

        A tenant stores each prompt once, for all its conversations.
        """
        return await self._runtime.run(history.records.read_prompt_flow(self._state, digest))

    async def log(self, *, limit: int = 50, before: str | int | None = None) -> list[Message]:
        """Return the newest `limit` messages of all branches in the order of writing, oldest first.

        It includes passages, late replies and messages that are on no branch any more. `before` goes further back.
        """
        flow = history.pages.list_log_flow(self._state, self._ref, limit=limit, before=before)
        return await self._runtime.run(flow)

    async def update(
        self,
        *,
        title: str | Unset | None = UNSET,
        subject: str | Unset | None = UNSET,
        metadata: Mapping[str, Any] | Unset | None = UNSET,
        archived: bool | Unset | None = UNSET,
    ) -> Conversation:
        """Change title, subject, metadata or the archive mark of the conversation, and return the conversation.

        No model is called. What is not given stays. `updated_at` and the hash chain do not change. An erased
        conversation can be updated; a later `erase` removes the new values.

        Args:
            title: The new title. None clears it.
            subject: The person that the conversation belongs to from now on. None clears it.
            metadata: Values to set, by key. A value of None removes its key; None in place of the mapping removes all.
            archived: True archives the conversation. False or None takes it out of the archive, as a new turn or
                `append` does.

        Raises: NotFound for a conversation that does not exist yet; InvalidInput, TooLarge.

        Example:
            chat.update(title="Travel to Kyoto", metadata={"colour": "red", "draft": None})
        """
        require_writable(self._state, "update")
        flow = history.conversation_flows.update_flow(
            self._state, self._ref, title=title, subject=subject, metadata=metadata, archived=archived
        )
        return await self._runtime.run(flow)

    async def update_turn(self, turn: Turn | UUID | str, *, metadata: Any) -> None:
        """Replace the metadata of a turn (`turn_metadata` of `send`). None removes them. The hash chain does not change.

        Raises: NotFound, InvalidInput, TooLarge.
        """
        require_writable(self._state, "update_turn")
        flow = history.conversation_flows.update_turn_metadata_flow(self._state, self._ref, turn, metadata)
        await self._runtime.run(flow)

    async def pin(self, message: Message | str | int) -> None:
        """Send a message (or its id or seq) with every request of its path, also from before the window."""
        require_writable(self._state, "pin")
        await self._runtime.run(history.pins.pin_flow(self._state, self._ref, message, pinned=True))

    async def unpin(self, message: Message | str | int) -> None:
        """Undo `pin`. No message changes, only what later requests send."""
        require_writable(self._state, "unpin")
        await self._runtime.run(history.pins.pin_flow(self._state, self._ref, message, pinned=False))

    async def context(
        self,
        content: str | Sequence[PartLike] | None = None,
        *,
        passages: Sequence[str] = (),
        response_format: ResponseFormat[Any] = UNSET,
        **options: Unpack[CallOptions],
    ) -> Context:
        """Return what `send` would send, and what it leaves out and why, with token counts. No call is made."""
        flow = preview.preview_flow(self._state, self._ref, content, passages, to_options(options, response_format))
        return await self._runtime.run(flow)

    async def replay(self, turn: TurnLike | None = None, *, call: int | None = None) -> Replay:
        """Return the request of an API call as it was sent, built again from stored rows and checked against its digest.

        Args:
            turn: A turn, a reply, or a turn's id. Default: the newest turn of this chat.
            call: The number of the call in its turn, from 1; tool rounds and retries are calls too. Default: the last
                call that was answered.

        Raises: NotFound.
        """
        return await self._runtime.run(audit.replay.replay_flow(self._state, self._ref, turn, call))

    async def window(self, turn: TurnLike | None = None, *, call: int | None = None, limit: int = 1000) -> PastWindow:
        """Return what the model saw in an API call, and why other messages of its path stayed out, from stored rows.

        `turn` and `call` are those of `replay`. `limit` is the number of messages of the path that are read, at most 1,000.
        `context` shows what a next call would send. Raises: InvalidInput, NotFound.
        """
        return await self._runtime.run(audit.window_parts.read_window_flow(self._state, self._ref, turn, call, limit))

    async def diff(self, a: TurnLike, b: TurnLike) -> Diff:
        """Return where the request of `b` first differs from that of `a` (turns or replays), and why."""
        return await self._runtime.run(audit.diff.diff_flow(self._state, self._ref, a, b))

    async def verify(
        self,
        *,
        against: Checkpoint | str | Path | None = None,
        key: str | bytes | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Verified:
        """Recompute the conversation's hash chain from its rows.

        The chain does not commit to branch heads, because `checkout` and `edit` move them. The result has the heads and the
        number of messages on no branch.

        Args:
            against: A checkpoint, or its file: it also shows a history that was cut off, rewritten as a whole, or deleted.
                `moved_heads` lists the branches that no longer have the head of the checkpoint on their path.
            key: The key that the checkpoint was signed with.
            progress: Called with the number of chain entries verified and the total.

        Raises: ChainBroken, naming the first row that differs; CheckpointError for a checkpoint that proves nothing here.
        """
        flow = audit.flows.verify_flow(self._state, self._ref, against=against, key=key, progress=progress)
        return await self._runtime.run(flow)

    async def redact(
        self,
        message: Message | str | int,
        *,
        reason: str | None = None,
        author: str | None = None,
        dry_run: bool = False,
    ) -> Receipt:
        """Remove the text of a message (or of its id or seq) from every table, and return a receipt. The redacted row stays.

        Also removed: its binaries, its pin, fields of the server's answers in the same turn, and data from which a
        short text could be guessed. Arguments of tool calls belong to the message that asks; tool results are messages
        of their own. Other messages that quote the text are not changed. Redacting twice is not an error.

        Args:
            reason: Kept in the history for good.
            author: Kept in the history for good.
            dry_run: Count what would be removed, and remove nothing.

        Raises: NotFound; ConversationBusy while a turn of the conversation is open.
        """
        if not dry_run:
            require_writable(self._state, "redact")
        flow = erasure.flows.redact_flow(self._state, self._ref, message, reason=reason, author=author, dry_run=dry_run)
        return await self._runtime.run(flow)

    async def erase(self, *, reason: str | None = None, author: str | None = None, dry_run: bool = False) -> Receipt:
        """Remove every text of the conversation, on all its branches, and return a receipt.

        Subject, title, metadata and settings are removed too. The conversation's row stays, with empty messages and the
        hash chain, which records who erased it, when and why. A later `send` continues with an empty context.
        `kit.purge` deletes the rest. Erasing twice is not an error.

        Args: as `redact`. Raises: NotFound; ConversationBusy while a turn is open (`cancel` it first).
        """
        if not dry_run:
            require_writable(self._state, "erase")
        flow = erasure.flows.erase_flow(self._state, self._ref, reason=reason, author=author, dry_run=dry_run)
        return await self._runtime.run(flow)
