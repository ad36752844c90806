"""Python functions as tools: the decorator, arguments and results."""
