"""Frozen values that every other floor speaks in. Nothing here reads a clock, a file, a socket or a database."""
