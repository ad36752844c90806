"""The completion service: run a turn from question to saved reply.

A turn is one generator of effects (`completion/effects.py`). The drivers in `convokit.runtime` perform them.
"""
