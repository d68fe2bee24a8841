"""Language models as runs of a study."""
