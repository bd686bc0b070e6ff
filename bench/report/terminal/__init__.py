"""What the commands print: tables of results, plans, comparisons, checks and statistics."""
