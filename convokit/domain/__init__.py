"""Define the values that all other packages use. No module here does I/O or reads a clock."""
