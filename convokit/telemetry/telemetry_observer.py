"""Record turns, API calls and tool calls as spans and metrics."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from convokit.observers import (
    CallEnded,
    CallEvent,
    CallStarted,
    Observer,
    ToolEnded,
    ToolStarted,
    TurnClosed,
    TurnEnded,
    TurnEvent,
    TurnStarted,
)
from convokit.telemetry import names
from convokit.telemetry.message_parts import encode, encode_messages

try:
    from opentelemetry import metrics, trace
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as missing:
    raise ImportError("convokit.telemetry needs its extra: pip install 'convokit-sql[otel]'") from missing

Attributes = dict[str, Any]
_NANOSECONDS = 1_000_000_000


class _RunSpans:
    """The open spans of one run of a turn, with the times at which they started."""

    def __init__(self, turn: Span) -> None:
        self.turn = turn
        self.call: tuple[Span, int] | None = None
        self.tools: dict[int, tuple[Span, int]] = {}


class OpenTelemetryObserver(Observer):
    """Records turns by the GenAI conventions of OpenTelemetry. Pass it to a kit: `observers=[OpenTelemetryObserver()]`.

    Spans:

    - `convokit.turn` for each turn, below the current span of the application
    - in it `chat {model}` for each API call, a CLIENT span
    - in it `execute_tool {name}` for each tool call

    Metrics:

    - `gen_ai.client.operation.duration`
    - `gen_ai.client.operation.time_to_first_chunk`, for streams
    - `gen_ai.client.token.usage`, for counts that the server reported

    Spans contain text and parameters only if the variable `OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT` is `true`,
    `span_only` or `span_and_event` when the observer is made. No span has an exception event.

    Args:
        tracer_provider: Makes the spans. Default: the global one.
        meter_provider: Makes the metrics. Default: the global one.
        traceparent: Whether the server gets the headers `traceparent` and `tracestate`, so that its spans join the trace.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        traceparent: bool = False,
    ) -> None:
        self.include_content = os.environ.get(names.CAPTURE_CONTENT, "").strip().lower() in names.CAPTURE_VALUES
        self._traceparent = traceparent
        self._tracer = trace.get_tracer("convokit", tracer_provider=tracer_provider)
        meter = metrics.get_meter("convokit", meter_provider=meter_provider)
        self._durations = meter.create_histogram(
            names.OPERATION_DURATION,
            unit="s",
            description="GenAI operation duration.",
            explicit_bucket_boundaries_advisory=names.SECONDS_BUCKETS,
        )
        self._first_chunks = meter.create_histogram(
            names.FIRST_CHUNK_DURATION,
            unit="s",
            description="Time to receive the first chunk.",
            explicit_bucket_boundaries_advisory=names.SECONDS_BUCKETS,
        )
        self._tokens = meter.create_histogram(
            names.TOKEN_USAGE,
            unit="{token}",
            description="Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=names.TOKEN_BUCKETS,
        )
        self._runs: dict[tuple[UUID, int], _RunSpans] = {}

    def turn_started(self, event: TurnStarted) -> None:
        """Start the span of the turn."""
        attributes = _describe_turn(event) | {names.BRANCH: event.branch, names.TENANT: event.tenant}
        span = self._tracer.start_span(names.TURN, attributes=attributes)
        self._runs[event.turn_id, event.epoch] = _RunSpans(span)

    def call_started(self, event: CallStarted) -> Mapping[str, str] | None:
        """Start the span of an API call."""
        run = self._find_run(event)
        if run is None:
            return None
        attributes = {
            **_describe_call(event),
            names.CONVERSATION_ID: str(event.conversation_id),
            names.REQUEST_STREAM: event.stream,
            names.CALL_NUMBER: event.number,
        }
        if event.is_summary:
            attributes[names.IS_SUMMARY] = True
        if event.messages is not None and event.parameters is not None:
            attributes |= _describe_parameters(event.parameters)
            attributes[names.INPUT_MESSAGES] = encode_messages(event.messages)
        span, started_at = self._start_span(run, f"{names.CHAT} {event.model}", attributes, SpanKind.CLIENT)
        run.call = span, started_at
        if not self._traceparent:
            return None
        headers: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(headers, trace.set_span_in_context(span))
        return headers

    def call_ended(self, event: CallEnded) -> None:
        """End the span of an API call, and record its metrics."""
        self._record_metrics(event)
        run = self._find_run(event)
        if run is None or run.call is None:
            return
        (span, started_at), run.call = run.call, None
        span.set_attributes(_describe_outcome(event))
        if event.replies:
            span.set_attribute(names.OUTPUT_MESSAGES, encode_messages(event.replies))
        if event.error is not None:
            _set_error(span, event.error)
        span.end(started_at + int(event.duration_s * _NANOSECONDS))

    def tool_started(self, event: ToolStarted) -> None:
        """Start the span of a tool call."""
        run = self._find_run(event)
        if run is None:
            return
        name = event.name or "unknown"
        attributes: Attributes = {
            names.OPERATION_NAME: names.EXECUTE_TOOL,
            names.TOOL_NAME: name,
            names.TOOL_CALL_ID: event.call_id,
            names.TOOL_TYPE: "function",
        }
        if event.arguments is not None:
            attributes[names.TOOL_ARGUMENTS] = event.arguments
        run.tools[event.position] = self._start_span(run, f"{names.EXECUTE_TOOL} {name}", attributes, SpanKind.INTERNAL)

    def tool_ended(self, event: ToolEnded) -> None:
        """End the span of a tool call."""
        run = self._find_run(event)
        if run is None or event.position not in run.tools:
            return
        span, started_at = run.tools.pop(event.position)
        span.set_attribute(names.TOOL_STATE, event.state)
        if event.result is not None:
            span.set_attribute(names.TOOL_RESULT, event.result)
        if event.error is not None:
            _set_error(span, event.error)
        span.end(None if event.duration_s is None else started_at + int(event.duration_s * _NANOSECONDS))

    def turn_ended(self, event: TurnEnded) -> None:
        """End the span of the turn."""
        run = self._runs.pop((event.turn_id, event.epoch), None)
        if run is None:
            return
        run.turn.set_attribute(names.TURN_STATE, event.state)
        if event.error is not None or event.state == "unsaved":
            _set_error(run.turn, event.error or event.state)
        run.turn.end()

    def turn_closed(self, event: TurnClosed) -> None:
        """Add an event to the current span of the application: another worker's turn was closed."""
        attributes = _describe_turn(event) | {names.TURN_STATE: event.state}
        trace.get_current_span().add_event(names.TURN_CLOSED, attributes)

    def _find_run(self, event: TurnEvent) -> _RunSpans | None:
        return self._runs.get((event.turn_id, event.epoch))

    def _start_span(self, run: _RunSpans, name: str, attributes: Attributes, kind: SpanKind) -> tuple[Span, int]:
        # Attributes that are set later are unknown to samplers.
        context, started_at = trace.set_span_in_context(run.turn), time.time_ns()
        return self._tracer.start_span(name, context, kind, attributes, start_time=started_at), started_at

    def _record_metrics(self, event: CallEnded) -> None:
        attributes = _describe_call(event)
        if event.served_model is not None:
            attributes[names.RESPONSE_MODEL] = event.served_model
        if event.usage_source == "reported":  # the conventions forbid estimates
            for kind, count in (("input", event.prompt_tokens), ("output", event.completion_tokens)):
                if count is not None:
                    self._tokens.record(count, {**attributes, names.TOKEN_TYPE: kind})
        if event.error is not None:
            attributes[names.ERROR_TYPE] = event.error
        self._durations.record(event.duration_s, attributes)
        if event.first_chunk_s is not None:
            self._first_chunks.record(event.first_chunk_s, attributes)


