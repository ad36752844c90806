"""Read what each page shows.

A page is a function from its request to a value.
"""
