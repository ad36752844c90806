"""Record conversations that use every feature of a request, to compare with their replays."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import Table, and_, insert, select, true

from convokit import Budget, Convokit, Profile, Retry, Tool
from convokit.completion.effects import Clock
from convokit.context.strategy import Everything, LastTurns, Selection, View
from convokit.errors import ConvokitError
from convokit.store.engine import WRITE, open_engine, parse_database_url
from convokit.store.schema import completion, conversation, message, removal
from tests.support.faces import Face
from tests.support.server import LoopbackServer, Script, calls, chunk, failure, stream
from tests.support.server import completion as answered

GIF = "data:image/gif;base64," + base64.b64encode(b"GIF87a\x40\x01\xf0\x00 pixels").decode()
SOUND = base64.b64encode(b"RIFF sound").decode()
SMALL = Budget(context_tokens=260, reply_tokens=40, step_tokens=60)
ONCE = Retry(attempts=1)
STREAMING = {"content-type": "text/event-stream"}


class Questions:
    """A strategy of the user's own: every question, and no reply but the ones of this turn."""

    name = "questions only"
    most_turns = None

    def select(self, view: View) -> Selection:
        asked = tuple(index for index, item in enumerate(view.items) if item.shape["role"] == "user")
        return Selection(len(view.items), self.name, asked)


class Answer(BaseModel):
    """A reply of a type."""

    city: str
    degrees: int


def lookup(port: int) -> str:
    """Return who listens, 日本語で."""
    return f"nginx: ポート {port}"


class Stage:
    """What a conversation plays on: a face, a database, a server; `kit(...)` makes kits."""

    def __init__(self, face: Face, database: str, server: LoopbackServer) -> None:
        self.face = face
        self.database = database
        self.server = server

    def kit(self, **settings: Any) -> Any:
        """Return a kit against the server."""
        return self.face.kit(self.database, base_url=self.server.url, **{"model": "loop-1", **settings})

    def do(self, value: Any) -> Any:
        """Return a value, once it is there."""
        return self.face.settle(value)

    def fails(self, method: Callable[..., Any], *given: Any, **options: Any) -> None:
        """Call what may end in an error."""
        with contextlib.suppress(ConvokitError):
            self.face.settle(method(*given, **options))

    def streamed(self, streaming: Any, count: int | None = None) -> None:
        """Read a stream, or its first `count` events, however it ends."""
        with contextlib.suppress(ConvokitError):
            self.face.take(streaming, count)


def plainly(stage: Stage) -> None:
    """Send every kind of parameter, in Japanese, with headers and a body of one's own."""
    chat = stage.kit(
        developer_prompt="簡潔に答えてください。",
        temperature=1.0,
        top_p=0.25,
        logit_bias={"50256": -100, "11": 0.5},
        stop=["。", "終"],
        seed=2**62,
        user="利用者",
    ).chat("k", store=True, api_metadata={"鍵": "値"})
    stage.do(chat.send('こんにちは 👩‍👩‍👧 \u2028 <&> \\ "quoted" \x7f'))
    stage.do(chat.send("和", extra_headers={"x-secret": "s"}, extra_body={"temperature": 1, "向": [1, 1.5, None, {}]}))
    stage.server.script(answered("first"))
    stage.do(chat.send("several", n=3, logprobs=True, top_logprobs=2, presence_penalty=-0.0, max_output_tokens=64))
    stage.do(chat.send("and?", developer_prompt=None, model="loop-2"))


def tools(stage: Stage) -> None:
    """Run rounds of tools: parallel ones, bad ones, and names that the model made up."""
    custom = Tool.of_dict({"type": "custom", "custom": {"name": "grep", "format": {"type": "text"}}})
    chat = stage.kit(developer_prompt="Use tools.").chat("k", tools=[lookup])
    asked = [("c1", "lookup", '{"port": 80}'), ("c2", "lookup", "{not json"), ("c3", "functions.look up", "{}")]
    stage.server.script(calls(*asked), calls(("c1", "検索", '{"語": "港"}')), answered("nginx"))
    stage.do(chat.send("who?", passages=["Port 80 is HTTP."]))
    stage.server.script(calls(("d1", "lookup", '{"port": 443}'), streamed=True))
    stage.streamed(chat.stream("and there?", tool_choice="auto", parallel_tool_calls=False))
    asks = {"id": "x1", "type": "custom", "custom": {"name": "grep", "input": "80"}}
    stage.server.script(answered(None, tool_calls=[asks]))
    stage.do(chat.send("search", tools=[custom]))
    stage.do(chat.send("thanks", tools=[]))
    mistral = stage.kit(profile=Profile(tool_call_id_pattern="[A-Za-z0-9]{9}", null_content=False))
    stage.do(mistral.chat("k").send("once more"))


