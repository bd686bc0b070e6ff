"""The command line, one module per command, and the Python API."""
