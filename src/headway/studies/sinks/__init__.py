"""Where attention sinks come from, and what mechanisms do to them."""
