"""Perform the effects of flows: the drivers and the HTTP client."""
