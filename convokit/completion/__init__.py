"""The completion service: a turn, from the question to the saved reply, as one generator of effects."""
