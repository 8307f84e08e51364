"""Runs read from disk, and which of them count as seeds of one experiment."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from lzero.config import ExperimentConfig
from lzero.config_fields import flatten
from lzero.report.long_table import load_runs
from lzero.report.run_data import RunData, RunDataError, common_name, group_runs, read_run
from lzero.run_paths import find_runs, is_run

MAY_DIFFER = {
    *("exp_name", "output_dir", "env.num_eval_envs"),
    *(
        f"train.{name}"
        for name in ("max_env_steps", "eval_interval", "eval_episodes", "checkpoint_interval")
    ),
    *(
        f"train.{name}"
        for name in (
            "eval_at_start",
            "keep_checkpoints",
            "keep_checkpoint_hours",
            "log_interval",
            "moe_log_interval",
            "video",
            "pictures",
            "loggers",
        )
    ),
    *(
        "policy.gradient_conflict_interval",
        "policy.conflict_color_limit",
        "policy.profile.line_profiler",
        "policy.replay.on_disk",
        "policy.profile.torch_profiler",
        "policy.optimiser.max_skipped_updates",
    ),
}
FIELDS = dict(flatten(ExperimentConfig().model_dump(mode="json")))


def run_of(name: str, folder: str = "", **changes: object) -> RunData:
    """A run in memory whose config is the default but for ``changes`` (dots in names are written ``__``)."""
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return RunData(Path(folder or name), FIELDS | {"exp_name": name} | dotted, {}, {})


def write_run(folder: Path, lines: list[dict]) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(ExperimentConfig(exp_name=folder.name).model_dump_json())
    rows = [{"train_iter": 0, "wall_time": 0.0, "metrics": {}} | line for line in lines]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_run_is_read_as_it_was_logged(tmp_path):
    folder = write_run(
        tmp_path / "pong_s0",
        [
            {"env_step": 10, "metrics": {"learn/loss": 4.0, "eval_return/Pong": -21.0}},
            {"env_step": 10, "metrics": {"learn/loss": 2.0, "eval_return/Pong": -19.0}},
            {"env_step": 20, "metrics": {"learn/loss": None, "eval_return/Pong": -18.0}},
            {
                "env_step": 20,
                "arrays": {
                    "eval_scores/Pong": [-18.0, None, -17.0],
                    "matrix": [[1.0, None], [0.0, 2.0]],
                },
            },
            {"env_step": 30, "metrics": {"learn/loss": 1.0, "other": None}},
        ],
    )
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"env_step": 40, "metr')  # the run is being written
    run = read_run(folder)
    assert (run.games, run.name) == (("Pong", "MsPacman"), str(folder))
    loss, returns = run.series("learn/loss"), run.series("eval_return/Pong")
    assert loss.env_step.tolist() == [10, 30] and loss.value.tolist() == [3.0, 1.0], (
        "the mean of one env step"
    )
    assert returns.env_step.tolist() == [10, 20] and returns.value.tolist() == [-19.0, -18.0], (
        "the last evaluation"
    )
    assert (
        run.not_numbers("learn/loss"),
        run.not_numbers("eval_return/Pong"),
        run.not_numbers("none"),
    ) == (1, 0, 0)
    assert len(run.series("none")) == 0
    assert run.tags("learn/") == ["learn/loss"] and run.tags("other") == []
    assert run.episode_scores("Pong", 20).tolist() == [-18.0, -17.0]
    assert len(run.episode_scores("Pong", 10)) == len(run.episode_scores("MsPacman", 20)) == 0
    np.testing.assert_equal(run.arrays["matrix"][20], [[[1.0, np.nan], [0.0, 2.0]]])


def test_a_compressed_run_is_the_same_run(tmp_path):
    run = write_run(tmp_path / "a", [{"env_step": 5, "metrics": {"eval_return/Pong": 1.0}}])
    metrics, before = run / "metrics.jsonl", read_run(run)
    compressed = gzip.compress(metrics.read_bytes())
    metrics.unlink()
    (run / "metrics.jsonl.gz").write_bytes(compressed)
    assert is_run(run) and find_runs(tmp_path) == [run]
    after = read_run(run)
    assert after.fields == before.fields and after.arrays == before.arrays
    one, other = before.series("eval_return/Pong"), after.series("eval_return/Pong")
    assert one.value.tolist() == other.value.tolist() == [1.0]
    assert load_runs([run])["value"].tolist() == [1.0]
    for damaged in (compressed[:-9], b"no gzip", compressed[:15] + b"\xff" + compressed[16:]):
        (run / "metrics.jsonl.gz").write_bytes(damaged)
        with pytest.raises(RunDataError, match=r"metrics\.jsonl\.gz is damaged"):
            read_run(run)


def test_what_is_no_run_is_refused_with_what_to_type(tmp_path):
    with pytest.raises(
        RunDataError, match=r"nowhere does not exist.*python -m lzero\.report runs/"
    ):
        read_run(tmp_path / "nowhere")
    run = write_run(tmp_path / "a", [])
    with pytest.raises(
        RunDataError, match=rf"config\.json and metrics\.jsonl missing.*lzero\.report {run}$"
    ):
        read_run(tmp_path)
    (run / "metrics.jsonl").write_text('{"env_step": 1, "metrics": {}}\nbroken\n')
    with pytest.raises(RunDataError, match=r"^.*metrics\.jsonl, line 2 is no JSON"):
        read_run(run)
    with pytest.raises(RunDataError, match=rf"metrics\.jsonl is a file.*lzero\.report {run}$"):
        read_run(run / "metrics.jsonl")
    (run / "metrics.jsonl").write_text('{"metrics": {}}\n')
    with pytest.raises(RunDataError, match="metrics.jsonl.*env_step"):
        read_run(run)
    (run / "metrics.jsonl").write_text('{"env_step": 1, "metrics": []}\n')
    with pytest.raises(RunDataError, match="metrics.jsonl cannot be understood"):
        read_run(run)
    (run / "config.json").write_text('{"exp_name": "a", "env": {"games": ["Pong"]}}')
    with pytest.raises(RunDataError, match=r"config\.json has no env\.domain"):
        read_run(run)
    for text in ("broken", "[]"):
        (run / "config.json").write_text(text)
        with pytest.raises(RunDataError, match=r"config\.json is no config"):
            read_run(run)
    (run / "metrics.jsonl").unlink()
    with pytest.raises(RunDataError, match=r"is no run: metrics\.jsonl missing"):
        read_run(run)


@pytest.mark.parametrize("field", FIELDS)
def test_runs_are_seeds_of_one_experiment_unless_a_field_that_matters_differs(field):
    one = run_of("a")
    other = RunData(Path("b"), one.fields | {field: "something else"}, {}, {})
    without = RunData(
        Path("c"), {name: value for name, value in one.fields.items() if name != field}, {}, {}
    )
    groups = group_runs(
        [one, other] if field in ("exp_name", "env.games") else [one, other, without]
    )
    assert (len(groups) == 1) == (field in MAY_DIFFER)
    assert len({group.label for group in groups}) == len(groups)


def test_groups_keep_the_order_of_their_first_runs():
    runs = [
        run_of("b_s0"),
        run_of("a_s0", device="cuda"),
        run_of("b_s1"),
        run_of("a_s1", device="cuda"),
    ]
    groups = group_runs(runs)
    assert [(group.label, [run.fields["exp_name"] for run in group.runs]) for group in groups] == [
        ("b", ["b_s0", "b_s1"]),
        ("a", ["a_s0", "a_s1"]),
    ]
    assert "device" in groups[0].fields and not MAY_DIFFER & set(groups[0].fields)


NAMES = {
    "suffix": (("breakout_s0", "breakout_s12"), "breakout"),
    "long suffix": (("breakout-seed1", "breakout-SEED2"), "breakout"),
    "one run": (("breakout.seed_3",), "breakout"),
    "a number of its own": (("atari8",), "atari8"),
    "no suffix": (("wide_search",), "wide_search"),
    "prefix": (("catch_first", "catch_second"), "catch"),
    "within a number": (("run_10", "run_12"), "run"),
    "a number before what differs": (("atari8_x", "atari8_y"), "atari8"),
    "one is the other's beginning": (("run", "run_again"), "run"),
    "nothing in common": (("one", "two"), "one"),
    "a word that ends in s": (("atoms7",), "atoms7"),
}


@pytest.mark.parametrize("case", NAMES)
def test_a_group_is_called_what_its_runs_share(case):
    names, expected = NAMES[case]
    assert common_name(names) == expected


def test_groups_of_one_name_are_told_apart_by_their_configs():
    runs = [
        run_of("breakout_s0", "a"),
        run_of("breakout_s0", "b", model__moe__enabled=False),
        run_of("breakout_s1", "c"),
        run_of("pong", "d", device="cuda"),
    ]
    labels = [group.label for group in group_runs(runs)]
    assert labels == ["breakout (moe.enabled=True)", "breakout (moe.enabled=False)", "pong"]

    many = {
        "model__moe__enabled": False,
        "model__dropout": 0.5,
        "policy__batch_size": 7,
        "policy__td_steps": 2,
    }
    labels = [group.label for group in group_runs([runs[0], run_of("breakout_s2", "e", **many)])]
    assert labels == [
        "breakout (no. 1, model.dropout=0.0, moe.enabled=True, policy.batch_size=32, 1 more)",
        "breakout (no. 2, model.dropout=0.5, moe.enabled=False, policy.batch_size=7, 1 more)",
    ]


def test_further_fields_can_be_ignored():
    runs = [
        run_of("a", "x"),
        run_of("a", "y", model__moe__enabled=False, model__moe__top_k=2),
        run_of("b", device="cuda"),
    ]
    assert [len(group.runs) for group in group_runs(runs, ["model.moe"])] == [2, 1]
    assert [len(group.runs) for group in group_runs(runs, ["model.moe", "device"])] == [3]
    assert len(group_runs(runs, ["model.moe.enabled"])) == 3
    with pytest.raises(
        RunDataError, match=r"no run has a config field 'devise'; did you mean 'device'\?"
    ):
        group_runs(runs, ["devise"])


def test_a_run_counts_once(tmp_path):
    write_run(tmp_path / "a", [])
    with pytest.raises(RunDataError, match="a: named more than once"):
        group_runs([read_run(tmp_path / "a"), read_run(tmp_path / "a" / ".." / "a")])
