"""Make the rows of API calls and compute their leases."""

from __future__ import annotations

from uuid import UUID

from convokit.completion import retry
from convokit.completion.manifest import digest_body
from convokit.completion.prepare import PreparedRequest
from convokit.domain import hashchain
from convokit.domain.text import dump_json
from convokit.domain.turn import CallRow

LEASE_MARGIN_S = 10.0


def longest_silence_s(request: PreparedRequest) -> float:
    """Return the longest silence before a call's first chunk: a plain answer is silent until it is complete."""
    timeouts = request.options.timeouts
    return timeouts.first_byte_s + timeouts.stall_s if request.stream else timeouts.total_s


def lease_us(longest_silence_s: float) -> int:
    """Return a lease that covers the longest silence that a call may still have."""
    return int((longest_silence_s + LEASE_MARGIN_S) * 1_000_000)


def new_call_row(request: PreparedRequest, turn_id: UUID, now: int, *, number: int = 1) -> CallRow:
    """Return the row of a call that is about to be made. Its prompt is estimated, in case its worker dies before it ends."""
    salt, digest = digest_body(request.rendered)
    return CallRow(
        turn_id=turn_id,
        number=number,
        state="sending",
        manifest=request.record.manifest.to_json(),
        body_salt=salt,
        body_digest=digest,
        requested_model=request.options.model,
        provider=request.options.provider,
        started_at=now,
        prompt_tokens=request.context.report.tokens,
        usage_source="estimated",
    )


def record_failure(row: CallRow, error: Exception, now: int) -> None:
    """Write into the row how the call failed. No text of a user or model is kept in it."""
    row.state, row.usage_source, row.prompt_tokens = "error", "absent", None
    row.error = dump_json(retry.describe_error(error))
    row.ended_at = now
    row.salt = hashchain.new_salt()
