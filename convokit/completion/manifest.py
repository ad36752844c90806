"""Writing down what a request is made of, so that it can be shown again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from convokit.completion.options import ResolvedOptions
from convokit.context.report import Context
from convokit.domain import hashchain
from convokit.domain.params import RequestParams
from convokit.domain.replay import Manifest, compute_prompt_digest
from convokit.domain.text import dump_json
from convokit.wire import request

_NOT_RECORDED = frozenset({"extra_headers"})
"""Headers may carry secrets: they are sent, and kept nowhere."""


@dataclass(frozen=True, slots=True, repr=False)
class Written:
    """A manifest as it is stored, and the texts it refers to that are stored apart."""

    text: str
    prompts: list[tuple[bytes, str]]


def written(
    plan: ResolvedOptions, context: Context, *, stream: bool, now: float, transcript_of: Sequence[int] = ()
) -> Written:
    """Return what a request is made of, by reference. `now` (Unix time) is when its messages were made fit for the server.

    `transcript_of` are the seqs that are in it as one text.
    """
    prompts: list[tuple[bytes, str]] = []
    ranges = _ranges(transcript_of or _sent(context))
    start = None if transcript_of else context.report.start
    params = {name: value for name, value in plan.params.items() if name not in _NOT_RECORDED}
    spoken = any("audio" in message for message in context.messages)
    made = Manifest(
        renderer=request.RENDERER,
        window=ranges,
        profile=plan.profile,
        start=start if ranges and start != ranges[0][0] else None,
        transcript=bool(transcript_of),
        prompt=_kept(plan.instructions, prompts),
        tools=_kept(dump_json(plan.wire_tools) if plan.wire_tools else None, prompts),
        params=cast("RequestParams", params),
        partial=plan.builder.partial,
        mode=plan.mode,
        unsupported=plan.unsupported,
        stream=stream,
        stable=context.report.stable_tokens,
        at=now if spoken else None,
    )
    return Written(made.to_json(), prompts)


def _kept(text: str | None, prompts: list[tuple[bytes, str]]) -> bytes | None:
    if not text:
        return None
    prompts.append((compute_prompt_digest(text), text))
    return prompts[-1][0]


def _sent(context: Context) -> list[int]:
    """Return the seqs that were sent, in their order."""
    return [part.key for part in context.report.parts if part.included and part.key is not None]


def _ranges(seqs: Iterable[int]) -> list[list[int]]:
    """Return seqs as closed ranges."""
    ranges: list[list[int]] = []
    for seq in seqs:
        if ranges and seq == ranges[-1][1] + 1:
            ranges[-1][1] = seq
        else:
            ranges.append([seq, seq])
    return ranges


def renumbered(context: Context, seqs: Mapping[int, int]) -> Context:
    """Return the context with messages under the seqs that they have got: until they are written, theirs are only expected."""
    report = context.report
    values: dict[str, Any] = {
        "parts": tuple(
            replace(part, key=seqs.get(part.key, part.key)) if part.key is not None else part for part in report.parts
        ),
        "start": None if report.start is None else seqs.get(report.start, report.start),
    }
    return context.model_copy(update={"report": report.model_copy(update=values)})


def body_digest(rendered: request.RenderedRequest) -> tuple[bytes, bytes]:
    """Return a new salt and the salted digest of the exact bytes to be sent."""
    salt = hashchain.new_salt()
    return salt, hashchain.compute_salted_digest(salt, rendered.data)
