"""Statistics of a comparison: intervals over seeds, paired tests, rank groups, what would settle a tie, fronts.

Reads records and arrays alone; needs numpy and scipy, never torch. Importing this package imports neither: take what
you need from its modules.

- ``scores``: one run's score and how it varies with the examples (a ``Sample``), from predictions and references.
- ``estimate``: a mean over seeds and examples with its interval and p-value, from two variances.
- ``paired``: two methods from their samples by seed: exact McNemar, paired bootstrap, or both seeds and examples.
- ``family``: Holm's correction and the letters that say which methods cannot be told apart.
- ``power``: the difference that could have been seen, and how many seeds or examples would show the one observed.
- ``tasks``: average and average rank over several tasks, Pareto front, and PSCP.
- ``predictions``: the per-example predictions of a record, checked.
- ``analysis``: all of this for a list of records and their folder.
"""
