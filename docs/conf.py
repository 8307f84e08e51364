"""Sphinx: the pages of this folder, and API pages from the docstrings. ``make docs`` builds them into ``docs/_build/html``."""

import importlib.metadata

project = "lzero"
author = "the lzero authors"
version = release = importlib.metadata.version("lzero")

extensions = [
    "myst_parser",  # pages are Markdown, which GitHub shows too
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",  # docstrings with Args, Returns, Raises
    "sphinx.ext.viewcode",
]
# names of fields in typehints, which several classes have
suppress_warnings = ["ref.python"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3  # links to headings, as GitHub makes them
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_use_ivar = True  # attributes stand with their class, and not once more by themselves
html_theme = "furo"
html_title = f"lzero {release}"
