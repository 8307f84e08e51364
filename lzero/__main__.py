"""``python -m lzero``."""

from lzero.command.main import main

if __name__ == "__main__":
    main()
