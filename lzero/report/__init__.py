"""Reports on runs: ``python -m lzero.report RUN …``; in Python ``load_runs`` gives every number in
one table, ``read_runs`` typed records.

How a report is made, in the order of reading: ``run_data`` reads runs and finds which are seeds of
one experiment; ``statistics`` and ``curves`` make curves and final scores of them (``components``
are the places where gradients were compared, ``last_part`` the ends of training); a ``study``
holds all that; ``pictures`` is the table of all pictures, whose panels are made in ``panels`` and
drawn in ``figures``; ``matrices`` has pictures of matrices; ``tables``, ``analysis_tables`` and
``notes`` make the numbers and the texts; ``page`` and ``command`` put them together.

Two experiments against each other: ``student`` has the intervals, equivalence and power of few
seeds, ``differences`` what is compared, ``difference_tables`` what a reader sees of it; ``windows``
tells which windows of the expert selection fit the stretches of training that are compared.

Over games: ``scale`` makes them comparable, ``aggregates`` are the statistics of scores over games
and seeds, ``comparison`` and ``paired`` the tables of experiments against each other; ``headline``
says who is ahead. The page is made of ``blocks``, written by ``page.html.jinja``; ``films`` has its
videos, ``resources`` what runs took and where they ran. ``long_table`` is for pandas. Of PPO:
``turns`` are those of continual runs, ``continual`` tells what they forget. ``ppo_pictures`` has
their pictures, of which ``forest`` draws dots with whiskers, and ``page_tables`` their tables.
"""

from lzero.report.long_table import load_runs
from lzero.report.run_data import Group, RunData, RunDataError, Series, group_runs, read_runs

__all__ = [
    "Group",
    "RunData",
    "RunDataError",
    "Series",
    "group_runs",
    "load_runs",
    "read_runs",
]
