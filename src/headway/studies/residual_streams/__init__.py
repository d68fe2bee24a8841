"""Studies of attention residual streams (arXiv 2412.15113)."""
