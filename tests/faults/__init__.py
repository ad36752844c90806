"""Faults: what is injected here happens to every service that runs long enough."""
