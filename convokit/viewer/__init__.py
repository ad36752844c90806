"""Show conversations in the browser: read, search, audit and follow them."""

from convokit.viewer.access import Authenticate, Viewer
from convokit.viewer.application import create_app
from convokit.viewer.guard import LOOPBACK_HOSTS

__all__ = ["LOOPBACK_HOSTS", "Authenticate", "Viewer", "create_app"]
