"""Classic control experiments."""
