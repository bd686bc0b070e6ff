"""One run: prepare, measure, train, evaluate, verify; and the meters that it reads."""
