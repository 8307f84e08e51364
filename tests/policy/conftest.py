"""What an update learned from, for its tests."""

import pytest

from lzero.policy import unizero_multitask
from lzero.policy.targets import Batch


@pytest.fixture
def seen_targets(monkeypatch) -> list[Batch]:
    """What every update learned from."""
    seen: list[Batch] = []
    make_batch = unizero_multitask.make_batch

    def recording(*arguments):
        seen.append(make_batch(*arguments))
        return seen[-1]

    monkeypatch.setattr(unizero_multitask, "make_batch", recording)
    return seen
