"""Test applications against a scripted model.

`convokit.testing.fixtures` has fixtures for pytest. This module does not import pytest.
"""

from convokit.testing.script import ScriptedCall, ScriptedError, ScriptedReply
from convokit.testing.scripted_model import RecordedRequest, ScriptedModel

__all__ = ["RecordedRequest", "ScriptedCall", "ScriptedError", "ScriptedModel", "ScriptedReply"]
