"""MinAtar experiments."""
