"""Record the parts that a request was built from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from convokit.completion.resolved_options import ResolvedOptions
from convokit.context.report import Context
from convokit.domain import hashchain
from convokit.domain.params import RequestParams
from convokit.domain.stored_request import Manifest, compute_prompt_digest
from convokit.domain.text import dump_json
from convokit.wire import request

_NOT_RECORDED = frozenset({"extra_headers"})
"""Headers may carry secrets. They are sent and stored nowhere."""
Prompt = tuple[bytes, str]
"""A developer prompt or tool set, after its digest."""


@dataclass(frozen=True, slots=True, repr=False)
class RequestRecord:
    """A manifest, and the prompts that it names by digest."""

    manifest: Manifest
    prompts: list[Prompt]


def record_request(
    options: ResolvedOptions, context: Context, *, stream: bool, now: float, transcript_of: Sequence[int] = ()
) -> RequestRecord:
    """Return what a request is made from, by reference.

    `now` (Unix time) is when its messages were made fit for the server. `transcript_of` are the seqs of the messages that the
    request holds as one text.
    """
    instructions, tools = options.instructions, dump_json(options.wire_tools) if options.wire_tools else None
    prompts = [(compute_prompt_digest(text), text) for text in (instructions, tools) if text]
    digests = {text: digest for digest, text in prompts}
    seqs = transcript_of or [part.key for part in context.report.parts if part.included and part.key is not None]
    ranges = _to_ranges(seqs)
    start = None if transcript_of else context.report.start
    params = {name: value for name, value in options.params.items() if name not in _NOT_RECORDED}
    has_audio = any("audio" in message for message in context.messages)
    manifest = Manifest(
        renderer=request.RENDERER,
        window=ranges,
        profile=options.profile,
        start=start if ranges and start != ranges[0][0] else None,
        transcript=bool(transcript_of),
        prompt=digests.get(instructions or ""),
        tools=digests.get(tools or ""),
        params=cast("RequestParams", params),
        partial=options.builder.partial,
        mode=options.mode,
        unsupported=options.unsupported,
        stream=stream,
        stable=context.report.stable_tokens,
        at=now if has_audio else None,
    )
    return RequestRecord(manifest, prompts)


def _to_ranges(seqs: Iterable[int]) -> list[list[int]]:
    """Return seqs as closed ranges."""
    ranges: list[list[int]] = []
    for seq in seqs:
        if ranges and seq == ranges[-1][1] + 1:
            ranges[-1][1] = seq
        else:
            ranges.append([seq, seq])
    return ranges


def digest_body(rendered: request.RenderedRequest) -> tuple[bytes, bytes]:
    """Return a new salt and the salted digest of the exact bytes to be sent."""
    salt = hashchain.new_salt()
    return salt, hashchain.compute_salted_digest(salt, rendered.data)
