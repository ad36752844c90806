"""Make tools of Python functions."""
