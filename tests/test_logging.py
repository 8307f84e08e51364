import io
import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.text import Text
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lzero
from lzero import tags
from lzero.logging import PhaseTimer, RateMeter, RunLogger, TrainingProgress, read_metrics

ROOT = Path(lzero.__file__).parents[1]


def tensorboard_events(directory: Path) -> EventAccumulator:
    return EventAccumulator(str(directory / "tb")).Reload()


def test_scalars_go_to_both_logs(tmp_path):
    with RunLogger(tmp_path, is_main=True) as run:
        run.scalars(
            {"loss": 1.5, "numpy": np.float32(2), "nan": float("nan"), "inf": -np.inf}, 160, 40
        )
    [line] = read_metrics(tmp_path / "metrics.jsonl")
    assert line["env_step"] == 160 and line["train_iter"] == 40
    assert abs(line["wall_time"] - time.time()) < 60
    assert line["metrics"] == {"loss": 1.5, "numpy": 2.0, "nan": None, "inf": None}
    [event] = tensorboard_events(tmp_path).Scalars("90_loss")
    assert (event.step, event.value) == (160, 1.5)


def test_pictures_and_texts_reach_tensorboard(tmp_path):
    picture = np.zeros((3, 4, 6), dtype=np.uint8)
    with RunLogger(tmp_path, is_main=True) as run:
        run.add_image("conflict", picture, 10)
        run.text("config", "lr 1e-4", 0)
    events = tensorboard_events(tmp_path)
    [image] = events.Images("90_conflict")
    assert (image.step, image.width, image.height) == (10, 6, 4)
    assert events.Tensors("90_config/text_summary")[0].tensor_proto.string_val == [b"lr 1e-4"]


def test_every_line_is_on_the_disk_at_once(tmp_path):
    run = RunLogger(tmp_path, is_main=True)
    run.scalars({"a": 1}, 1, 1)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1
    run.close()


