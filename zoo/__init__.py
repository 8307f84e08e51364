"""Domains: environment factories and ready-to-run presets."""
