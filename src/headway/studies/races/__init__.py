"""Arms that are compared in steps to a score, each at its own learning rate."""
