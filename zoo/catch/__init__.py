"""A tiny Catch game whose two tasks look alike and act alike in mirror image."""
