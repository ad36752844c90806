"""Reading back: whether the history is the one that was written, what was sent, what it cost."""
