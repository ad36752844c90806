"""Count the tokens of texts, messages and tools."""

from convokit.tokens.counter import Counter, choose_counter, count_message, count_schema, count_tools
from convokit.tokens.estimate import CharacterEstimate
from convokit.tokens.exact import ExactTokens

__all__ = [
    "CharacterEstimate",
    "Counter",
    "ExactTokens",
    "choose_counter",
    "count_message",
    "count_schema",
    "count_tools",
]
