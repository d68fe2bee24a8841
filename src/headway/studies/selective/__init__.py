"""Studies of selective self-attention (arXiv 2411.12892)."""
