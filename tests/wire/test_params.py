"""Tests of validating request parameters, and of dropping one after an error."""

from __future__ import annotations

from typing import Any, cast

import pytest

from convokit.domain import params as request_params
from convokit.domain.params import RequestParams
from convokit.errors import ModelError, Rejected, SettingsError
from convokit.wire.request import drop_parameter


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frequency_penalty", 2.1),
        ("presence_penalty", -2.1),
        ("temperature", 2.5),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_p", 1.1),
        ("top_p", -0.1),
        ("top_logprobs", 21),
        ("n", 0),
        ("n", 129),
        ("stop", ["a", "b", "c", "d", "e"]),
        ("stop", []),
        ("max_output_tokens", 0),
        ("max_tokens", 0),
        ("max_completion_tokens", 1.5),
        ("logit_bias", {"1": 101}),
        ("logit_bias", {"1": float("nan")}),
        ("reasoning_effort", "extreme"),
        ("verbosity", "loud"),
        ("safety_identifier", "x" * 65),
        ("temprature", 1),
    ],
)
def test_b03_a_value_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        request_params.validate_params({name: value})
    assert caught.value.setting.startswith(name)


def test_b03_parameters_that_need_each_other_are_checked_together() -> None:
    with pytest.raises(SettingsError, match="logprobs"):
        request_params.validate_params({"top_logprobs": 2})
    with pytest.raises(SettingsError, match="modalities"):
        request_params.validate_params({"audio": {"format": "mp3", "voice": "x"}})
    with pytest.raises(SettingsError, match="max_output_tokens"):
        request_params.validate_params({"max_output_tokens": 1, "max_tokens": 1})


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({f"key{number}": "x" for number in range(17)}, "api_metadata"),
        ({"k" * 65: "x"}, "k" * 65),
        ({"ticket": "x" * 513}, "ticket"),
        ({"ticket": 42}, "ticket"),
    ],
)
def test_b04_metadata_over_a_limit_is_refused_by_its_key(metadata: dict[str, Any], named: str) -> None:
    """At most 16 pairs, with keys of 64 and values of 512 characters."""
    with pytest.raises(SettingsError, match=named):
        request_params.validate_params({"store": True, "api_metadata": metadata})


@pytest.mark.parametrize(
    ("given", "param", "left"),
    [
        ({"temperature": 1, "top_p": 1}, "temperature", {"top_p": 1}),
        ({"max_output_tokens": 1}, "max_tokens", {}),
        ({"max_tokens": 1, "n": 1}, "max_completion_tokens", {"n": 1}),
        ({"store": True, "api_metadata": {}}, "metadata", {"store": True}),
        ({"response_format": {"type": "text"}}, "response_format.type", {}),
        ({"extra_body": {"top_k": 1, "x": 2}}, "top_k", {"extra_body": {"x": 2}}),
        ({"n": 1}, "stream_options.include_usage", {"n": 1, "include_usage": False}),
        ({"n": 1, "include_usage": False}, "stream_options", None),
        ({"top_p": 1}, "temperature", None),
        ({"top_p": 1}, "messages[0].role", None),
        ({"top_p": 1}, None, None),
    ],
)
@pytest.mark.parametrize("code", ["unsupported_parameter", "unsupported_value"])
def test_b13_the_parameter_that_the_server_names_is_dropped(
    given: dict[str, Any], param: str | None, left: dict[str, Any] | None, code: str
) -> None:
    """Once: the same error drops nothing more."""
    params = cast("RequestParams", given)
    error = Rejected("x", status=400, code=code, param=param)
    found = drop_parameter(params, error)
    assert found == left
    assert params == given
    if found is not None:
        assert drop_parameter(found, error) is None


def test_b13_other_errors_drop_nothing() -> None:
    params: RequestParams = {"temperature": 1}
    assert drop_parameter(params, Rejected("x", code="decimal_above_max_value", param="temperature")) is None
    assert drop_parameter(params, ModelError("x")) is None
