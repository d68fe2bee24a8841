"""Studies of layerwise attention shortcuts (arXiv 2409.10870)."""
