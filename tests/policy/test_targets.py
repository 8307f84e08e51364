"""Targets against a brute-force computation per episode, on random streams through the replay ring."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from lzero.policy.targets import episode_masks, step_masks, value_targets
from lzero.replay.buffer import ReplayBuffer, ReplayWindows

H, TD, DISCOUNT = 4, 3, 0.9
K = H + TD + 1


def value_of(frame_id: np.ndarray | torch.Tensor) -> np.ndarray:
    """V of an observation: a fixed random function of its id."""
    return np.sin(np.asarray(frame_id, np.float64) * 12.9898) * 5


@dataclass
class Episode:
    """What a learner may know of one life: observations s_0 … s_n, or s_0 … s_{n−1} if it ended by death."""

    frames: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)

    def value_target(self, t: int) -> float:
        m = min(TD, len(self.rewards) - t)
        target = sum(DISCOUNT**k * self.rewards[t + k] for k in range(m))
        if t + m < len(self.frames):
            target += DISCOUNT**m * float(value_of(self.frames[t + m]))
        return target


class Game:
    """An environment under NEXT_STEP autoreset that remembers to which episode and step each row belongs."""

    def __init__(self, ring: int) -> None:
        self.rng = np.random.default_rng(ring)
        self.ring, self.episode, self.over = ring, Episode(), False
        self.at_row: dict[int, tuple[Episode, int]] = {}

    def row(self, step: int) -> dict[str, object]:
        frame_id = step * 10 + self.ring
        reward = float(np.float32(self.rng.normal()))
        row = dict.fromkeys(("terminated", "truncated", "reset"), False)
        row |= {"observation": [frame_id], "reward": reward}
        if (
            self.over
        ):  # the final observation of an episode that ended one row ago, or one more reset row
            if self.episode.rewards:
                self.episode.frames.append(frame_id)
            self.episode = Episode()
            self.over = self.rng.random() < 0.2
            return row | {"reset": True}
        self.at_row[step] = (self.episode, len(self.episode.rewards))
        self.episode.frames.append(frame_id)
        self.episode.rewards.append(reward)
        ending = self.rng.random()
        if ending < 0.08:  # death: a final observation follows, but the return must not reach it
            self.episode, self.over = Episode(), True
            return row | {"terminated": True, "truncated": ending < 0.02}
        if ending < 0.16:  # a lost life: the game goes on
            self.episode = Episode()
            return row | {"terminated": True}
        if ending < 0.24:
            self.over = True
            return row | {"truncated": True}
        return row

    def restart(self, last: int) -> None:
        """Start a new game behind row ``last``. An action there is given up unless it killed."""
        if last in self.at_row and self.at_row[last][0] is self.episode:
            self.episode.rewards.pop()
            del self.at_row[last]
        self.episode, self.over = Episode(), False


def play(buffer: ReplayBuffer, games: list[Game], steps: int) -> None:
    rings = len(games)
    for step in range(buffer.head, buffer.head + steps):
        rows = [game.row(step) for game in games]
        columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        columns["observation"] = columns["observation"].astype(np.int64)
        zeros = np.zeros(rings, int)
        buffer.append(action=zeros, visits=np.ones((rings, 2)) / 2, root_value=zeros, **columns)


def make_buffer(num_rings: int) -> ReplayBuffer:
    return ReplayBuffer(np.zeros(num_rings, int), 37, (1,), np.int64, 2, K)


def targets_of(windows: ReplayWindows) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    acting, observed = episode_masks(windows.terminated, windows.truncated, windows.reset)
    values = torch.from_numpy(value_of(windows.observation[..., 0]))
    target = value_targets(
        windows.reward, acting, observed, values, discount=DISCOUNT, td_steps=TD, num_steps=H + 1
    )
    return acting, observed, target


def test_targets_and_masks_equal_brute_force_over_episodes():
    games = [Game(ring) for ring in range(5)]
    buffer = make_buffer(5)
    rng, checked, ends = np.random.default_rng(0), 0, 0
    for steps in (20, 9, 50, 113, 40):  # the ring of 37 rows wraps several times
        play(buffer, games, steps)
        windows = buffer.sample({0: 150}, rng)
        acting, observed, target = targets_of(windows)
        counted, led_on = step_masks(acting, observed, num_steps=H + 1)
        assert led_on.shape == (150, H)
        for i, (ring, start) in enumerate(windows.index.tolist()):
            at_row = games[ring].at_row
            episode, first = at_row[start]
            for t in range(H + 1):
                same_episode = start + t in at_row and at_row[start + t][0] is episode
                assert counted[i, t] == same_episode
                if t < H:
                    has_next = same_episode and first + t + 1 < len(episode.frames)
                    assert led_on[i, t] == has_next
                    if has_next:
                        assert windows.observation[i, t + 1, 0] == episode.frames[first + t + 1]
                if same_episode:
                    assert target[i, t].item() == pytest.approx(
                        episode.value_target(first + t), abs=1e-5
                    )
                    checked += 1
                    ends += len(episode.rewards) - first - t < TD
    assert checked > 1500 and ends > 500


def test_a_cut_bootstraps_like_a_truncation():
    """Before the seam of a restart, returns bootstrap at the last frame; nothing of the new games shows."""
    games = [Game(ring) for ring in range(12)]
    buffer = make_buffer(12)
    play(buffer, games, 45)
    buffer.cut()
    for game in games:
        game.restart(last=44)
    play(buffer, games, 12)
    windows = buffer.sample({0: 600}, np.random.default_rng(1))
    acting, _, target = targets_of(windows)
    near_seam = 0
    for i, (ring, start) in enumerate(windows.index.tolist()):
        episode, first = games[ring].at_row[start]
        assert acting[i, 0]
        assert target[i, 0].item() == pytest.approx(episode.value_target(first), abs=1e-5)
        near_seam += 44 - TD <= start <= 44
    assert near_seam > 50


def flags(**rows: list[int]) -> dict[str, torch.Tensor]:
    """Flags of one window of K rows, set at the given rows."""
    window = {
        name: torch.zeros(1, K, dtype=torch.bool) for name in ("terminated", "truncated", "reset")
    }
    for name, where in rows.items():
        window[name][0, where] = True
    return window


@pytest.mark.parametrize(
    ("rows", "num_acting", "num_observed"),
    [
        ({}, K, K),
        ({"terminated": [2], "reset": [3]}, 3, 3),
        ({"terminated": [2]}, 3, 3),
        ({"truncated": [2], "reset": [3]}, 3, 4),
        ({"truncated": [2], "reset": [3, 4]}, 3, 4),
        ({"truncated": [2], "terminated": [2], "reset": [3]}, 3, 3),
        ({"truncated": [2]}, 3, 4),  # even without its reset row a truncated episode does not go on
        ({"reset": [0]}, 0, 1),
        ({"truncated": [K - 1]}, K, K),
    ],
)
def test_masks_of_single_windows(rows, num_acting, num_observed):
    acting, observed = episode_masks(**flags(**rows))
    assert acting[0].tolist() == [t < num_acting for t in range(K)]
    assert observed[0].tolist() == [t < num_observed for t in range(K)]


def test_masks_are_monotone_and_inputs_stay():
    given = [torch.rand(200, K) < 0.15 for _ in range(3)]
    copies = [mask.clone() for mask in given]
    for mask in episode_masks(*given):
        assert (mask[:, 1:] <= mask[:, :-1]).all()
    assert all(torch.equal(*pair) for pair in zip(given, copies, strict=True))


def test_without_an_end_the_target_is_the_plain_n_step_return():
    reward, value = torch.randn(2, K), torch.randn(2, K)
    alive = torch.ones(2, K, dtype=torch.bool)
    target = value_targets(reward, alive, alive, value, discount=0.5, td_steps=3, num_steps=H + 1)
    for t in range(H + 1):
        rewards = reward[:, t] + 0.5 * reward[:, t + 1] + 0.25 * reward[:, t + 2]
        torch.testing.assert_close(target[:, t], rewards + 0.125 * value[:, t + 3])
    assert target.dtype == torch.float32


def test_values_behind_the_end_do_not_leak():
    """Not even infinite ones: a masked frame may hold anything."""
    masks = episode_masks(**flags(terminated=[1], reset=[2]))
    value = torch.full((1, K), float("inf"))
    reward = torch.arange(1.0, K + 1)[None]
    reward[0, 2:] = float("nan")
    target = value_targets(reward, *masks, value, discount=0.5, td_steps=TD, num_steps=H + 1)
    assert target[0, :2].tolist() == [1 + 0.5 * 2, 2]


def test_short_windows_are_refused():
    mask = torch.ones(1, K - 1, dtype=torch.bool)
    with pytest.raises(ValueError, match=f"{K - 1} rows"):
        value_targets(
            mask.float(), mask, mask, mask.float(), discount=1.0, td_steps=TD, num_steps=H + 1
        )
