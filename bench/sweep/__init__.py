"""From a request to runs: grid, tuning, scheduling, executors."""
