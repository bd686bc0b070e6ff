"""Scores by name, computed offline; each file NAME.py is a metric that evaluate.load takes by its path."""
