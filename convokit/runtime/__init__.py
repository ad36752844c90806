"""The only floor that waits: two drivers that perform a flow's effects, and the HTTP client behind a small protocol."""
