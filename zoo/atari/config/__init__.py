"""Atari experiments."""
