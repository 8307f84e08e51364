"""The recipes in docs/ run as they are printed."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import lzero
from lzero.config import ExperimentConfig
from lzero.entry import train_unizero_multitask_segment_ddp
from zoo.catch.config.presets import presets

DOCS = Path(lzero.__file__).parents[1] / "docs"


def python_blocks(page: str) -> list[str]:
    return re.findall(
        r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL
    )


def test_the_domain_recipe_trains(tmp_path, monkeypatch):
    _, domain, train = python_blocks("add_a_domain.md")
    assert len(domain.splitlines()) <= 34
    (tmp_path / "my_domain.py").write_text(domain, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert '"max_env_steps": 8_000' in train
    exec(train.replace('"max_env_steps": 8_000', '"eval_episodes": 2, "max_env_steps": 160'), {})
    assert (tmp_path / "runs" / "cartpole" / "metrics.jsonl").stat().st_size > 0
    assert list((tmp_path / "runs" / "cartpole" / "checkpoints").glob("step_*"))


def test_the_recipe_for_an_environment_trains(tmp_path, monkeypatch):
    environment, *_ = python_blocks("add_a_domain.md")
    page = (DOCS / "add_a_domain.md").read_text(encoding="utf-8")
    [(module, arguments)] = re.findall(r"^python -m (zoo\.gym\.\S+) (.+)$", page, re.MULTILINE)
    (tmp_path / "my_games.py").write_text(environment, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    small = "--env.num-envs 2 --env.num-eval-envs 1 --model.embed-dim 16 --model.num-heads 2 "
    small += "--policy.batch-size 2 --policy.replay-ratio 0.05 --policy.replay.capacity 200 "
    small += "--policy.search.num-simulations 2 --policy.search.num-eval-simulations 2 "
    small += (
        "--train.max-env-steps 40 --train.eval-episodes 1 --train.no-video --model.num-layers 1"
    )
    monkeypatch.setattr(sys, "argv", [module, *arguments.split(), *small.split()])
    runpy.run_module(module, run_name="__main__")
    result = json.loads((tmp_path / "runs" / "heavy" / "result.json").read_text(encoding="utf-8"))
    assert "my_games:HeavyCartPole-v0" in str(result)


@pytest.fixture
def research(tmp_path, monkeypatch) -> list[str]:
    """Blocks of the page for research code, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return python_blocks("research.md")


def test_the_recipe_for_own_models_sees_two_opposite_tasks(research):
    found = {}
    exec(research[0], found)
    assert found["conflict"].valid.tolist() == [True, True, False]
    assert found["picture"].shape[0] == 3


def test_the_recipe_for_noise_goes_on_from_it(research):
    found = {}
    exec(research[0] + research[1], found)
    conflict, (low, high) = found["conflict"], (found["low"], found["high"])
    assert conflict.num_pairs == 1 and (conflict.reliability > 0).all()
    assert low[0, 1] < conflict.denoised_cosine[0, 1] < high[0, 1]


def test_the_recipe_for_several_processes_agrees_with_one(research, tmp_path):
    (tmp_path / "conflict_ranks.py").write_text(research[2], encoding="utf-8")

    def printed(*launcher: str) -> float:
        command = [sys.executable, *launcher, "conflict_ranks.py"]
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        [line] = [line for line in run.stdout.splitlines() if line.startswith("max_conflict_score")]
        return float(line.split()[1])

    ranks = printed("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    assert ranks == pytest.approx(printed(), abs=1e-6)


def test_the_recipe_for_a_checkpoint_shows_every_task(research, capsys):
    config = presets(moe=True)["both"][1].model_dump()
    config["train"] |= {"max_env_steps": 640, "eval_episodes": 2, "video": False}
    train_unizero_multitask_segment_ddp(ExperimentConfig.model_validate(config))
    capsys.readouterr()
    exec(research[3], {})
    shown = capsys.readouterr().out
    assert "0 Catch" in shown and "0 MirroredCatch" in shown
    found = {}
    exec(research[4], found)
    shown = capsys.readouterr().out
    assert "0 expert_7" in shown and "0 shared_expert" in shown and "effective experts" in shown
    matched = found["match_experts"](found["counts"], found["counts"][:, ::-1].copy())
    assert matched.similarity == pytest.approx(1.0)


def test_the_recipe_for_a_measuring_point_measures_it(research):
    found = {}
    exec(research[5], found)
    assert {"attention/layer0", "after_attention/layer0", "encoder"} <= set(found["conflicts"])
