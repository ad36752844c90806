"""Name the attributes, spans and metrics of the GenAI conventions.

The conventions have the status Development, so names may change. They are at
https://github.com/open-telemetry/semantic-conventions-genai. The package `opentelemetry-semantic-conventions` marks its GenAI
constants as deprecated. No other module spells a name.
"""

from __future__ import annotations

CHAT, EXECUTE_TOOL = "chat", "execute_tool"
TURN = "convokit.turn"
TURN_CLOSED = "convokit.turn.closed"

# Attributes of spans and metrics.
OPERATION_NAME = "gen_ai.operation.name"
PROVIDER_NAME = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
SERVER_ADDRESS, SERVER_PORT = "server.address", "server.port"
ERROR_TYPE = "error.type"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105  # no password

# Attributes of spans.
CONVERSATION_ID = "gen_ai.conversation.id"
REQUEST_STREAM = "gen_ai.request.stream"
RESPONSE_ID = "gen_ai.response.id"
FINISH_REASONS = "gen_ai.response.finish_reasons"
TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS = "gen_ai.usage.cache_creation.input_tokens"
REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"
HTTP_STATUS = "http.response.status_code"
TOOL_NAME, TOOL_CALL_ID, TOOL_TYPE = "gen_ai.tool.name", "gen_ai.tool.call.id", "gen_ai.tool.type"

# Attributes of convokit itself.
TENANT = "convokit.tenant"
BRANCH = "convokit.branch"
TURN_ID = "convokit.turn.id"
TURN_STATE = "convokit.turn.state"
CALL_NUMBER = "convokit.call.number"
CALL_STATE = "convokit.call.state"
IS_SUMMARY = "convokit.call.is_summary"
TOOL_STATE = "convokit.tool.state"

# Content, recorded only where CAPTURE_CONTENT asks for it.
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
TOOL_DEFINITIONS = "gen_ai.tool.definitions"
TOOL_ARGUMENTS, TOOL_RESULT = "gen_ai.tool.call.arguments", "gen_ai.tool.call.result"
OUTPUT_TYPE = "gen_ai.output.type"
CHOICE_COUNT = "gen_ai.request.choice.count"
MAX_TOKENS = "gen_ai.request.max_tokens"
STOP_SEQUENCES = "gen_ai.request.stop_sequences"
REQUEST_PARAMETERS = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
    "max_tokens": MAX_TOKENS,
    "max_completion_tokens": MAX_TOKENS,
}
"""The parameters of a body that are attributes as they are."""
CAPTURE_CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""The variable that allows content in spans, by one of CAPTURE_VALUES."""
CAPTURE_VALUES = frozenset({"true", "span_only", "span_and_event"})

# Metrics.
OPERATION_DURATION = "gen_ai.client.operation.duration"
TOKEN_USAGE = "gen_ai.client.token.usage"  # noqa: S105  # no password
FIRST_CHUNK_DURATION = "gen_ai.client.operation.time_to_first_chunk"
SECONDS_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKEN_BUCKETS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)

PROVIDERS = {"azure": "azure.ai.openai", "mistral": "mistral_ai"}
"""The conventions' names of providers, where they differ from those of profiles."""
PROVIDERS_BY_HOST = {
    "api.groq.com": "groq",
    "api.x.ai": "x_ai",
    "api.perplexity.ai": "perplexity",
    "api.moonshot.ai": "moonshot_ai",
    "api.anthropic.com": "anthropic",
}
"""The conventions' names of providers without a profile. Such a provider is known by its host."""


def to_provider_name(provider: str) -> str:
    """Return the conventions' name of a provider. An unknown one keeps its own."""
    return PROVIDERS.get(provider) or PROVIDERS_BY_HOST.get(provider) or provider
