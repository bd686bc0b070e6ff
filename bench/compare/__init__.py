"""Two folders of runs put beside each other: the change in every metric, with its noise."""
