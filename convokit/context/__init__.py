"""Build the `messages` array of a request.

The package reads no database, network or clock, and changes nothing that is passed in.
"""

from convokit.context.builder import ContextBuilder
from convokit.context.report import Context, LastCall, Part, Report
from convokit.context.strategy import Everything, Item, LastTurns, Selection, StepWindow, Strategy, View
from convokit.context.validity import find_problems

__all__ = [
    "Context",
    "ContextBuilder",
    "Everything",
    "Item",
    "LastCall",
    "LastTurns",
    "Part",
    "Report",
    "Selection",
    "StepWindow",
    "Strategy",
    "View",
    "find_problems",
]