@pytest.mark.parametrize("torn", ["", '{"env_step": 9, "metr'])
def test_resumed_run_appends_and_repairs_a_torn_last_line(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    with RunLogger(tmp_path, is_main=True) as run:
        run.scalars({"a": 1}, 1, 1)
    with path.open("a") as file:
        file.write(torn)
    assert [line["env_step"] for line in read_metrics(path)] == [1]
    with RunLogger(tmp_path, is_main=True) as run:
        run.scalars({"a": 2}, 2, 2)
    assert [line["env_step"] for line in read_metrics(path)] == [1, 2]


def test_damage_inside_the_file_is_an_error(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"env_step": 1}\nnonsense\n{"env_step": 2}\n')
    with pytest.raises(ValueError, match="metrics.jsonl, line 2 is no JSON"):
        read_metrics(path)


def test_curves_of_a_resumed_run_do_not_fold_back(tmp_path):
    steps = [(0, 0), (100, 0), (200, 5), (300, 10), (400, 10), (500, 15)]
    with RunLogger(tmp_path, is_main=True) as run:
        for env_step, train_iter in steps:
            run.scalars({"loss": env_step}, env_step, train_iter)
    with RunLogger(tmp_path, is_main=True) as run:
        run.truncate_after(10, 300)
        run.scalars({"loss": -1.0}, 350, 12)
        with pytest.raises(RuntimeError, match="before anything is logged"):
            run.truncate_after(10, 300)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [(line["env_step"], line["train_iter"]) for line in lines] == [*steps[:4], (350, 12)]
    assert scalars(tmp_path)["loss"] == [
        (0, 0),
        (100, 100),
        (200, 200),
        (300, 300),
        (350, -1),
    ]


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    events = tensorboard_events(directory)
    found = {}
    for tag in events.Tags()["scalars"]:  # files of one second have no order of their own
        numbers = sorted(events.Scalars(tag), key=lambda event: event.wall_time)
        found[tags.plain(tag)] = [(event.step, event.value) for event in numbers]
    return found


def test_updates_after_a_checkpoint_at_its_env_step_are_forgotten(tmp_path):
    """Where a run was stopped in the middle of a round, and killed in the rest of it."""
    with RunLogger(tmp_path, is_main=True) as run:
        for train_iter in range(1, 6):
            run.scalars({"loss": train_iter}, 20, train_iter)
    with RunLogger(tmp_path, is_main=True) as run:
        run.truncate_after(3, 20)
        run.scalars({"loss": 4.0}, 20, 4)
    assert [line["train_iter"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
    assert scalars(tmp_path) == {"loss": [(20, 1.0), (20, 2.0), (20, 3.0), (20, 4.0)]}


def test_a_games_numbers_stand_at_its_own_env_steps(tmp_path):
    def own(env_steps: int) -> dict[str, int]:
        return {"Pong": 4 * env_steps, "Boxing": env_steps}

    metrics = {"learn/loss": 3.0, "eval_return/Boxing": 2.0, "eval_return/Pong": 1.0}
    for last in (None, 20):
        with RunLogger(tmp_path, is_main=True, game_env_steps=own) as run:
            if last is not None:
                run.truncate_after(2, last)
            for train_iter in range(1, 4):
                if last is None or train_iter > 2:
                    run.scalars(metrics, 10 * train_iter, train_iter)
                    run.arrays({"eval_scores/Pong": np.ones(2)}, 10 * train_iter, train_iter)
        assert scalars(tmp_path) == {
            "eval_return/Pong": [(40, 1.0), (80, 1.0), (120, 1.0)],
            "eval_return/Boxing": [(10, 2.0), (20, 2.0), (30, 2.0)],
            "learn/loss": [(10, 3.0), (20, 3.0), (30, 3.0)],
        }
        lines = read_metrics(tmp_path / "metrics.jsonl")
        assert [line["env_step"] for line in lines] == [10, 10, 20, 20, 30, 30]
        assert all(line["game_env_steps"] == own(line["env_step"]) for line in lines)


def test_which_game_a_number_is_of():
    games = ("Pong", "ALE/Pong", "encoder")
    assert tags.game_of("eval_return/Pong", games) == "Pong"
    assert tags.game_of("health/latent_norm/ALE/Pong", games) == "ALE/Pong"
    for tag in ("learn/loss", "eval_return/Pong2", "Pong", "gradient_conflict_norms/encoder"):
        assert tags.game_of(tag, games) == "", tag


def test_other_ranks_write_nothing(tmp_path):
    directory = tmp_path / "run"
    with RunLogger(directory, is_main=False) as run:
        run.truncate_after(0, 0)
        run.scalars({"a": object()}, 1, 1)  # not even looked at
        run.add_image("i", None, 1)
        run.text("t", "x", 1)
    assert not directory.exists()


def test_phases_add_up_and_nest(monkeypatch):
    ticks = iter([0.0, 1.0, 3.0, 10.0, 20.0, 25.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    timer = PhaseTimer()
    with timer("collect"), timer("search"):
        pass
    with pytest.raises(KeyError), timer("collect"):
        raise KeyError
    assert timer.pop() == {"time/collect": 15.0, "time/search": 2.0}
    assert timer.pop() == {}
    assert next(ticks, None) is None  # two clock reads per phase


def test_setup_logging_shows_this_project_from_info_on_rank_0_only():
    program = (
        "import logging, sys; from lzero.logging import setup_logging; setup_logging(sys.argv[1] == '0')\n"
        "for name in ('lzero.entry', 'zoo.atari', 'other'):\n"
        "    log = logging.getLogger(name); log.info('%s info', name); log.warning('%s warning', name)"
    )
    output = [
        subprocess.run(
            [sys.executable, "-c", program, rank],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for rank in "01"
    ]
    warnings = ["lzero.entry warning", "zoo.atari warning", "other warning"]
    assert [line.split("] ")[1] for line in output[1].splitlines()] == [
        f"WARNING {text}" for text in warnings
    ]
    assert "INFO lzero.entry info" in output[0] and "INFO zoo.atari info" in output[0]
    assert "other info" not in output[0] and all(text in output[0] for text in warnings)


@pytest.fixture
def clock():
    class Clock:
        now = 0.0

        def __call__(self) -> float:
            return self.now

    return Clock()


def test_without_a_terminal_progress_is_a_log_line_now_and_then(clock, caplog):
    console = Console(file=io.StringIO())
    with caplog.at_level(logging.INFO, logger="lzero.logging"):
        with TrainingProgress(
            3000, is_main=True, initial_env_step=1000, console=console, clock=clock
        ) as progress:
            for index in range(1, 9):
                clock.now = 4.0 * index
                progress.update(
                    1000 + 200 * index, 50 * index, {"time/collect": 1.25}, {}, {"Pong": -20.0}
                )
    assert console.file.getvalue() == ""
    shown = [record.getMessage() for record in caplog.records]
    # at 4 s, then not before 10 s have passed, and the last state at the end
    assert [line.split("/")[0] for line in shown] == [
        "run: 1,200",
        "run: 1,800",
        "run: 2,400",
        "run: 2,600",
    ]
    assert shown[-1] == (
        "run: 2,600/3,000 env steps, 400 updates, 50.0 env steps/s, 0:00:08 left"
        " | reward per 1,000 steps: Pong -20.0 | time: collect 1.25 s"
    )


def test_in_a_terminal_progress_is_a_bar_with_a_table(clock):
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    with TrainingProgress(2000, is_main=True, console=console, clock=clock) as progress:
        clock.now = 10.0
        progress.update(
            1000,
            250,
            {"time/collect": 3.5, "time/learn": 6.0},
            {"MsPacman": 1430.0},
            {"Pong": -20.5},
        )
    shown = console.file.getvalue()
    for text in (
        "50%",
        "1,000/2,000 env steps",
        "250 updates",
        "100.0 env steps/s",
        "0:00:10 left",
    ):
        assert text in shown
    for text in (
        "collect 3.50 s",
        "learn 6.00 s",
        "steps  Pong -20.5",
        "return",
        "MsPacman 1,430.0",
    ):
        assert text in shown


@pytest.mark.parametrize("force_terminal", [True, False])
def test_other_ranks_show_no_progress(caplog, force_terminal):
    console = Console(file=io.StringIO(), force_terminal=force_terminal)
    with caplog.at_level(logging.INFO, logger="lzero.logging"):
        with TrainingProgress(10, is_main=False, console=console) as progress:
            progress.update(5, 1, {"time/collect": 1.0}, {"Pong": 1.0}, {"Pong": 1.0})
            progress.show(Text("scores"))
    assert console.file.getvalue() == "" and not caplog.records


@pytest.mark.parametrize("force_terminal", [True, False])
def test_progress_prints_tables(force_terminal):
    console = Console(file=io.StringIO(), force_terminal=force_terminal, color_system=None)
    with TrainingProgress(10, is_main=True, console=console) as progress:
        progress.show(Text("scores"))
    assert "scores" in console.file.getvalue()


def test_metrics_file_is_strict_json(tmp_path):
    with RunLogger(tmp_path, is_main=True) as run:
        run.scalars({"a": float("inf")}, 1, 1)
    text = (tmp_path / "metrics.jsonl").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_arrays_go_to_the_file_with_null_for_what_is_no_number(tmp_path):
    with RunLogger(tmp_path, is_main=True) as run_logger:
        run_logger.arrays(
            {"matrix": np.array([[1.0, np.nan], [np.inf, 2.5]]), "scores": np.array([3, 4])}, 40, 7
        )
        run_logger.scalars({"a": 1.0}, 40, 7)
    first, second = read_metrics(tmp_path / "metrics.jsonl")
    assert first["arrays"] == {"matrix": [[1.0, None], [None, 2.5]], "scores": [3.0, 4.0]}
    assert (first["env_step"], first["train_iter"], first["metrics"]) == (40, 7, {})
    assert second["metrics"] == {"a": 1.0} and "arrays" not in second


def test_rates_are_differences_over_wall_time():
    times = iter([10.0, 14.0, 14.5])
    meter = RateMeter(100, 5, clock=lambda: next(times))
    assert meter.pop(180, 7) == {"rate/env_steps_per_second": 20.0, "rate/updates_per_second": 0.5}
    assert meter.pop(180, 8) == {"rate/env_steps_per_second": 0.0, "rate/updates_per_second": 2.0}
