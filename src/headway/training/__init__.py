"""Training: one run from a seed, what is measured beside its loss, and what a step costs."""
