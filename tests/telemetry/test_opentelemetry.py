"""Spans and metrics of turns, as the SDK's exporters in memory get them."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision, Sampler, SamplingResult
from opentelemetry.trace import SpanKind, StatusCode

from convokit import Convokit, Retry
from convokit.errors import Interrupted, ServerFailed
from convokit.telemetry import OpenTelemetryObserver, names
from tests.completion.summaries import BUDGET, ONCE, SUMMARY, Writer, next_moves
from tests.support.abandoned_turns import leave
from tests.support.faces import Face
from tests.support.server import LoopbackServer, calls, completion, failure, stream

SECRET = "秘密の花園"
FAST = Retry(initial_s=0, maximum_s=0)
PNG = "data:image/png;base64,iVBORw0KGgo="


def double(number: int) -> int:
    """Return twice the number."""
    if number < 0:
        raise ValueError(SECRET)
    return 2 * number


class Recording(Sampler):
    """Samples everything, and records what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def should_sample(self, parent_context: Any, trace_id: int, name: str, *given: Any, **more: Any) -> SamplingResult:
        attributes = more.get("attributes") or (given[1] if len(given) > 1 else None)
        self.asked.append((name, dict(attributes or {})))
        return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes)

    def get_description(self) -> str:
        return ALWAYS_ON.get_description()


@dataclass
class Collected:
    """Providers of the SDK, and what they collected."""

    tracers: TracerProvider
    meters: MeterProvider
    sampler: Recording
    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader

    def observer(self, **settings: Any) -> OpenTelemetryObserver:
        return OpenTelemetryObserver(tracer_provider=self.tracers, meter_provider=self.meters, **settings)

    def spans(self, prefix: str = "") -> list[ReadableSpan]:
        """Return the ended spans in the order of their starts."""
        spans = [each for each in self.exporter.get_finished_spans() if each.name.startswith(prefix)]
        return sorted(spans, key=lambda each: each.start_time or 0)

    def points(self, metric: str) -> list[Any]:
        """Return the data points of a metric."""
        data = self.reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for each in scope.metrics
            if each.name == metric
            for point in each.data.data_points
        ]

    def text(self) -> str:
        """Return everything that the exporters got, as text."""
        spans = "".join(each.to_json() for each in self.exporter.get_finished_spans())
        data = self.reader.get_metrics_data()
        return spans.encode().decode("unicode_escape", "ignore") + ("" if data is None else data.to_json()) + spans


def find_context(span: ReadableSpan) -> trace.SpanContext:
    """Return the ids of a span."""
    found = span.get_span_context()
    assert found is not None
    return found


@pytest.fixture
def collected() -> Collected:
    exporter, reader, sampler = InMemorySpanExporter(), InMemoryMetricReader(), Recording()
    tracers = TracerProvider(sampler=sampler)
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    return Collected(tracers, MeterProvider([reader]), sampler, exporter, reader)


@pytest.fixture(autouse=True)
def _no_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(names.CAPTURE_CONTENT, raising=False)


@pytest.fixture
def observed(face: Face, database: str, server: LoopbackServer, collected: Collected) -> Any:
    return face.kit(
        database,
        model="loop-1",
        base_url=server.url,
        retry=FAST,
        tools=[double],
        temperature=0.5,
        observers=[collected.observer()],
    )


