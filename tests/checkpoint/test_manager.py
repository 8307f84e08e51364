"""Checkpoints that are written, replaced, damaged and read back; training that goes on from one."""

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lzero.checkpoint import (
    CheckpointError,
    CheckpointManager,
    damaged_files,
    list_checkpoints,
    load_optimizer_state_,
    load_state,
    load_tensors,
    optimizer_state_to_tensors,
    read_manifest,
    rng_state,
    set_rng_state,
)
from lzero.distributed import Distributed


class KilledError(Exception):
    """Stands for a process that dies."""


@dataclass(frozen=True)
class ThreadRank(Distributed):
    """A rank that is a thread of this process."""

    meeting: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))

    gathered: list = field(default_factory=list)

    def barrier(self) -> None:
        self.meeting.wait(timeout=10)

    def all_gather_array(self, array: np.ndarray) -> list[np.ndarray]:
        if self.world_size == 1:
            return [array]
        self.gathered[self.rank] = array
        self.barrier()
        answers = list(self.gathered)
        self.barrier()
        return answers


def kill(*_: object) -> None:
    raise KilledError


def save(manager: CheckpointManager, train_iter: int, **arguments) -> Path:
    return manager.save(
        train_iter,
        {"model": {"w": torch.full((2,), float(train_iter))}},
        {"i": train_iter},
        **arguments,
    )


@pytest.fixture
def directory(tmp_path) -> Path:
    return tmp_path / "run" / "checkpoints"


def test_round_trip_is_bit_identical(directory):
    generator = torch.Generator().manual_seed(0)
    model = {
        "weight": torch.randn(4, 3, generator=generator),
        "channels_last": torch.randn(2, 3, 4, 5, generator=generator).to(
            memory_format=torch.channels_last
        ),
        "low_precision": torch.randn(5, generator=generator).bfloat16(),
        "count": torch.tensor(2**40),
        "mask": torch.tensor([True, False]),
        "special": torch.tensor([float("nan"), float("inf"), -0.0]),
    }
    state = {"env_step": 10**12, "config_hash": "abc", "returns": {"Pong": -20.5}}
    path = CheckpointManager(directory).save(
        123, {"model": model, "target": {}}, state, rank_state={"seed": 3}
    )

    assert path == directory / "step_000123"
    loaded = load_tensors(path, "model")
    assert loaded.keys() == model.keys()
    for name, tensor in model.items():
        assert loaded[name].dtype == tensor.dtype and loaded[name].shape == tensor.shape
        bits, expected = (
            t.contiguous().reshape(-1).view(torch.uint8) for t in (loaded[name], tensor)
        )
        assert torch.equal(bits, expected), name
    assert load_tensors(path, "target") == {}
    assert load_state(path) == state
    assert load_state(path, rank=0) == {"seed": 3}


def test_tensors_that_share_memory_are_written_each(directory):
    whole = torch.arange(6.0)
    tied = {"a": whole, "b": whole, "view": whole[2:4], "row": whole.view(2, 3)}
    loaded = load_tensors(CheckpointManager(directory).save(1, {"model": tied}, {}), "model")
    for name, tensor in tied.items():
        assert torch.equal(loaded[name], tensor)


def test_latest_orders_by_number_and_ignores_everything_else(directory):
    manager = CheckpointManager(directory, keep=10)
    assert manager.latest() is None
    for train_iter in (0, 999_999, 1_000_000):
        save(manager, train_iter)
    for name in ("step_12", "step_9999999.tmp", "xstep_9999999"):
        (directory / name).mkdir()
    (directory / "step_9999999").touch()
    assert [path.name for path in list_checkpoints(directory)] == [
        "step_000000",
        "step_999999",
        "step_1000000",
    ]
    assert manager.latest() == directory / "step_1000000"
    assert list_checkpoints(directory / "absent") == []


def test_only_the_newest_are_kept(directory):
    manager = CheckpointManager(directory, keep=2)
    for train_iter in range(5):
        save(manager, train_iter)
    assert sorted(os.listdir(directory)) == ["step_000003", "step_000004"]
    with pytest.raises(ValueError, match="keep=0"):
        CheckpointManager(directory, keep=0)


