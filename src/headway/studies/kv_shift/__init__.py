"""Studies of KV shifting attention (arXiv 2411.19574)."""