def test_a_turn_with_a_tool_is_one_trace(
    face: Face, observed: Any, server: LoopbackServer, collected: Collected
) -> None:
    """Two CLIENT spans and a tool's span lie in the turn's span, and the turn's in the application's."""
    server.script(calls(("c1", "double", '{"number": 2}')))
    with collected.tracers.get_tracer("app").start_as_current_span("request") as request:
        reply = face.settle(observed.chat("k").send("hello"))
    spans = collected.spans()
    assert [each.name for each in spans] == [
        *("request", "convokit.turn", "chat loop-1", "execute_tool double", "chat loop-1"),
    ]
    turn, first, tool, second = spans[1:]
    assert turn.parent is not None
    assert turn.parent.span_id == request.get_span_context().span_id
    assert {each.parent and each.parent.span_id for each in (first, tool, second)} == {find_context(turn).span_id}
    assert [each.kind for each in spans[1:]] == [
        *(SpanKind.INTERNAL, SpanKind.CLIENT, SpanKind.INTERNAL, SpanKind.CLIENT),
    ]
    conversation_id = reply.message.id.partition(":")[0]
    assert turn.attributes == {
        names.CONVERSATION_ID: conversation_id,
        names.TURN_ID: str(reply.turn_id),
        names.TENANT: "default",
        names.BRANCH: 0,
        names.TURN_STATE: "completed",
    }
    assert second.attributes is not None
    assert second.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "127.0.0.1",
        "gen_ai.request.model": "loop-1",
        "gen_ai.request.stream": False,
        "gen_ai.conversation.id": conversation_id,
        "gen_ai.response.model": "loop-1",
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": second.attributes["gen_ai.usage.input_tokens"],
        "gen_ai.usage.output_tokens": second.attributes["gen_ai.usage.output_tokens"],
        "server.address": "127.0.0.1",
        "server.port": server.port,
        "convokit.call.number": 2,
        "convokit.call.state": "ok",
    }
    assert tool.attributes == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "double",
        "gen_ai.tool.call.id": "c1",
        "gen_ai.tool.type": "function",
        "convokit.tool.state": "done",
    }
    assert all(each.status.status_code is StatusCode.UNSET for each in spans)
    for each in spans:
        assert (each.end_time or 0) >= (each.start_time or 0)


@pytest.mark.once
def test_a_sampler_knows_the_conversation(face: Face, observed: Any, collected: Collected) -> None:
    """The conversation, the model and the provider are set when a span is created."""
    face.settle(observed.chat("k").send("hello"))
    turn, call = (attributes for _, attributes in collected.sampler.asked)
    assert names.CONVERSATION_ID in turn
    wanted = {names.OPERATION_NAME, names.PROVIDER_NAME, names.REQUEST_MODEL, names.CONVERSATION_ID}
    assert wanted | {names.SERVER_ADDRESS, names.SERVER_PORT} <= set(call)


def test_metrics_of_plain_calls_streams_and_errors(
    face: Face, observed: Any, server: LoopbackServer, collected: Collected
) -> None:
    """Durations and tokens of each call, the time to the first chunk of streams only, and the stated buckets."""
    reply = face.settle(observed.chat("k").send("hello"))
    durations, tokens = collected.points(names.OPERATION_DURATION), collected.points(names.TOKEN_USAGE)
    assert collected.points(names.FIRST_CHUNK_DURATION) == []
    shared = {
        names.OPERATION_NAME: "chat",
        names.PROVIDER_NAME: "127.0.0.1",
        names.REQUEST_MODEL: "loop-1",
        names.RESPONSE_MODEL: "loop-1",
        names.SERVER_ADDRESS: "127.0.0.1",
        names.SERVER_PORT: server.port,
    }
    assert [(point.count, dict(point.attributes)) for point in durations] == [(1, shared)]
    assert durations[0].explicit_bounds == names.SECONDS_BUCKETS
    assert tokens[0].explicit_bounds == names.TOKEN_BUCKETS
    found = {point.attributes[names.TOKEN_TYPE]: point.sum for point in tokens}
    assert found == {"input": reply.usage.prompt_tokens, "output": reply.usage.completion_tokens}
    face.collect(observed.chat("k").stream("streamed"))
    (first,) = collected.points(names.FIRST_CHUNK_DURATION)
    assert (first.count, first.explicit_bounds) == (1, names.SECONDS_BUCKETS)
    span = collected.spans("chat")[-1]
    assert span.attributes is not None
    assert 0 < float(str(span.attributes[names.TIME_TO_FIRST_CHUNK])) <= first.sum
    server.script(failure(500), completion("ok", usage={}))
    face.settle(observed.chat("k").send("again"))
    failed = [point for point in collected.points(names.OPERATION_DURATION) if names.ERROR_TYPE in point.attributes]
    assert [point.attributes[names.ERROR_TYPE] for point in failed] == ["ServerFailed"]
    assert sum(point.count for point in collected.points(names.TOKEN_USAGE)) == 4, "an estimate was recorded"