def streams(stage: Stage) -> None:
    """Leave and break streams, resume, and send what came of them under each policy."""
    chat = stage.kit().chat("k")
    stage.streamed(chat.stream("one", include_obfuscation=False))
    stage.server.script(stream(["Well, ", "it ", "is"], pause_s=0.05))
    stage.streamed(chat.stream("two", include_usage=False), 2)
    stage.server.script(Script([chunk({"content": "broken"}), None], headers=STREAMING))
    stage.streamed(chat.stream("three", retry=ONCE))
    for partial in ("include", "mark", "leave_out"):
        stage.do(stage.kit(partial=partial).chat("k").send(f"with {partial}"))
    stage.server.script(stream(["半", "分"], finish=None, done=False))
    stage.streamed(chat.stream("four", retry=ONCE))
    stage.do(chat.resume())


def windows(stage: Stage) -> None:
    """Move the window, with pins and by several strategies."""
    chat = stage.kit(budget=SMALL).chat("k", developer_prompt="短く")
    for number in range(8):
        stage.do(chat.send(f"turn {number}", passages=[f"passage {number}"]))
    stage.do(chat.pin(2))
    stage.do(chat.pin(8))
    for number in range(4):
        stage.do(chat.send(f"later {number}"))
    for strategy in (LastTurns(2), Everything(), Questions()):
        stage.do(stage.kit(budget=SMALL, strategy=strategy).chat("k").send("how?"))
    stage.do(chat.unpin(2))
    stage.do(chat.send("bye"))


