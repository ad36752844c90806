"""Serve conversations to any client of the OpenAI API."""

from convokit.server.application import create_app
from convokit.server.gateway_settings import Authenticate, Caller, GatewayModel, GatewaySettings, allow_anyone

__all__ = ["Authenticate", "Caller", "GatewayModel", "GatewaySettings", "allow_anyone", "create_app"]
