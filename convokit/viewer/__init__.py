"""Show conversations in the browser: read, search, audit and follow them."""

from convokit.viewer.access import Authenticate, Viewer
from convokit.viewer.routes import create_app

__all__ = ["Authenticate", "Viewer", "create_app"]