def test_a_killed_write_leaves_the_previous_checkpoint_and_is_cleared_away(directory):
    manager = CheckpointManager(directory)
    first = save(manager, 1)
    with pytest.raises(KilledError):
        save(manager, 2, write_rank_files=kill)
    assert manager.latest() == first and len(os.listdir(directory)) == 2
    assert CheckpointManager(directory).latest() == first
    assert os.listdir(directory) == ["step_000001"]


@pytest.mark.parametrize("survivor", ["old", "new"])
def test_a_checkpoint_is_never_lost_while_it_is_replaced(directory, monkeypatch, survivor):
    manager = CheckpointManager(directory, keep=1)
    path = save(manager, 7)
    rename = Path.rename

    def rename_then_die(source: Path, target: Path) -> Path:
        result = rename(source, target)
        if target.name == (".replaced_step_000007" if survivor == "old" else "step_000007"):
            raise KilledError
        return result

    monkeypatch.setattr(Path, "rename", rename_then_die)
    with pytest.raises(KilledError):
        manager.save(7, {}, {"i": "new"})
    monkeypatch.undo()
    assert CheckpointManager(directory).latest() == path
    assert load_state(path)["i"] == (7 if survivor == "old" else "new")
    assert os.listdir(directory) == ["step_000007"]

    manager.save(7, {}, {"i": "newest"})
    assert load_state(path)["i"] == "newest"
    assert os.listdir(directory) == ["step_000007"]


def test_a_killed_deletion_leaves_nothing_that_looks_like_a_checkpoint(directory, monkeypatch):
    manager = CheckpointManager(directory, keep=1)
    save(manager, 1)
    monkeypatch.setattr("lzero.checkpoint.manager.shutil.rmtree", kill)
    with pytest.raises(KilledError):
        save(manager, 2)
    assert list_checkpoints(directory) == [directory / "step_000002"]
    monkeypatch.undo()
    CheckpointManager(directory)
    assert os.listdir(directory) == ["step_000002"]


