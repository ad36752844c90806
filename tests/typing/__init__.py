"""Public types, pinned: read by the type checkers, never run."""
