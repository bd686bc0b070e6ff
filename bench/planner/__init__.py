"""Memory before a run: the storage tracker over fake tensors, from a configuration alone."""
