"""The same model with and without each mechanism."""
