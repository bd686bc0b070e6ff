"""Statistics, comparison of folders and the regression check: numbers in, numbers out, no printing."""