def test_the_best_and_one_in_some_hours_are_kept(directory, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("lzero.checkpoint.manager.time.time", lambda: now[0])
    manager = CheckpointManager(directory, keep=1, keep_every_hours=2)
    kept = []
    for train_iter, score in enumerate((None, 1.0, 5.0, None, 4.0, 3.0, None)):
        now[0] = train_iter * 3600 * 0.75
        save(manager, train_iter, score=score)
        kept.append([path.name[-1] for path in list_checkpoints(directory)])
    # 0 and 3 (2.25 hours later), the best one, and the newest
    assert kept[:4] == [["0"], ["0", "1"], ["0", "2"], ["0", "2", "3"]]
    assert kept[-1] == ["0", "2", "3", "6"]
    with pytest.raises(ValueError, match="keep_every_hours=-1"):
        CheckpointManager(directory, keep_every_hours=-1)


def test_a_folder_that_cannot_be_written_is_said_on_all_ranks(directory):
    """A full disk, for one: nothing of it looks like a checkpoint, and earlier ones stay."""
    first = save(CheckpointManager(directory), 1)

    def fail(own: Path, previous: Path | None) -> None:
        raise OSError(28, "No space left on device")

    outcomes = run_ranks(directory, [None, fail])
    for outcome, said in zip(outcomes, ("rank 1 could not write", "No space left"), strict=True):
        assert isinstance(outcome, CheckpointError)
        assert said in str(outcome) and f"newest whole checkpoint is {first}" in str(outcome)
        assert "MiB are free there" in str(outcome)
    assert list_checkpoints(directory) == [first]


def test_a_linked_file_keeps_the_hash_it_was_written_with(directory):
    """Damage between two checkpoints is not taken for content."""
    manager = CheckpointManager(directory, keep=2)

    def write(own: Path, previous: Path | None) -> None:
        if previous is None:
            (own / "frames.bin").write_bytes(b"frames")
        else:
            os.link(previous / own.name / "frames.bin", own / "frames.bin")

    first = save(manager, 1, write_rank_files=write)
    flip(first / "rank_0" / "frames.bin")
    second = save(manager, 2, write_rank_files=write)
    for path in (first, second):
        assert damaged_files(path, [0]) == {"rank_0/frames.bin": "is damaged (its SHA-256 differs)"}
        assert damaged_files(path, [1]) == {}, "another rank's"


def test_the_manifest_says_what_a_checkpoint_is(directory):
    path = save(CheckpointManager(directory), 1, exact=True, score=2.5)
    manifest = read_manifest(path)
    assert (manifest.train_iter, manifest.world_size, manifest.exact) == (1, 1, True)
    assert manifest.score == 2.5 and {"python", "torch", "numpy"} <= manifest.versions.keys()
    on_disk = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert manifest.files.keys() == on_disk - {"manifest.json"}
    for name, entry in manifest.files.items():
        assert entry.bytes == (path / name).stat().st_size


def test_callback_can_take_over_files_of_the_previous_checkpoint(directory):
    manager = CheckpointManager(directory, keep=1)
    seen = []

    def write_replay(own: Path, previous: Path | None) -> None:
        seen.append(previous)
        if previous is None:
            (own / "replay.bin").write_bytes(b"frames")
        else:
            os.link(previous / own.name / "replay.bin", own / "replay.bin")

    first = save(manager, 1, write_rank_files=write_replay)
    second = save(manager, 2, write_rank_files=write_replay)
    assert seen == [None, first] and not first.exists()
    assert (second / "rank_0" / "replay.bin").read_bytes() == b"frames"


def test_saving_behind_another_runs_checkpoint_is_refused(directory):
    manager = CheckpointManager(directory)
    save(manager, 5)
    with pytest.raises(CheckpointError, match="step_000005 is ahead"):
        save(manager, 4)


def run_ranks(directory: Path, write_rank_files: list) -> list[BaseException | Path]:
    """Save one checkpoint from as many threads as callbacks are given."""
    world_size = len(write_rank_files)
    meeting = threading.Barrier(world_size)
    outcomes: list = [None] * world_size
    gathered: list = [None] * world_size

    def run(rank: int) -> None:
        try:
            place = ThreadRank(rank, world_size, meeting=meeting, gathered=gathered)
            manager = CheckpointManager(directory, distributed=place)
            outcomes[rank] = save(
                manager, 2, rank_state={"rank": rank}, write_rank_files=write_rank_files[rank]
            )
        except CheckpointError as error:
            outcomes[rank] = error
        except (KilledError, threading.BrokenBarrierError) as error:
            meeting.abort()
            outcomes[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_every_rank_writes_its_own_part(directory):
    def write(own: Path, previous: Path | None) -> None:
        (own / "file").write_text(own.name)

    path = directory / "step_000002"
    assert run_ranks(directory, [write] * 3) == [path] * 3
    for rank in range(3):
        assert load_state(path, rank) == {"rank": rank}
        assert (path / f"rank_{rank}" / "file").read_text() == f"rank_{rank}"
    assert os.listdir(directory) == ["step_000002"]


def test_one_dying_rank_means_no_checkpoint(directory):
    outcomes = run_ranks(directory, [None, kill])
    assert isinstance(outcomes[1], KilledError) and isinstance(
        outcomes[0], threading.BrokenBarrierError
    )
    assert list_checkpoints(directory) == []


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def link(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


def replace_in(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("damage", "load", "message"),
    [
        (
            lambda p: None,
            lambda p: load_tensors(p.parent / "step_000009", "model"),
            "step_000009: no such directory",
        ),
        (lambda p: None, lambda p: load_state(p / "state.json"), "no such directory"),
        (lambda p: None, lambda p: load_state(p.parents[1]), "manifest.json is missing"),
        (lambda p: None, lambda p: load_state(p, rank=1), "rank_1/state.json is missing"),
        (
            lambda p: (p / "model.safetensors").unlink(),
            lambda p: load_tensors(p, "model"),
            "model.* is missing",
        ),
        (
            lambda p: truncate(p / "model.safetensors"),
            lambda p: load_tensors(p, "model"),
            "model.* is damaged",
        ),
        (lambda p: truncate(p / "state.json"), load_state, "state.json is damaged .*were written"),
        (lambda p: flip(p / "state.json"), load_state, "state.json is damaged .*SHA-256"),
        (lambda p: link(p / "state.json"), load_state, "state.json is no plain file"),
        (lambda p: truncate(p / "manifest.json"), load_state, "manifest.json is damaged"),
        (lambda p: (p / "manifest.json").unlink(), load_state, "is missing: .*earlier version"),
        (lambda p: (p / "manifest.json").write_text("[]"), load_state, "format version None"),
        (lambda p: (p / "manifest.json").write_text("[" * 10**5), load_state, "is damaged"),
        (
            lambda p: (p / "manifest.json").write_text('{"format_version": 9}'),
            load_state,
            "format version 9.*reads 2",
        ),
        (
            lambda p: replace_in(p / "manifest.json", "state.json", "../state.json"),
            load_state,
            "manifest.json is damaged .files",
        ),
    ],
)
def test_missing_or_damaged_checkpoints_name_the_path_and_what_exists(
    directory, damage, load, message
):
    path = save(CheckpointManager(directory), 1)
    damage(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(path)
    if not message.startswith("no such"):
        assert f"existing checkpoints: {path}" in str(caught.value)


def test_no_checkpoint_at_all_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="existing checkpoints: none"):
        load_state(tmp_path / "nothing")


def make_training() -> tuple[nn.Module, torch.optim.AdamW]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model.register_parameter("never_used", nn.Parameter(torch.ones(3)))
    model.register_parameter("frozen", nn.Parameter(torch.ones(3), requires_grad=False))
    groups = [
        {
            "params": [p for p in model.parameters() if p.requires_grad and p.ndim > 1],
            "weight_decay": 0.1,
        },
        {
            "params": [p for p in model.parameters() if p.requires_grad and p.ndim == 1],
            "weight_decay": 0.0,
        },
    ]
    return model, torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, updates: int) -> None:
    for _ in range(updates):
        optimizer.zero_grad()
        model(torch.randn(8, 3)).square().sum().backward()
        optimizer.step()


def test_resumed_training_continues_bit_identically(directory):
    model, optimizer = make_training()
    train(model, optimizer, 5)
    path = CheckpointManager(directory).save(
        5,
        {
            "model": model.state_dict(),
            "optimizer": optimizer_state_to_tensors(optimizer, model.named_parameters()),
        },
        {},
        rank_state={"rng": rng_state({})},
    )
    train(model, optimizer, 5)

    resumed, resumed_optimizer = make_training()
    train(resumed, resumed_optimizer, 2)  # a state that has to go
    resumed.load_state_dict(load_tensors(path, "model"))
    load_optimizer_state_(
        resumed_optimizer, resumed.named_parameters(), load_tensors(path, "optimizer")
    )
    set_rng_state(load_state(path, rank=0)["rng"], {})
    train(resumed, resumed_optimizer, 5)
    for name, parameter in model.named_parameters():
        assert torch.equal(resumed.get_parameter(name), parameter), name
    before, after = (
        optimizer_state_to_tensors(o, m.named_parameters())
        for o, m in ((optimizer, model), (resumed_optimizer, resumed))
    )
    assert before.keys() == after.keys() and "exp_avg_sq/1.weight" in before
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_optimizer_state_lies_in_memory_as_its_parameters_do():
    """Fused optimisers walk through memory; files hold tensors in the order of their axes."""
    model = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(torch.randn(2, 4, 5, 5)).square().sum().backward()
    optimizer.step()
    saved = optimizer_state_to_tensors(optimizer, model.named_parameters())
    load_optimizer_state_(
        optimizer,
        model.named_parameters(),
        {name: value.contiguous() for name, value in saved.items()},
    )
    loaded = optimizer_state_to_tensors(optimizer, model.named_parameters())
    for name in ("exp_avg/weight", "exp_avg_sq/weight"):
        assert torch.equal(loaded[name], saved[name])
        assert loaded[name].stride() == model.weight.stride() != model.weight.contiguous().stride()


def test_optimizer_state_that_does_not_fit_is_refused():
    model, optimizer = make_training()
    train(model, optimizer, 1)
    tensors = optimizer_state_to_tensors(optimizer, model.named_parameters())
    with pytest.raises(CheckpointError, match="'exp_avg/other' belongs to no parameter"):
        load_optimizer_state_(
            optimizer, model.named_parameters(), tensors | {"exp_avg/other": torch.ones(1)}
        )
    with pytest.raises(
        CheckpointError, match=r"'exp_avg/0.weight' has shape \(1,\), its parameter \(4, 3\)"
    ):
        load_optimizer_state_(
            optimizer, model.named_parameters(), tensors | {"exp_avg/0.weight": torch.ones(1)}
        )
    with pytest.raises(
        ValueError, match=r"lacks 1 parameter\(s\) of the optimizer, of shapes \[\(4, 3\)\]"
    ):
        optimizer_state_to_tensors(
            optimizer, [pair for pair in model.named_parameters() if pair[0] != "0.weight"]
        )
