"""``python -m lzero.report``."""

from lzero.report.command import main

main()
