"""A handle on one conversation, synchronous. Thin: every method runs one flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Unpack
from uuid import UUID

from convokit import audit, erasure, history
from convokit.completion import follow, preview, resume, turns
from convokit.completion.effects import Flow
from convokit.completion.options import CallOptions, PartLike, to_options
from convokit.completion.recovery import OnBusy
from convokit.completion.state import ChatRef, KitState
from convokit.context.report import Context
from convokit.domain.conversation import Branch
from convokit.domain.message import Message
from convokit.domain.removal import Receipt
from convokit.domain.replay import Diff, Replay, TurnLike
from convokit.domain.turn import Reply, Turn
from convokit.domain.verification import Checkpoint, Verified
from convokit.history import queries
from convokit.runtime.config import OnDisconnect, check_on_disconnect, target_of
from convokit.runtime.sync import Stream, SyncDriver


class Chat:
    """A handle on one conversation. Cheap to make, safe to share between threads."""

    def __init__(self, scope: KitState, target: ChatRef, driver: Callable[[], SyncDriver]) -> None:
        self._scope = scope
        self._target = target
        self._driver = driver

    def __repr__(self) -> str:
        branch = f", branch={self.branch!r}" if self.branch else ""
        return f"Chat({self._target.name!r}{branch})"

    @property
    def id(self) -> UUID | None:
        """The conversation's id; None until it is known (a key's id depends on the database)."""
        return self._target.id

    @property
    def key(self) -> str | None:
        """The key it was opened under."""
        return self._target.key

    @property
    def branch(self) -> int | str:
        """The number of the branch it is on; the name it was opened by until that is known. 0 is the main branch."""
        return self._target.branch if self._target.wanted is None else self._target.wanted

    def send(
        self,
        content: str | Sequence[PartLike],
        *,
        context: Sequence[str] = (),
        on_busy: OnBusy = "raise",
        idempotency_key: str | None = None,
        **options: Unpack[CallOptions],
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
        asked = resume.Asked(content, context, to_options(options), on_busy, idempotency_key)
        return self._driver().run(resume.send(self._scope, self._target, asked, stream=False))

    def stream(
        self,
        content: str | Sequence[PartLike],
        *,
        context: Sequence[str] = (),
        on_busy: OnBusy = "raise",
        idempotency_key: str | None = None,
        on_disconnect: OnDisconnect = "stop",
        **options: Unpack[CallOptions],
    ) -> Stream[Reply]:
        """Return the reply as it comes: a context manager over events.

        When its reader leaves early, `on_disconnect` says what becomes of the reply: "stop" it and keep what came, or "finish"
        it: leaving then waits for its end.
        """
        asked = resume.Asked(content, context, to_options(options), on_busy, idempotency_key)
        return self._stream(resume.send(self._scope, self._target, asked, stream=True), on_disconnect)

    def resume(
        self,
        *,
        on_busy: OnBusy = "raise",
        **options: Unpack[CallOptions],
    ) -> Reply:
        """Finish the last turn: ask again for the reply it is missing, without a second question, or return the one it has.

        The right move after a `ModelError`. Tool results that are recorded are not made again.
        """
        return self._driver().run(resume.resume(self._scope, self._target, to_options(options), on_busy=on_busy))

    def regenerate(
        self,
        message: Message | str | int | None = None,
        *,
        on_busy: OnBusy = "raise",
        **options: Unpack[CallOptions],
    ) -> Reply:
        """Make another reply to the last question, or to the one that `message` (or its reply) is: a sibling of the old reply.

        The question is sent again with its passages, not stored again; tools run anew. Meanwhile, and if the call fails, this
        chat's branch ends with the question: `resume` asks again, `checkout` goes back to the old reply.
        Raises: InvalidInput where there is no question, NotFound, and what `send` raises.
        """
        flow = history.branches.regenerate(
            self._scope, self._target, message, to_options(options), stream=False, on_busy=on_busy
        )
        return self._driver().run(flow)

    def edit(
        self,
        message: Message | str | int,
        content: str | Sequence[PartLike],
        *,
        context: Sequence[str] = (),
        on_busy: OnBusy = "raise",
        idempotency_key: str | None = None,
        **options: Unpack[CallOptions],
    ) -> Reply:
        """Ask again in place of a question: its sibling, on this chat's branch, which goes on from there.

        `message` is the question, its id or its seq, on whatever branch; the first one too. The old question and all that
        follows it stay where they are (`checkout` goes back). Everything else is as with `send`.
        Raises: InvalidInput for what is not a question, NotFound, and what `send` raises.
        """
        asked = resume.Asked(content, context, to_options(options), on_busy, idempotency_key)
        flow = history.branches.edit(self._scope, self._target, message, asked, stream=False)
        return self._driver().run(flow)

    def stream_regenerate(
        self,
        message: Message | str | int | None = None,
        *,
        on_busy: OnBusy = "raise",
        on_disconnect: OnDisconnect = "stop",
        **options: Unpack[CallOptions],
    ) -> Stream[Reply]:
        """Return another reply as it comes: `regenerate`, as a stream."""
        flow = history.branches.regenerate(
            self._scope, self._target, message, to_options(options), stream=True, on_busy=on_busy
        )
        return self._stream(flow, on_disconnect)

    def stream_edit(
        self,
        message: Message | str | int,
        content: str | Sequence[PartLike],
        *,
        context: Sequence[str] = (),
        on_busy: OnBusy = "raise",
        idempotency_key: str | None = None,
        on_disconnect: OnDisconnect = "stop",
        **options: Unpack[CallOptions],
    ) -> Stream[Reply]:
        """Return the reply to an edited question as it comes: `edit`, as a stream."""
        asked = resume.Asked(content, context, to_options(options), on_busy, idempotency_key)
        flow = history.branches.edit(self._scope, self._target, message, asked, stream=True)
        return self._stream(flow, on_disconnect)

    def follow(self, turn: UUID | str | None = None, *, after: int = 0) -> Stream[Reply]:
        """Attach to a reply that is on its way in any process, or over: its text, as a stream like any other.

        `turn` is the newest when not given; `after` is how many characters of its text the reader already has. Several may
        follow one turn; leaving changes nothing for it. Raises: Interrupted, with the turn's state as `code`, when it ends
        without a whole reply.
        """
        return Stream(self._driver(), follow.follow_flow(self._scope, self._target, turn, after=after))

    def cancel(self, turn: UUID | str | None = None) -> bool:
        """End the branch's open turn (or the one named), whoever runs it. Return whether it was open.

        What is stored of its reply is kept. Whoever runs it learns of it at the next piece: `Interrupted`, code "cancelled".
        """
        return self._driver().run(turns.cancel_flow(self._scope, self._target, turn))

    def fork(self, message: Message | str | int | None = None, *, name: str | None = None) -> Chat:
        """Make a branch that ends at `message` (default: where this chat is) and return a chat on it.

        Nothing is copied, wherever it begins. What is sent there moves only it, and both can answer at the same time. A `name`
        is unique in its conversation; `kit.chat(key, branch=...)` opens a branch by name or number again.
        Raises: NotFound, InvalidInput for a name that is taken.
        """
        target = self._driver().run(history.branches.fork(self._scope, self._target, message, name))
        return Chat(self._scope, target, self._driver)

    def checkout(self, message: Message | str | int) -> None:
        """Have this chat's branch end at `message`, anywhere in the conversation: the next question follows it.

        No message is changed or lost: where the branch ended stays a leaf. Raises: ConversationBusy while a turn is open on
        the branch, NotFound, InvalidInput for a passage.
        """
        self._driver().run(history.branches.checkout(self._scope, self._target, message))

    def copy(
        self,
        key: str | None = None,
        *,
        message: Message | str | int | None = None,
        subject: str | None = None,
        title: str | None = None,
    ) -> Chat:
        """Return an independent conversation: the path to `message` (default: all of this chat's), written again, under `key`.

        Its messages are rows of their own, in a chain of their own whose first entry names this conversation; so erasing one
        leaves the other. Settings, pins, summaries, metadata come along, subject and title if not given; turns and usage not.
        One transaction: the conversation's other writers wait. Raises: InvalidInput when there is a conversation under the key.
        """
        into = target_of(
            self._scope, key, None, subject=subject, title=title, metadata=None, options=self._target.options
        )
        target = self._driver().run(history.branches.copy(self._scope, self._target, message, into))
        return Chat(self._scope, target, self._driver)

    def branches(self, *, limit: int = 50, before: int | None = None) -> list[Branch]:
        """Return the newest `limit` branches, by number, 0 the main one; `before` (a number) goes further back."""
        flow = history.branches.listing(self._scope, self._target, limit=limit, before=before)
        return self._driver().run(flow)

    def leaves(self, *, limit: int = 50, before: str | int | None = None) -> list[Message]:
        """Return the newest `limit` messages that nothing follows, newest first: where `checkout` finds every path's end."""
        flow = history.branches.leaves(self._scope, self._target, limit=limit, before=before)
        return self._driver().run(flow)

    def siblings(self, message: Message | str | int) -> list[Message]:
        """Return all messages that follow the same message as this one does, itself among them, in the order of writing.

        For a question its other versions, for a reply the other replies; passages are seen through.
        """
        return self._driver().run(history.branches.siblings(self._scope, self._target, message))

    def turns(self, *, limit: int = 50, before: UUID | str | None = None) -> list[Turn]:
        """Return the newest `limit` turns of this chat, oldest first; `before` (a turn's id) goes further back."""
        return self._driver().run(turns.list_turns_flow(self._scope, self._target, limit=limit, before=before))

    def messages(self, *, limit: int = 50, before: str | int | None = None, passages: bool = False) -> list[Message]:
        """Return the newest `limit` messages, oldest first; `before` (a message's id or seq) goes further back.

        `passages` lists what was sent as a turn's `context` as well.
        """
        flow = queries.listing(self._scope, self._target, limit=limit, before=before, passages=passages)
        return self._driver().run(flow)

    def log(self, *, limit: int = 50, before: str | int | None = None) -> list[Message]:
        """Return the newest `limit` messages of all branches in the order of writing, oldest first; `before` goes further back.

        Everything is in it: passages, late replies, what is on no branch any more.
        """
        return self._driver().run(history.branches.log(self._scope, self._target, limit=limit, before=before))

    def pin(self, message: Message | str | int) -> None:
        """Have a message (or its id or seq) sent with every request of a path it lies on, also from before the window."""
        self._driver().run(history.branches.pin(self._scope, self._target, message, pinned=True))

    def unpin(self, message: Message | str | int) -> None:
        """Undo `pin`. Nothing stored changes, neither way: only what is sent."""
        self._driver().run(history.branches.pin(self._scope, self._target, message, pinned=False))

    def context(
        self,
        content: str | Sequence[PartLike] | None = None,
        *,
        context: Sequence[str] = (),
        **options: Unpack[CallOptions],
    ) -> Context:
        """Return what `send` would send with these, and what it leaves out and why, with token counts. No call is made."""
        return self._driver().run(
            preview.preview_flow(self._scope, self._target, content, context, to_options(options))
        )

    def replay(self, turn: TurnLike | None = None, *, call: int | None = None) -> Replay:
        """Return an API call's request as it was sent, put together again and checked: its `status` says whether it is exact.

        `turn` is a turn's id, a `Turn` or a `Reply` (default: the newest turn of this chat); `call` the call's number within
        it, from 1 (default: the last that was answered): tool rounds and retries are calls too. Raises: NotFound.
        """
        flow = queries.on_branch(self._scope, self._target, audit.replay.replay(audit.replay.place(turn, call)))
        return self._driver().run(flow)

    def diff(self, a: TurnLike, b: TurnLike) -> Diff:
        """Return where `b`'s request first differs from `a`'s (turns or replays), and why no cache can serve it from there."""
        found = audit.diff.diff(audit.replay.place(a), audit.replay.place(b))
        return self._driver().run(queries.over(self._scope, self._target, found))

    def verify(self, *, against: Checkpoint | str | Path | None = None, key: str | bytes | None = None) -> Verified:
        """Recompute the conversation's chain against its rows. Raises: ChainBroken naming the first place that differs.

        `against` is a checkpoint, or its file, and `key` what it was signed with: they show a history that was cut off,
        rewritten whole or deleted, too. Raises: CheckpointError for a checkpoint that proves nothing here.
        """
        known = audit.checkpoint.known(against, key)
        return self._driver().run(audit.flows.one(self._scope, self._target, audit.verify.verify, known))

    def redact(
        self,
        message: Message | str | int,
        *,
        reason: str | None = None,
        author: str | None = None,
        dry_run: bool = False,
    ) -> Receipt:
        """Remove a message's text (or that of its id or seq) from everywhere, leaving a tombstone, and return the receipt.

        With it go its binaries, its pin, what the servers said beyond the reply in the API calls of its turn, and what short
        text could be guessed back with. Arguments of tool calls are part of the message that asks; their results are messages
        of their own. What other messages say of it stays. `author` and `reason` are kept with the history, for good. `dry_run`
        counts what would go. Again is no error. Raises: NotFound; ConversationBusy while a turn of the conversation is open.
        """
        flow = erasure.flows.redact_flow(
            self._scope, self._target, message, reason=reason, author=author, dry_run=dry_run
        )
        return self._driver().run(flow)

    def erase(self, *, reason: str | None = None, author: str | None = None, dry_run: bool = False) -> Receipt:
        """Remove every text of the conversation, on all its branches, and return the receipt.

        Subject, title, metadata and settings go as well. Its row stays, with empty messages and the chain, which says who
        erased it, when and why; a later `send` continues behind them with an empty context. `kit.purge` removes even those.
        Again is no error. Raises: NotFound; ConversationBusy while a turn is open (`cancel` it first).
        """
        flow = erasure.flows.erase_flow(self._scope, self._target, reason=reason, author=author, dry_run=dry_run)
        return self._driver().run(flow)

    def _stream(self, flow: Flow[Reply], on_disconnect: OnDisconnect) -> Stream[Reply]:
        return Stream(self._driver(), flow, finish=check_on_disconnect(on_disconnect))
