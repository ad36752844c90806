"""Run the programs of `examples/`."""
