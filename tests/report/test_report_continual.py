"""Continual runs of PPO in a report: turns in figures, forgetting and transfer in tables."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from lzero.report import figures
from lzero.report.command import main
from lzero.report.continual import continual_notes, continual_rows
from lzero.report.panels import game_panels, router_panels, tag_panels, with_turns
from lzero.report.ppo_pictures import continual_estimates
from lzero.report.study import build_study
from tests.report.logged_runs import png_size, read_csv, write_runs
from tests.report.ppo_runs import write_finals, write_ppo_run

CRL = {"schedule": {"setting": "crl", "cycles": 2}}
MIXTURE = {"model": {"architecture": "big"}}
TURN = 2048  # env steps
# Catch and MirroredCatch at the ends of turns: what test_continual.py of the analysis computes by hand.
TWICE = np.array([[0.4, 0.1], [0.2, 0.6], [0.8, 0.5], [0.7, 0.9]])
SWITCHES = [TURN, 2 * TURN, 3 * TURN]
PLASTICITY = {
    "plasticity/effective_rank/actor": 20.0,
    "plasticity/ntk_effective_rank/actor": 9.0,
    "plasticity/sequential_gradient_similarity": 0.2,
    "plasticity/router_entropy/actor/big": 1.0,
    "plasticity/dormant_ratio/actor/big/layer0/expert_0": 0.5,
    "router_entropy_actor_big/Catch": 1.05,
    "router_entropy_actor_big/MirroredCatch": 0.95,
}


def write_turns(folder: Path, scores: np.ndarray, **changes) -> Path:
    """A run with an evaluation in the middle (worse) and at the end of each turn."""
    evaluations = {}
    for turn, row in enumerate(scores):
        evaluations[turn * TURN + TURN // 2] = (row - 0.05).tolist()
        evaluations[(turn + 1) * TURN] = row.tolist()
    return write_ppo_run(folder, evaluations, **(CRL | changes))


@pytest.fixture
def runs(tmp_path) -> list[Path]:
    """Two seeds in turns."""
    return [
        write_turns(tmp_path / "moe_s0", TWICE, **MIXTURE, other=PLASTICITY),
        write_turns(tmp_path / "moe_s1", TWICE - 0.2, **MIXTURE, other=PLASTICITY),
    ]


def test_the_table_holds_what_is_computed_by_hand(runs, tmp_path):
    out = tmp_path / "out"
    main([*map(str, runs), "--out", str(out)])
    rows = {}
    for row in read_csv(out / "continual.csv"):
        rows[row["game"], row["measure"], row["score"]] = row
    expected = {
        ("Catch", "forgetting"): 0.1,
        ("MirroredCatch", "forgetting"): 0.0,
        ("", "forgetting"): 0.05,
        ("Catch", "backward_transfer"): -0.15,
        ("MirroredCatch", "backward_transfer"): -0.1,
        ("", "backward_transfer"): -0.125,
        # 0.1 and -0.1 at the end of the first turn, against -0.6 of a random policy
        ("MirroredCatch", "forward_transfer"): 0.6,
        ("", "forward_transfer"): 0.6,
    }
    for (game, measure), value in expected.items():
        row = rows[game, measure, "share of optimum"]
        assert float(row["mean"]) == pytest.approx(value), (game, measure)
        assert (row["num_seeds"], row["turns"]) == ("2", "4")
        if game:
            assert float(rows[game, measure, "return"]["mean"]) == pytest.approx(value)
    row = rows["", "forward_transfer", "share of optimum"]
    assert row["before"] == "random policy"
    assert (float(row["low"]), float(row["high"])) == pytest.approx((0.5, 0.7))
    assert len(rows) == 8 + 5, "the first game has no forward transfer, returns have no mean"
    page = (out / "index.html").read_text()
    assert "Continual learning" in page and 'id="continual"' in page
    assert "16,384" not in page and "8,192 of all games" in page
    assert min(png_size(out / "continual.png")) > 150
    assert read_csv(out / "final.csv")[0]["env_step"] == str(4 * TURN)


def test_figures_show_when_games_change(runs, tmp_path):
    study = build_study(runs)
    panels = with_turns(study, game_panels(study, "eval_return", ""))
    assert [panel.title for panel in panels] == ["Catch", "MirroredCatch"]
    for number, panel in enumerate(panels):
        assert panel.switches == {"": SWITCHES} and "in turns" in panel.x_label
        begins = [number * TURN, (number + 2) * TURN]
        assert panel.spans == [(begin, begin + TURN) for begin in begins]
    [panel] = with_turns(study, tag_panels(study, "learn/"))
    assert panel.switches == {"": SWITCHES} and panel.spans == []
    texts = {"title": "", "y_label": "", "caption": ""}
    figure = figures.draw([panel], {"moe": ""}, **texts)
    dashed = [line for line in figure.axes[0].lines if len(set(line.get_xdata())) == 1]
    assert sorted(line.get_xdata()[0] for line in dashed) == SWITCHES
    assert all(line.is_dashed() for line in dashed)


def test_groups_with_other_turns_have_lines_of_their_colours(runs, tmp_path):
    other = {"schedule": {"setting": "crl", "cycles": 1}}
    runs.append(write_turns(tmp_path / "once_s0", TWICE, **other))
    runs += write_finals(tmp_path, "together", [[0.1, 0.2]])
    study = build_study(runs)
    [panel] = with_turns(study, tag_panels(study, "learn/"))
    assert panel.switches == {"moe": SWITCHES, "once": [2 * TURN]} and "in turns" in panel.x_label
    multi_task = build_study(runs[-1:])
    made = game_panels(multi_task, "eval_return", "")
    assert with_turns(multi_task, made) == made and made[0].x_label == "env steps per game"
    [panel] = with_turns(study, [made[0]])
    assert panel.switches == {}, "its only group is not continual"


def test_an_unfinished_run_has_the_turns_that_are_over(runs, tmp_path):
    short = write_turns(tmp_path / "moe_s2", TWICE[:3], **MIXTURE)
    study = build_study([*runs, short])
    rows = {(row["game"], row["measure"]): row for row in continual_rows(study)}
    assert {row["turns"] for row in rows.values()} == {3}
    assert rows["MirroredCatch", "forgetting"]["mean"] == pytest.approx(0.1)
    notes = list(continual_notes(study))
    after = "forgetting and transfer after 3 of 4 turns, which all seeds have behind them"
    assert f"moe: {after}" in notes
    waiting = write_ppo_run(tmp_path / "big_s0", {}, **CRL, **MIXTURE)
    assert not list(continual_rows(build_study([waiting])))


def test_an_evaluation_before_training_is_used(tmp_path):
    evaluations = {0: [-0.5, -0.4]} | {TURN * (n + 1): row for n, row in enumerate(TWICE.tolist())}
    run = write_ppo_run(tmp_path / "x_s0", evaluations, **CRL)
    study = build_study([run])
    [row] = [row for row in continual_rows(study)
             if (row["game"], row["measure"], row["score"]) == ("MirroredCatch", "forward_transfer", "return")]  # fmt: skip
    assert row["mean"] == pytest.approx(0.5) and row["before"] == "evaluation before training"
    assert np.isnan(row["low"]) and not any(
        "before training" in note for note in continual_notes(study)
    )


def test_what_is_missing_is_named(tmp_path):
    evaluations = {TURN * (n + 1): row for n, row in enumerate(TWICE.tolist()) if n != 1}
    run = write_ppo_run(tmp_path / "x_s0", evaluations, normalised=False, **CRL)
    study = build_study([run])
    notes = "\n".join(continual_notes(study))
    assert "x: no evaluation in turn 2 (MirroredCatch): their scores are not known" in notes
    assert "min-max" in notes and "env steps are those of all games together" in notes
    rows = {
        (row["game"], row["measure"], row["score"]): row["mean"] for row in continual_rows(study)
    }
    assert rows["Catch", "backward_transfer", "return"] == pytest.approx(-0.1), (
        "of the last turn alone"
    )
    assert ("MirroredCatch", "backward_transfer", "return") not in rows
    assert ("", "forgetting", "min-max") in rows
    longer = write_ppo_run(
        tmp_path / "x_s1", evaluations, normalised=False, **CRL, train={"max_env_steps": 8192, "collect_steps": 16}
    )  # fmt: skip
    study = build_study([run, longer])
    assert not list(continual_rows(study))
    assert any(
        "no turns shown, because its seeds differ" in note for note in continual_notes(study)
    )


def test_pictures_of_plasticity(runs, tmp_path):
    out = tmp_path / "out"
    main([*map(str, runs), "--out", str(out)])
    for name in ("effective_rank", "ntk_rank", "gradient_similarity", "router_entropy_games"):
        assert min(png_size(out / f"{name}.png")) > 150
    study = build_study(runs)
    assert [panel.title for panel in router_panels(study)] == [
        "actor_big/Catch",
        "actor_big/MirroredCatch",
    ]
    assert {panel.row for panel in router_panels(study)} == {"router_entropy_actor_big"}
    assert "expert_0" not in (out / "curves.csv").read_text(), "experts of two seeds share a number"
    bare = write_finals(tmp_path, "bare", [[0.1, 0.2]])
    main([str(bare[0]), "--out", str(tmp_path / "bare")])
    notes = (tmp_path / "bare" / "notes.txt").read_text()
    assert "effective_rank.png" in notes and "continual.png" not in notes
    assert not (tmp_path / "bare" / "continual.csv").exists()


def test_the_figure_has_every_game_and_the_mean(runs):
    estimates = continual_estimates(build_study(runs))
    names = {estimate.name for estimate in estimates}
    assert names == {"Catch", "MirroredCatch", "mean over games"}
    assert {estimate.unit for estimate in estimates} == {"share of optimum"}
    assert len(estimates) == 3 + 3 + 2


def test_unizero_has_no_turns(tmp_path):
    study = build_study(write_runs(tmp_path))
    made = game_panels(study, "eval_return", "")
    assert with_turns(study, made) == made
    assert not list(continual_rows(study)) and not list(continual_notes(study))
    for one, other in pairwise(made):
        assert one.switches == other.switches == {}
