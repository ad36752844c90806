"""The context builder: developer prompt plus trimmed history, as a `messages` array that is always valid.

Pure: no database, no network, no clock, and nothing that is passed in is ever changed.
"""
