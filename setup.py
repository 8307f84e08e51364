"""For tools that look for this file; everything it would say is in pyproject.toml."""

from setuptools import setup

setup()
