"""Replay: rings of env steps, prioritised, written to disk in chunks of frames."""