def test_errors_are_named_without_their_text(
    face: Face, observed: Any, server: LoopbackServer, collected: Collected
) -> None:
    """A failed call, tool and turn have `error.type` and the status ERROR, without a description or an exception event."""
    server.script(calls(("c1", "double", '{"number": -1}'), ("c2", f"no_{SECRET}", "{}")), failure(500, SECRET))
    with pytest.raises(ServerFailed):
        face.settle(observed.chat("k").send("hello", retry=Retry(attempts=1)))
    broken = stream(["half ", SECRET], finish=None, done=False)
    broken.pieces.append(None)
    server.script(broken)
    with pytest.raises(Interrupted):
        face.collect(observed.chat("k").stream("hello"))
    errors = {
        (each.name, (each.attributes or {}).get(names.ERROR_TYPE))
        for each in collected.spans()
        if each.status.status_code is StatusCode.ERROR
    }
    assert errors == {
        ("execute_tool double", "ValueError"),
        ("execute_tool unknown", "UnknownTool"),
        ("chat loop-1", "ServerFailed"),
        ("chat loop-1", "Interrupted"),
        ("convokit.turn", "ServerFailed"),
        ("convokit.turn", "Interrupted"),
    }
    assert all((each.events, each.status.description) == ((), None) for each in collected.spans())
    assert SECRET not in collected.text()
    statuses = [(each.attributes or {}).get(names.HTTP_STATUS) for each in collected.spans("chat")]
    assert statuses == [None, 500, None]


@pytest.mark.once
@pytest.mark.parametrize(
    ("value", "captures"), [("", False), ("false", False), ("event_only", False), ("true", True), ("SPAN_ONLY", True)]
)
def test_content_only_by_the_variable_of_the_conventions(
    sqlite_file: str,
    server: LoopbackServer,
    collected: Collected,
    monkeypatch: pytest.MonkeyPatch,
    value: str,
    captures: bool,
) -> None:
    """Messages, parameters, tools, arguments and results are in the spans if the variable allows it, never in metrics."""
    monkeypatch.setenv(names.CAPTURE_CONTENT, value)
    settings: Any = {"temperature": 0.5, "stop": "END", "max_tokens": 77, "n": 2, "seed": 7, "user": SECRET}
    server.script(calls(("c1", "double", '{"number": 2}')), completion(SECRET))
    with Convokit(
        sqlite_file,
        model="m",
        base_url=server.url,
        tools=[double],
        developer_prompt=SECRET,
        observers=[collected.observer()],
        **settings,
    ) as kit:
        picture = {"type": "image_url", "image_url": {"url": PNG}}
        kit.chat(SECRET).send([{"type": "text", "text": f"question {SECRET}"}, picture])
    assert (SECRET in collected.text()) == captures
    data = collected.reader.get_metrics_data()
    assert SECRET not in str(data)
    _, second = collected.spans("chat")
    (tool,) = collected.spans("execute_tool")
    given = second.attributes or {}
    if not captures:
        assert not {*names.REQUEST_PARAMETERS.values(), names.INPUT_MESSAGES, names.OUTPUT_MESSAGES} & set(given)
        return
    assert json.loads(str(given[names.INPUT_MESSAGES])) == [
        {"role": "system", "parts": [{"type": "text", "content": SECRET}]},
        {"role": "user", "parts": [{"type": "text", "content": f"question {SECRET}"}, {"type": "image_url"}]},
        {
            "role": "assistant",
            "parts": [{"type": "tool_call", "id": "c1", "name": "double", "arguments": {"number": 2}}],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "4"}]},
    ]
    assert json.loads(str(given[names.OUTPUT_MESSAGES])) == [
        {"role": "assistant", "parts": [{"type": "text", "content": SECRET}], "finish_reason": "stop"}
    ]
    assert json.loads(str(given[names.TOOL_DEFINITIONS]))[0]["function"]["name"] == "double"
    found = {name.rpartition(".")[2]: given[name] for name in given if name in names.REQUEST_PARAMETERS.values()}
    assert found == {"temperature": 0.5, "max_tokens": 77, "seed": 7}
    assert (given[names.STOP_SEQUENCES], given[names.CHOICE_COUNT]) == (("END",), 2)
    assert (tool.attributes or {})[names.TOOL_ARGUMENTS] == '{"number": 2}'
    assert (tool.attributes or {})[names.TOOL_RESULT] == "4"


