"""A tiny Catch game in two versions, which look alike and act alike in mirror image."""
