"""What a run's log begins with."""

import sys

from lzero.entry.about import About
from lzero.envs.domain import with_domain_settings
from tests.entry.run_cases import settings


def test_a_log_begins_with_what_the_run_is(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "my script.py", "--train.video", "a|b"])
    config = with_domain_settings(settings(tmp_path, {"policy.scale_returns": True}))
    about = About.of(config, 7, 2)
    run, chosen = about.texts["about/run"], about.texts["about/settings"]
    assert "| games | CartPole-v1 |" in run and "| processes | 2 |" in run and "| torch | 2." in run
    assert "```\npython 'my script.py' --train.video 'a|b'\n```" in run
    assert "| model.encoder.hidden | 16 |" in chosen and "| train.loggers | tensorboard |" in chosen
    assert about.values["seed"] == 7 and about.values["policy.scale_returns"] is True
    assert about.values["env.games"] == "CartPole-v1" and about.values["policy.batch_size"] == 4
    names = set(about.values)
    assert not names & {"train.max_env_steps", "exp_name"}, "they change nothing that is learned"
    assert "policy.optimiser.learning_rate" not in names, "the default"
    assert "eval_return/CartPole-v1" in about.scores and "eval_aggregate/mean" in about.scores
