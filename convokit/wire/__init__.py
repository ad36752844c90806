"""The Chat Completions API without I/O: bytes in, values out, values in, bytes out.

Nothing here opens a connection, waits, or reads a clock: what depends on the time takes it as an argument. `request` renders
what is sent (and sent again on replay), `messages` fits a history to one server, `response` reads what comes back, `errors`
names what went wrong.
"""