def templates(stage: Stage) -> None:
    """Speak to models whose turns alternate, and to those that know no instructions."""
    for name, profile in {
        "a": Profile(alternate=True),
        "b": Profile(alternate=True, instructions="fold"),
        "c": Profile(instructions="developer"),
    }.items():
        chat = stage.kit(profile=profile, developer_prompt="Be brief.").chat(name)
        stage.server.script(failure(500))
        stage.fails(chat.send, "hello", retry=ONCE)
        stage.do(chat.send("what?", passages=["一", "二"]))
        stage.do(chat.send([{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": GIF}}]))


def media(stage: Stage) -> None:
    """Send images, sound and files, also to servers that take none, or take them inline only."""
    parts = [
        {"type": "text", "text": "何ですか"},
        {"type": "image_url", "image_url": {"url": GIF, "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/x.png"}},
        {"type": "input_audio", "input_audio": {"data": SOUND, "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:text/plain,a%20b", "filename": "メモ.txt"}},
        {"type": "file", "file": {"file_id": "file-1"}},
    ]
    stage.do(stage.kit().chat("k").send(parts))
    for profile in (Profile(parts=frozenset({"text"})), Profile(inline_images_only=True), Profile()):
        stage.do(stage.kit(profile=profile, unsupported="placeholder").chat("k").send("and now?"))


def spoken(stage: Stage) -> None:
    """Name a spoken reply until it expires, and say it in words from then on: also between rendering and sending."""
    now = 1_800_000_000.0
    clock = Clock(time=lambda: now)
    kit = stage.kit()
    kit._state = replace(kit._state, clock=clock)
    chat = kit.chat("k")
    audio = {"id": "audio-1", "data": SOUND, "transcript": "はい", "expires_at": now + 100}
    stage.server.script(answered(None, audio=audio))
    stage.do(chat.send("speak"))
    for later in (39.5, 40.5, 200):
        now = 1_800_000_000.0 + later
        stage.do(chat.send("again"))
    assert _named(stage) == [True, False, False]


def _named(stage: Stage) -> list[bool]:
    """Return of each request but the first whether it names a spoken reply by its id."""
    return [any("audio" in each for each in request.body["messages"]) for request in stage.server.requests[1:]]


def expiring(stage: Stage) -> None:
    """Have the spoken reply expire while a call waits to be made again: the retry sends the same bytes, named by its id."""
    now = 1_800_000_000.0
    kit = stage.kit(retry=Retry(attempts=2, initial_s=0.0))
    kit._state = replace(kit._state, clock=Clock(time=lambda: now))
    chat = kit.chat("k")
    audio = {"id": "audio-1", "data": SOUND, "transcript": "はい", "expires_at": now + 100}
    stage.server.script(answered(None, audio=audio))
    stage.do(chat.send("speak"))
    echo = stage.server.answer

    def later(body: Any) -> Script:
        nonlocal now
        now, stage.server.answer = now + 1000, echo
        return failure(500)

    stage.server.answer = later
    stage.do(chat.send("again"))
    assert _named(stage) == [True, True]


def structured(stage: Stage) -> None:
    """Ask for replies of a type: with a schema, with the schema in words, with neither."""
    says = answered('{"city": "京都", "degrees": 21}')
    for profile in (Profile(), Profile(json_schema=False), Profile(json_schema=False, json_object=False)):
        chat = stage.kit(profile=profile, developer_prompt="天気").chat("k")
        stage.server.script(says, says)
        stage.do(chat.send("weather?", response_format=Answer))
        schema = {"name": "a", "schema": {"type": "object", "properties": {"一": {"const": 1.0}}}}
        stage.do(chat.send("as JSON", response_format={"type": "json_schema", "json_schema": schema}))


def complaints(stage: Stage) -> None:
    """Answer what servers complain of: parameters dropped, the window cut, calls made again."""
    chat = stage.kit(retry=Retry(attempts=3, initial_s=0.0, drop_unsupported=True, retrim=True)).chat("k")
    for number in range(6):
        stage.do(chat.send(f"turn {number}"))
    refused = {"code": "unsupported_parameter"}
    stage.server.script(failure(400, param="temperature", **refused), failure(500))
    stage.do(chat.send("hot", temperature=0.5, top_p=0.5))
    stage.server.script(failure(400, param="stream_options", **refused))
    stage.streamed(chat.stream("flow"))
    stage.server.script(failure(400, param="max_tokens", **refused))
    stage.do(chat.send("short", max_output_tokens=9))
    said = "This model's maximum context length is 60 tokens. However, your messages resulted in 120 tokens."
    stage.server.script(failure(400, said, code="context_length_exceeded"))
    stage.do(chat.send("long"))


def modes(stage: Stage) -> None:
    """Drop, pass and rename what a model refuses."""
    profile = Profile(
        name="strict one", rejects=frozenset({"seed", "logprobs"}), output_cap="max_completion_tokens", max_n=1
    )
    for mode in ("drop", "pass"):
        chat = stage.kit(profile=profile, mode=mode).chat("k")
        stage.do(chat.send("hi", seed=1, max_tokens=10, n=2, tool_choice="none"))
    stage.do(stage.kit(profile=profile, mode="strict").chat("k").send("hi", temperature=0.1))
    reasoning = Profile(efforts=("low", "high"), rejects_unless_effort_none=frozenset({"temperature"}))
    stage.do(stage.kit(profile=reasoning).chat("k").send("hi", reasoning_effort="low", temperature=0.3))


def coming_back(stage: Stage) -> None:
    """Fail, go on, and come back to the turn that failed; with refusals and a vendor's own keys on the way."""
    profile = Profile(provider="p", replay_keys=frozenset({"reasoning_content", "signature"}))
    chat = stage.kit(profile=profile).chat("k")
    stage.server.script(answered("ok", reasoning_content="考", signature="s", other=1), answered(None, refusal="No."))
    stage.do(chat.send("first"))
    stage.do(chat.send("second"))
    stage.server.script(failure(500))
    stage.fails(chat.send, "third", passages=["p"], retry=ONCE, idempotency_key="1")
    stage.do(chat.send("never mind"))
    stage.do(chat.send("third", passages=["p"], retry=ONCE, idempotency_key="1"))
    stage.do(stage.kit(profile=Profile(provider="q", refusal_part=False)).chat("k").send("fourth"))


def branching(stage: Stage) -> None:
    """Let another branch write while tools run: the messages of the next calls get other seqs than were expected."""
    others = 0

    def elsewhere() -> str:
        """Write to another branch of this very conversation."""
        nonlocal others
        others += 1
        write_elsewhere(stage, others)
        return f"done {others}"

    chat = stage.kit(retry=Retry(attempts=2, initial_s=0.0)).chat("k", tools=[elsewhere])
    stage.do(chat.send("hello"))
    asked = calls(("a", "elsewhere", "{}"))
    stage.server.script(asked, answered("there"), asked, answered("there"), failure(500))
    reply = stage.do(chat.send("go"))
    stage.do(chat.send("and?"))
    assert (others, reply.attempts) == (2, 4)


def moving(stage: Stage) -> None:
    """Let another branch write between the making of a request and its beginning: the request is made again."""
    others = 0

    def api_key() -> str:
        """Return the key of the call that is about to begin."""
        nonlocal others
        if stage.server.requests and others < 2:
            others += 1
            write_elsewhere(stage, others)
        return "key"

    chat = stage.kit(api_key=api_key).chat("k")
    stage.do(chat.send("hello"))
    stage.do(chat.send("go", passages=["p"]))
    assert others == 2
    assert len(stage.server.requests) == 4


def write_elsewhere(stage: Stage, number: int) -> None:
    """Have a turn on another branch, which begins behind the first reply."""
    with Convokit(stage.database, model="loop-1", base_url=stage.server.url) as kit:
        kit.chat("k").fork(2).send(f"on branch {number}")


def branches(stage: Stage) -> None:
    """Edit questions, ask for other replies, fork and go back: every way to another path."""
    chat = stage.kit(developer_prompt="短く").chat("k", tools=[lookup])
    for number in range(3):
        stage.do(chat.send(f"turn {number}", passages=[f"passage {number}"]))
    stage.do(chat.regenerate(temperature=0.5))
    stage.do(chat.edit(2, "turn zero", passages=["他の出典"]))
    stage.server.script(calls(("c1", "lookup", '{"port": 80}')))
    stage.do(chat.send("go on"))
    stage.do(chat.regenerate())
    other = stage.do(chat.fork(6, name="枝"))
    stage.do(other.send("on the fork"))
    stage.do(chat.checkout(6))
    stage.do(chat.send("back"))


def late(stage: Stage) -> None:
    """Have a turn cancelled while its reply is on its way: the reply is kept, with its call, beside the turn's own."""
    chat = stage.kit().chat("k")
    stage.do(chat.send("hello"))

    def answer(body: Any) -> Script:
        with Convokit(stage.database, model="loop-1", base_url=stage.server.url) as kit:
            kit.chat("k").cancel()
        return answered("too late")

    echo, stage.server.answer = stage.server.answer, answer
    stage.fails(chat.send, "slow")
    stage.server.answer = echo
    stage.do(chat.send("bye"))


SCENES: tuple[Callable[[Stage], None], ...] = (
    plainly, tools, streams, windows, templates, media, spoken, expiring, structured, complaints, modes, coming_back,
    branching, moving, branches, late,
)  # fmt: skip


def every_call(database: str, conversation_id: UUID | None = None) -> list[Any]:
    """Return each call, in all conversations or in one: (conversation_id, turn_id, number, state)."""
    of_it = true() if conversation_id is None else completion.c.conversation_id == conversation_id
    engine = open_engine(parse_database_url(database))
    with engine.connect() as connection:
        columns = completion.c.conversation_id, completion.c.turn_id, completion.c.number, completion.c.state
        rows = list(connection.execute(select(*columns).where(of_it)))
    engine.dispose()
    return rows


def changed(database: str, table: Table, condition: Any = None, **values: Any) -> None:
    """Change rows behind the library's back; without values, delete them."""
    engine = open_engine(parse_database_url(database))
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        statement: Any = table.update().values(**values) if values else table.delete()
        connection.execute(statement if condition is None else statement.where(condition))
    engine.dispose()


def redacted(database: str, seq: int, conversation_id: UUID | None = None) -> None:
    """Take the words out of a message, as a redaction does: of this conversation, or of the only one."""
    gone = ("content", "parts", "tool_calls", "name", "refusal", "extra", "salt")
    values: dict[str, Any] = dict.fromkeys(gone)
    of_it = true() if conversation_id is None else message.c.conversation_id == conversation_id
    changed(database, message, and_(message.c.seq == seq, of_it), status="redacted", **values)
    engine = open_engine(parse_database_url(database))
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        which = select(conversation.c.id).where(
            true() if conversation_id is None else conversation.c.id == conversation_id
        )
        said = {"ref": f"message:{seq}", "salt": bytes(16), "created_at": 1, "number": 1000 + seq}
        connection.execute(insert(removal).values(conversation_id=connection.execute(which).scalar_one(), **said))
    engine.dispose()
