"""Atari 2600 games."""
