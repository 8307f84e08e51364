"""Log records of a program: what is shown of them, and how."""

import logging

import rich
from rich.logging import RichHandler


def setup_logging(is_main: bool, packages: tuple[str, ...] = ("lzero", "zoo")) -> None:
    """Show log records: this project's from INFO on rank 0, all else from WARNING.

    Rich draws them in a terminal; elsewhere each record is one plain line, which rich would wrap. A
    program that has configured the root logger already keeps its handlers.
    """
    console = rich.get_console()
    if console.is_terminal:
        handler: logging.Handler = RichHandler(
            console=console, show_path=False, log_time_format="[%X]"
        )
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler(console.file)
        handler.setFormatter(
            logging.Formatter("[%(asctime)s] %(levelname)s %(message)s", "%H:%M:%S")
        )
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for package in packages:
        logging.getLogger(package).setLevel(logging.INFO if is_main else logging.WARNING)
