"""The same turn in other libraries. Each adapter runs in an environment of its own and imports nothing of ours."""
