"""Show what convokit keeps, finds and proves: programs and texts."""
