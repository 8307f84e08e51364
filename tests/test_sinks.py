"""Places for numbers: what each of them holds, also after a run went on from a checkpoint, and that one may fail."""

import logging
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lzero import tags
from lzero.earlier_tags import translated
from lzero.logging import RunLogger, read_metrics
from lzero.logging import run_logger as module
from lzero.sinks import Sink, SinkError

GAMES = ("ALE/Pong-v5", "Boxing")


def own(env_steps: int) -> dict[str, int]:
    return {GAMES[0]: 4 * env_steps, GAMES[1]: env_steps}


def logged(folder, loggers=("csv",)) -> RunLogger:
    return RunLogger(folder, is_main=True, game_env_steps=own, loggers=loggers)


def test_the_table_is_what_pandas_reads_and_forgets_what_did_not_happen(tmp_path):
    metrics = {"eval_return/ALE/Pong-v5": 1.5, "learn/loss": float("nan")}
    metrics |= {"moe_task/short/selection_entropy/Boxing/layer0": 0.5}
    with logged(tmp_path) as log:
        for step in (10, 20, 30):
            log.scalars(metrics, step, step // 10)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("torn,line")
    with logged(tmp_path) as log:
        log.truncate_after(2, 20)
        log.scalars({"learn/loss": 4.0}, 40, 4)
    frame = pd.read_csv(tmp_path / "metrics.csv", keep_default_na=True)
    assert list(frame.columns) == ["tag", "game", "env_step", "train_iter", "wall_time", "value"]
    wide = frame.pivot_table(index="env_step", columns="tag", values="value")
    assert wide["eval_return/ALE/Pong-v5"].dropna().to_dict() == {40: 1.5, 80: 1.5}
    losses = frame[frame.tag == "learn/loss"]
    assert losses.env_step.tolist() == [10, 20, 40] and losses.value.isna().tolist() == [1, 1, 0]
    assert losses.game.isna().all()
    of_game = dict(zip(frame.tag, frame.game, strict=True))
    assert of_game["eval_return/ALE/Pong-v5"] == "ALE/Pong-v5"
    assert of_game["moe_task/short/selection_entropy/Boxing/layer0"] == "Boxing"
    steps = {tag: part.env_step.tolist() for tag, part in frame.groupby("tag")}
    assert steps["moe_task/short/selection_entropy/Boxing/layer0"] == [10, 20]


def test_a_table_that_is_asked_for_later_has_everything(tmp_path):
    with logged(tmp_path, ()) as log:
        log.scalars({"learn/loss": 1.0}, 10, 1)
    with logged(tmp_path) as log:
        log.truncate_after(1, 10)
    assert pd.read_csv(tmp_path / "metrics.csv").value.tolist() == [1.0]


def test_a_place_that_fails_is_left_alone_and_the_record_goes_on(tmp_path, monkeypatch, caplog):
    class Failing(Sink):
        calls = 0

        def scalars(self, moment, metrics):
            Failing.calls += 1
            raise ConnectionError("the network is gone")

        def close(self):
            raise OSError("this too")

    monkeypatch.setattr(module, "make_sinks", lambda *_: {"cloud": Failing()})
    with caplog.at_level(logging.WARNING), logged(tmp_path) as log:
        for step in (1, 2, 3):
            log.scalars({"learn/loss": 1.0}, step, step)
    assert Failing.calls == 1 and len(read_metrics(tmp_path / "metrics.jsonl")) == 3
    [record] = caplog.records
    assert "cloud" in record.getMessage() and "the network is gone" in record.getMessage()

    class Closed(Sink):
        def hyperparameters(self, moment, values, scores):
            raise RuntimeError("no key")

    monkeypatch.setattr(module, "make_sinks", lambda *_: {"cloud": Closed()})
    with pytest.raises(SinkError, match=r"cloud cannot be opened; leave it out .*no key"):
        logged(tmp_path).begin({}, (), {}, 0)


def test_one_run_of_weights_and_biases_goes_on_over_resumes(tmp_path, monkeypatch):
    """By a double of the package: what is sent, and under which id."""
    begun, rows = [], []

    def init(**how):
        begun.append(how)
        config = SimpleNamespace(update=lambda values, allow_val_change: rows.append(values))
        axis = SimpleNamespace(config=config, log=rows.append, finish=lambda: rows.append("end"))
        axis.define_metric = lambda name, step_metric: rows.append((name, step_metric))
        return axis

    ids = iter(("first", "second"))
    monkeypatch.setattr("lzero.sinks.wandb_run.secrets.token_hex", lambda length: next(ids))
    double = SimpleNamespace(init=init, Settings=dict, errors=SimpleNamespace(Error=ValueError))
    double.Image = lambda pixels: pixels.shape
    monkeypatch.setitem(sys.modules, "wandb", double)
    monkeypatch.setattr("lzero.sinks.choice.find_spec", lambda name: True)
    metrics = {"eval_return/ALE/Pong-v5": 1.0, "learn/loss": 2.0}
    for checkpoint in ((-1, -1), (1, 10), (-1, -1)):
        with logged(tmp_path / "run", ("wandb",)) as log:
            log.truncate_after(*checkpoint)
            log.begin({"seed": 0}, (), {"about/run": "text"}, max(checkpoint[1], 0))
            log.scalars(metrics, 10, 1)
            log.add_image("picture", np.zeros((3, 4, 6), np.uint8), 10)
    assert [how["id"] for how in begun] == ["first", "first", "second"]
    assert all(how["name"] == "run" and how["resume"] == "allow" for how in begun)
    assert rows[:2] == [("*", "env_step"), {"seed": 0}]
    assert rows[2:4] == [
        {"learn/loss": 2.0, "env_step": 10, "train_iter": 1},
        {"eval_return/ALE/Pong-v5": 1.0, "env_step": 40, "train_iter": 1},
    ]
    assert rows[4:6] == [{"picture": (4, 6, 3), "env_step": 10}, "end"]


def test_weights_and_biases_offline(tmp_path, monkeypatch):
    """The real package; what it is told is in its file, under the id that the run's folder keeps."""
    wandb = pytest.importorskip("wandb", reason="an optional package")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with logged(tmp_path / "run", ("wandb",)) as log:
        log.begin({"seed": 0, "policy.discount": 0.9}, (), {}, 0)
        log.scalars({"learn/loss": 2.0}, 10, 1)
    wandb.teardown()  # its own process writes the rest
    name = (tmp_path / "run" / "wandb_run_id.txt").read_text().strip()
    parts = list((tmp_path / "run" / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb"))
    assert len(parts) == 1 and b"learn/loss" in parts[0].read_bytes()


def test_hyperparameters_and_texts_are_in_the_runs_own_events(tmp_path):
    from tensorboard.plugins.hparams import plugin_data_pb2

    for last in ((-1, -1), (1, 10)):
        with logged(tmp_path, ("tensorboard",)) as log:
            log.truncate_after(*last)
            log.begin({"seed": 3, "x": True}, ("eval_return/Boxing",), {"about/run": "|a|"}, 0)
            log.scalars({"eval_return/Boxing": 2.0}, 10, 1)
            log.scalars({"eval_return/Boxing": 9.0}, 20, 2)
            log.finish(20)
    assert [path.is_file() for path in (tmp_path / "tb").iterdir()] == [True, True], "no run beside"
    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    values = {event.value for event in events.Scalars("10_eval_return/Boxing")}
    assert values == {2.0, 9.0} and len(events.Scalars("10_eval_return/Boxing")) == 3
    data = events.summary_metadata
    start = plugin_data_pb2.HParamsPluginData.FromString(
        data["_hparams_/session_start_info"].plugin_data.content
    ).session_start_info
    assert start.hparams["seed"].number_value == 3 and start.hparams["x"].string_value == "True"
    experiment = plugin_data_pb2.HParamsPluginData.FromString(
        data["_hparams_/experiment"].plugin_data.content
    ).experiment
    assert [info.name.tag for info in experiment.metric_infos] == ["10_eval_return/Boxing"]
    assert "_hparams_/session_end_info" in data and "00_about/run/text_summary" in data


def test_families_stand_in_the_order_of_what_a_reader_asks():
    seen = ["time/learn", "moe_load/short/usage_entropy", "learn/loss", "collect_reward/Pong"]
    seen += ["gradient_conflict/max_encoder", "health/target_lag", "eval_return/Pong", "mine/x"]
    in_order = [tags.plain(tag) for tag in sorted(map(tags.numbered, seen))]
    expected = ["eval_return/Pong", "collect_reward/Pong", "learn/loss", "health/target_lag"]
    expected += ["gradient_conflict/max_encoder", "moe_load/short/usage_entropy", "time/learn"]
    assert in_order == [*expected, "mine/x"]


@pytest.mark.parametrize(
    "then, now",
    {
        "MOE_Details/Task1_short/ExpertSelectionEntropy": "moe_task/short/selection_entropy/Boxing",
        "MOE_Details/Task0_long/SelectionShift/layer12": (
            "moe_task/long/selection_shift/ALE/Pong-v5/layer12"
        ),
        "MOE_Details/Task7_long/SelectionShift": "MOE_Details/Task7_long/SelectionShift",
        "MOE_Global/immediate/MutualInformationNormalised/layer0": (
            "moe_load/immediate/mutual_information_normalised/layer0"
        ),
        "MOE_Divergence/short_AvgJS_Divergence": "moe_divergence/short/avg_jensen_shannon",
        "MOE_Divergence/short_MaxTV_Distance/layer3": (
            "moe_divergence/short/max_total_variation/layer3"
        ),
        "task_similarity/short_JS/layer0": "task_similarity/short_jensen_shannon/layer0",
        "TaskSimilarity/short_TV_Matrix": "task_similarity/short_total_variation",
        "MOE_Heatmap/long_TaskExpert_Heatmap": "expert_selection/long",
        "task_similarity/short_wasserstein/layer0": "task_similarity/short_wasserstein/layer0",
        "eval_return/Boxing": "eval_return/Boxing",
    }.items(),
)
def test_an_earlier_tag_is_the_one_that_the_number_has_now(then, now):
    assert translated(then, GAMES) == now
