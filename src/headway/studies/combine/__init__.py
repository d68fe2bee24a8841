"""Which mechanisms are worth having together."""
