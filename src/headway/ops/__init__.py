"""Pure tensor functions: what the mathematics says. No modules, no configuration."""
