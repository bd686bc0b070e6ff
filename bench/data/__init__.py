"""Rows from the Hub, a mirror or a file, and their encoding for a tokenizer."""
