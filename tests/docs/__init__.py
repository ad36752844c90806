"""The documentation, held to its word: every block runs, every link leads somewhere, every generated page is current."""
