"""Studies: questions put to the mechanisms, and how they are answered."""