@pytest.mark.parametrize("wanted", [True, False])
def test_the_server_joins_the_trace_when_wanted(
    face: Face, database: str, server: LoopbackServer, collected: Collected, wanted: bool
) -> None:
    """`traceparent` names the span of the call. The application's baggage, which may be anything, is not sent."""
    kit = face.kit(database, model="m", base_url=server.url, observers=[collected.observer(traceparent=wanted)])
    token = context.attach(baggage.set_baggage("user", "alice"))
    try:
        face.settle(kit.chat("k").send("hello"))
    finally:
        context.detach(token)
    (call,) = collected.spans("chat")
    sent = server.requests[0].headers
    found = find_context(call)
    expected = f"00-{found.trace_id:032x}-{found.span_id:016x}-{int(found.trace_flags):02x}" if wanted else None
    assert sent.get("traceparent") == expected
    assert not {"tracestate", "baggage"} & set(sent)


@pytest.mark.once
def test_a_summary_is_a_call_of_its_own(
    face: Face, database: str, server: LoopbackServer, collected: Collected
) -> None:
    """The span of a summary says so, and has the model that writes it."""
    server.answer = Writer()
    observers = [collected.observer()]
    kit = face.kit(
        database, model="m", base_url=server.url, budget=BUDGET, summary=SUMMARY, retry=ONCE, observers=observers
    )
    number = next_moves(face, kit.chat("k"))
    collected.exporter.clear()
    face.settle(kit.chat("k").send(f"turn number {number} and more"))
    spans = collected.spans("chat")
    assert [(each.name, (each.attributes or {}).get(names.IS_SUMMARY)) for each in spans] == [
        *(("chat mini", True), ("chat m", None)),
    ]


def test_a_closed_turn_is_an_event_of_the_application(
    face: Face, database: str, server: LoopbackServer, collected: Collected
) -> None:
    """A turn of a dead worker that was closed is reported in the current span."""
    kit = face.kit(database, model="m", base_url=server.url, observers=[collected.observer()])
    server.script(stream(["word "] * 300))
    leave(face, face.kit(database, model="m", base_url=server.url), "k", "first", after=1)
    with collected.tracers.get_tracer("app").start_as_current_span("cleaning"):
        face.settle(kit.recover())
    (event,) = collected.spans("cleaning")[0].events
    assert event.name == names.TURN_CLOSED
    assert (event.attributes or {})[names.TURN_STATE] == "abandoned"


@pytest.mark.once
def test_nothing_is_kept_of_ended_turns(face: Face, observed: Any, collected: Collected) -> None:
    """The observer forgets a turn at its end."""
    observer = observed._state.notifier._observers[0]
    face.settle(observed.chat("k").send("hello"))
    face.take(observed.chat("k").stream("left early"), 1)
    assert observer._runs == {}


@pytest.mark.once
def test_without_an_sdk_nothing_happens(face: Face, database: str, server: LoopbackServer) -> None:
    """The API alone records nothing, adds no header and raises nothing."""
    assert type(trace.get_tracer_provider()).__name__ == "ProxyTracerProvider"
    observers = [OpenTelemetryObserver(traceparent=True)]
    kit = face.kit(database, model="m", base_url=server.url, observers=observers)
    assert face.settle(kit.chat("k").send("hello")).text == "echo: hello"
    assert "traceparent" not in server.requests[0].headers


def test_only_one_module_spells_names(checkout: Path) -> None:
    """Attributes and metrics are named in names.py alone."""
    for path in (checkout / "convokit").rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                assert path.name == "names.py" or not node.value.startswith(("gen_ai.", "server.")), path


@pytest.mark.soak(sample=True)
def test_the_extra_needs_the_api_alone_and_says_so() -> None:
    """`convokit.telemetry` imports no SDK and no semantic conventions. Without the API, the error names the extra."""
    code = (
        "import sys, convokit; assert not [each for each in sys.modules if each.startswith('opentelemetry')];"
        "import convokit.telemetry; bad = [each for each in sys.modules if each.startswith(('opentelemetry.sdk',"
        " 'opentelemetry.semconv'))]; sys.exit(repr(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import sys; sys.modules['opentelemetry'] = None; import convokit.telemetry"
    ran = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "pip install 'convokit-sql[otel]'" in ran.stderr


def test_providers_have_the_names_of_the_conventions() -> None:
    """Known providers are named as the conventions do, by profile or by host. Others keep their names."""
    known = {"azure": "azure.ai.openai", "mistral": "mistral_ai", "api.groq.com": "groq", "openai": "openai"}
    assert {each: names.to_provider_name(each) for each in [*known, "vllm"]} == {**known, "vllm": "vllm"}
