"""The gate for continuous integration: a baseline of what was measured, and a check against it."""
