"""Whatever manager plays, the ring gets what our own collector would have written."""

from functools import partial

import numpy as np
import pytest
from ding.envs import create_env_manager

from lzero.ding import LZeroEnv, ManagedCollector, env_cfgs
from lzero.ding.collector import close_manager
from lzero.entry.checkpointing import env_seed
from lzero.logging import PhaseTimer
from lzero.replay.rings import RESET
from lzero.worker.actor import Decision
from lzero.worker.collector import Collector
from tests.ding import cases

STEPS = 30  # more than three episodes with their reset rows


def chosen(observation: np.ndarray) -> int:
    """An action that depends on the picture alone."""
    return int(observation[0].argmax() + observation[1].argmax()) % 3


class Scripted:
    """Acts by :func:`chosen`: as ``collect_mode`` and as actor."""

    def __init__(self) -> None:
        self.forgotten: list[int] = []

    def forward(self, data, random=False):
        policy = np.full(3, 1 / 3, np.float32)
        return {
            number: {"action": np.array(chosen(np.asarray(seen))), "policy": policy, "value": 0.0}
            for number, seen in data.items()
        }

    def reset(self, numbers) -> None:
        self.forgotten += numbers

    def act(self, observation: np.ndarray) -> Decision:
        action = np.array([chosen(seen) for seen in observation])
        policy = np.full((len(action), 3), 1 / 3, np.float32)
        zeros = np.zeros(len(action), np.float32)
        return Decision(action, policy, zeros, policy, zeros, zeros)

    def forget(self, ended: np.ndarray) -> None:
        pass


@pytest.fixture(scope="module")
def ours():
    """Replay of our own collector, and what it counted."""
    parts = cases.made(cases.experiment())
    collector = Collector(parts.foundation.env, Scripted(), parts.replay, PhaseTimer())
    collector.begin(env_seed(cases.SEED, 0))
    return parts.replay, collector.collect(STEPS)


@pytest.mark.parametrize(
    "kind", ["base", "base_v2", "async_subprocess", "subprocess", "subprocess_v2"]
)
def test_every_manager_brings_the_same_transitions(kind, ours):
    replay, counted = ours
    cfg = cases.compiled(cases.experiment(), kind)
    parts = cases.made(cases.experiment())
    cfgs = env_cfgs(cfg.env.lzero, training=True)
    manager = create_env_manager(cfg.env.manager, [partial(LZeroEnv, cfg=one) for one in cfgs])
    manager.seed([env_seed(cases.SEED, 0)] * len(cfgs))
    manager.launch()
    mode = Scripted()
    try:
        collector = ManagedCollector(
            manager, mode, parts.replay, parts.foundation.env.legal_actions
        )
        first = collector.collect(STEPS - 10)
        second = collector.collect(10)
    finally:
        close_manager(manager)

    assert parts.replay.head == replay.head == STEPS
    np.testing.assert_array_equal(parts.replay._rings.frames, replay._rings.frames)
    rows, expected = parts.replay._rings.rows, replay._rings.rows
    acting = (expected["flags"] & RESET) == 0
    assert acting[:, :STEPS].sum() < acting[:, :STEPS].size, "episodes end within the steps"
    for name in ("flags", "reward", "visits", "root_value"):
        np.testing.assert_array_equal(rows[name], expected[name], err_msg=name)
    np.testing.assert_array_equal(rows["action"][acting], expected["action"][acting])
    np.testing.assert_array_equal(first.steps + second.steps, counted.steps)
    np.testing.assert_array_equal(first.reward + second.reward, counted.reward)
    ended = [number for part in counted.episodes for number in part.env]
    # environments that were ahead may have ended one episode more
    assert all(mode.forgotten.count(number) >= ended.count(number) for number in set(ended))


def test_an_episode_that_was_left_is_not_played_again():
    [cfg, *_] = env_cfgs(cases.compiled(cases.experiment()).env.lzero, training=True)
    env = LZeroEnv(cfg)
    env.seed(5)
    first = env.reset()
    np.testing.assert_array_equal(env.reset(), first)  # nothing was played of it yet
    starts = {first.tobytes()}
    for _ in range(4):
        env.step(1)
        starts.add(env.reset().tobytes())
    assert len(starts) > 1
    env.seed(5)
    np.testing.assert_array_equal(env.reset(), first)
    env.close()
