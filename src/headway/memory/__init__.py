"""Associative memories: what attention is likened to, without weights that are trained."""
