"""Loaded before any test."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several test processes share the cores

import lzero  # noqa: E402, F401  (before torch: it sets how OpenMP threads wait)

LONGEST = (
    "test_learning.py",
    "test_kills.py",
    "test_lost_rank.py",
    "test_full_disk.py",
    "test_presets_start.py",
    "test_train_ppo_moe.py",
    "test_soak.py",
)

LONG = (
    "test_learning.py::test_an_agent_that_cannot_tell",
    "test_kills.py::test_killed_again_and_again[minatar]",
    "test_kills.py::test_killed_again_and_again[catch on 2 ranks]",
    "test_full_disk.py::test_a_full_file_system[2500k]",
    "test_full_disk.py::test_a_full_file_system[5m]",
    "test_full_disk.py::test_files_that_may_not_grow[curves]",
    "test_signals.py::test_a_stopped_run_goes_on_as_if_nothing_had_happened[Ctrl-C]",
    "test_exact_resume.py::test_a_run_goes_on_as_if_nothing_had_happened[minatar]",
    "test_exact_resume.py::test_a_run_goes_on_as_if_nothing_had_happened[classic]",
    "test_exact_resume.py::test_a_run_goes_on_as_if_nothing_had_happened[catch, more",
    "test_soak.py::test_a_long_run_stays_as_it_is",
    "test_lost_rank.py::test_a_killed_rank_is_started_again_from_the_checkpoint[0]",
    "test_lost_rank.py::test_a_rank_that_dies_before_it_has_met",
    "test_shards.py::test_a_run_goes_on_with_another_number_of_processes[2-3]",
    "test_shards.py::test_a_run_goes_on_with_another_number_of_processes[2-1]",
    "test_commands.py::test_the_real_command[one task shared]",
    "test_presets_start.py::test_it_starts[atari-moe-atari8_gumbel]",
    "test_presets_start.py::test_it_starts[atari-moe-atari26_gumbel]",
    "test_presets_start.py::test_it_starts[atari-dense-atari8_gumbel]",
    "test_presets_start.py::test_it_starts[atari-dense-atari26_gumbel]",
)
"""Cases of a minute or half of one that show in another setting what a case beside them shows; ``make test-long`` runs them."""


@pytest.hookimpl(tryfirst=True)  # before those with the mark are left out
def pytest_collection_modifyitems(items):
    """The longest files begin first, so that the other test processes do not wait for them at the end."""
    for item in items:
        if f"{item.path.name}::{item.name}".startswith(LONG):
            item.add_marker(pytest.mark.long)
    items.sort(
        key=lambda item: (
            LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST)
        )
    )
