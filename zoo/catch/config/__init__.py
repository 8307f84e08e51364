"""Catch experiments."""