def _describe_turn(event: TurnEvent) -> Attributes:
    return {names.CONVERSATION_ID: str(event.conversation_id), names.TURN_ID: str(event.turn_id)}


def _describe_call(event: CallEvent) -> Attributes:
    return {
        names.OPERATION_NAME: names.CHAT,
        names.PROVIDER_NAME: names.to_provider_name(event.provider),
        names.REQUEST_MODEL: event.model,
        names.SERVER_ADDRESS: event.server_address,
        names.SERVER_PORT: event.server_port,
    }


def _describe_parameters(parameters: Mapping[str, Any]) -> Attributes:
    """Return the parameters of a request, and the tools that it offers."""
    found: Attributes = {name: parameters[key] for key, name in names.REQUEST_PARAMETERS.items() if key in parameters}
    if parameters.get("n", 1) != 1:
        found[names.CHOICE_COUNT] = parameters["n"]
    if "stop" in parameters:
        stop = parameters["stop"]
        found[names.STOP_SEQUENCES] = [stop] if isinstance(stop, str) else list(stop)
    if parameters.get("response_format"):
        found[names.OUTPUT_TYPE] = "text" if parameters["response_format"].get("type") == "text" else "json"
    if parameters.get("tools"):
        found[names.TOOL_DEFINITIONS] = encode(parameters["tools"])
    return found


def _describe_outcome(event: CallEnded) -> Attributes:
    values = {
        names.CALL_STATE: event.state,
        names.RESPONSE_ID: event.response_id,
        names.RESPONSE_MODEL: event.served_model,
        names.FINISH_REASONS: None if event.finish_reason is None else [event.finish_reason],
        names.TIME_TO_FIRST_CHUNK: event.first_chunk_s,
        names.HTTP_STATUS: event.status,
    }
    if event.usage_source == "reported":
        values |= {
            names.INPUT_TOKENS: event.prompt_tokens,
            names.OUTPUT_TOKENS: event.completion_tokens,
            names.CACHE_READ_TOKENS: event.cached_tokens,
            names.CACHE_WRITE_TOKENS: event.cache_write_tokens,
            names.REASONING_TOKENS: event.reasoning_tokens,
        }
    return {name: value for name, value in values.items() if value is not None}


def _set_error(span: Span, kind: str) -> None:
    """Mark a span as failed by the class of its error. Its message may quote the question, so no event records it."""
    span.set_attribute(names.ERROR_TYPE, kind)
    span.set_status(Status(StatusCode.ERROR))
