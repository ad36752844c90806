"""Hold the subcommands, one module for each."""
