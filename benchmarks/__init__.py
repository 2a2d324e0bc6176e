"""Numbers that the project shows, each one a command: `python -m benchmarks NAME`."""
