"""The Chat Completions codec: requests to bytes and bytes to replies, without I/O.

`request` renders requests, `messages` adapts messages to a server, `response` reads replies, and `error_mapping` maps errors to
exceptions. No function here reads a clock: one that needs the time takes it as an argument.
"""
