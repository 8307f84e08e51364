"""LightZero's configs become an experiment of ours; nothing of them stays unaccounted."""

import copy
import logging
import re

import pytest

from lzero.config import ExperimentConfig
from lzero.config_fields import flatten
from lzero.lightzero import train_unizero_multitask_segment_ddp, translate_config
from lzero.lightzero.conversions import MADE_TOGETHER, SIMPLE
from lzero.lightzero.keys import keys
from lzero.logging import read_metrics
from tests.lightzero.their_configs import GAMES, configs, tiny_catch
from zoo.atari.domain import AtariEnvConfig

WORLD = "policy.model.world_model_cfg"


def changed(**by_key):
    """The whole config with some keys of all tasks set; ``__`` stands for a dot."""
    found = configs()
    for _, (main, _) in found:
        set_keys(main, by_key)
    return found


def set_keys(main, by_key):
    for name, value in by_key.items():
        *sections, last = name.split("__")
        place = main
        for section in sections:
            place = place[section]
        place[last] = value


def wm(**by_key):
    return {f"policy__model__world_model_cfg__{name}": value for name, value in by_key.items()}


def test_every_key_of_the_published_config_is_accounted_for():
    found = translate_config(configs(), max_env_step=400_000)
    [_, [main, create]] = configs()[0]
    written = dict(flatten(main)) | dict(flatten({"create_config": create}))
    rows = {row.key: row for row in found.rows}
    assert len(rows) == len(found.rows)
    assert set(written) <= set(rows)
    assert {row.key for row in found.rows if row.status != "default"} == set(written)
    for row in found.rows:
        assert row.status in ("mapped", "default", "checked", "ignored")
        assert bool(row.target) == (row.status in ("mapped", "default")), row
        assert row.note or row.status != "ignored", row


def test_the_published_config_gives_the_expected_experiment():
    config = translate_config(configs(), max_env_step=400_000).experiment
    data = dict(flatten(config.model_dump(exclude={"env": {"games", "overrides"}})))
    expected = {
        **{"exp_name": "atari_8games_seed0", "device": "auto"},
        **{"env.domain": "zoo.atari.domain:ATARI", "env.num_envs": 8, "env.num_eval_envs": 3},
        **{"env.max_episode_steps": 5_000, "env.image_size": 64, "env.grayscale": False},
        **{"env.frame_stack": 1, "env.minimal_actions": False, "env.clip_reward": True},
        **{"model.embed_dim": 768, "model.num_heads": 24, "model.num_layers": 4},
        **{"model.context_steps": 4, "model.dropout": 0.1, "model.latent_norm": "layer_norm"},
        **{"model.share_head": False, "model.task_embedding": "none"},
        **{"model.support_limit": 50.0, "model.support_bins": 101},
        **{"model.encoder.kind": "vit", "model.encoder.vit_width": 768},
        **{"model.encoder.vit_layers": 6, "model.encoder.patch_size": 8},
        **{"model.moe.enabled": True, "model.moe.num_experts": 8, "model.moe.top_k": 1},
        **{"model.moe.num_shared_experts": 1, "model.moe.hidden_ratio": 4.0},
        **{"model.moe.renormalise": False, "policy.unroll_steps": 10, "policy.td_steps": 5},
        # 80 updates after 8 segments of 20 steps
        **{"policy.replay_ratio": 0.5, "train.collect_steps": 20, "policy.batch_size": 64},
        **{"policy.replay.capacity": 500_000, "policy.replay.prioritised": True},
        **{"policy.replay.alpha": 1.0, "policy.replay.beta": 1.0},
        **{"policy.search.kind": "puct", "policy.search.num_simulations": 50},
        **{"policy.search.num_eval_simulations": 50, "policy.reanalyse_fraction": 0.0},
        **{"policy.optimiser.learning_rate": 1e-4, "policy.optimiser.weight_decay": 1e-4},
        **{"policy.optimiser.max_grad_norm": 5.0, "policy.target_momentum": 0.05},
        **{"policy.loss.adaptive_entropy": True, "policy.loss.entropy": 1e-4},
        **{"policy.loss.entropy_target_end": 0.7, "policy.loss.entropy_target_updates": 100_000},
        **{"train.max_env_steps": 400_000, "train.eval_episodes": 3, "train.random_steps": 0},
        # 20,000 updates at half an update a step
        "train.eval_interval": 40_000,
    }
    assert {name: data[name] for name in expected} == expected
    assert str(config.output_dir) == "data_mt"
    assert config.env.games == GAMES and config.env.overrides == {}


def test_values_are_converted():
    def of(**by_key) -> ExperimentConfig:
        return translate_config(changed(**by_key)).experiment

    assert of(policy__update_per_collect=None).policy.replay_ratio == 0.25
    assert of(policy__gumbel_algo=True).policy.search.kind == "gumbel"
    assert of(policy__cuda=False).device == "cpu"
    assert of(policy__use_augmentation=True).policy.shift_pixels == 4
    assert of(env__full_action_space=False).env.minimal_actions
    ranges = dict.fromkeys(("reward_support_range", "value_support_range"), [-20.0, 20.5, 0.5])
    bins = of(**{f"policy__model__{name}": value for name, value in ranges.items()}).model
    assert (bins.support_limit, bins.support_bins) == (20.0, 81)
    norms = dict.fromkeys(
        ("final_norm_option_in_encoder", "final_norm_option_in_obs_head"), "SimNorm"
    )
    assert of(**wm(predict_latent_loss_type="group_kl", **norms)).model.latent_norm == "sim_norm"
    assert of(**wm(task_embed_option="register_task_embed")).model.task_embedding == "register"
    assert of(**wm(num_experts_per_tok=2)).model.moe.renormalise
    dense = translate_config(changed(**wm(multiplication_moe_in_transformer=False)))
    assert not dense.experiment.model.moe.enabled
    [row] = [row for row in dense.rows if row.key == f"{WORLD}.num_experts_per_tok"]
    assert row.status == "ignored" and row.note
    rows = {row.key: row for row in dense.rows}
    assert rows["policy.replay_ratio"].status == "ignored", "update_per_collect is given"
    assert rows["policy.model.num_channels"].status == "ignored", "the encoder is a ViT"
    few = changed(policy__model__num_channels=64, **wm(encoder_type="resnet"))
    assert translate_config(few).experiment.model.encoder.kind == "lightzero"
    many = configs((*GAMES, "Amidar"))
    assert translate_config(many).experiment.model.encoder.vit_layers == 12
    assert translate_config(changed(env__env_id="ALE/Pong-v5")[:1]).experiment.env.games == (
        "Pong",
    )


def test_settings_of_single_tasks_become_overrides():
    ours = configs(("Pong", "MsPacman", "Boxing"))
    for _, (main, _) in ours:
        main.policy.batch_size = [64, 16, 64]
    boxing = ours[2][1][0]
    boxing.env |= {"collector_env_num": 4, "collect_max_episode_steps": 99, "clip_rewards": False}
    boxing.env.eval_max_episode_steps = 99
    boxing.policy |= {"collector_env_num": 4, "num_segments": 4}
    config = translate_config(ours).experiment
    assert config.env.num_envs == 8 and config.batch_size_of("Pong") == 64
    assert config.batch_size_of("MsPacman") == 16 and config.env.envs_of("Boxing") == 4
    assert config.env.step_limit_of("Boxing") == 99 and not config.env.clips_reward_of("Boxing")
    assert config.env.step_limit_of("Pong") == 5_000 and config.env.clips_reward_of("Pong")
    # 80 updates, counted by the game with the fewest env steps: 4 segments of 20
    assert config.policy.replay_ratio == 1.0 and config.train.collect_steps == 20
    boxing.policy.num_segments = 8
    with pytest.raises(ValueError, match="num_segments over env.collector_env_num differs"):
        translate_config(ours)


def test_several_mistakes_are_told_at_once():
    with pytest.raises(ValueError, match="use_moco=True: .*; policy.sampled_algo=True: "):
        translate_config(changed(policy__use_moco=True, policy__sampled_algo=True))


@pytest.mark.parametrize(
    "by_key, says",
    [
        ({"policy__num_unroll_step": 5}, "num_unroll_step: unknown key.*policy.num_unroll_steps"),
        ({"env__env_idd": "Pong"}, "env.env_idd: unknown key.*'env.env_id'"),
        ({"policy__use_moco": True}, "use_moco=True: .*gradient_aggregator"),
        ({"policy__cos_lr_scheduler": True}, "cos_lr_scheduler=True: "),
        ({"policy__buffer_reanalyze_freq": 0.02}, "buffer_reanalyze_freq=0.02: .*reanalyze_ratio"),
        ({"policy__collector_env_num": 4}, "policy.collector_env_num=4: .*env.collector_env_num=8"),
        ({"policy__task_id": 3}, "policy.task_id=3 of task 0: give 0"),
        ({"policy__batch_size": [64, 64]}, r"batch_size=\[64, 64\].*give one per task"),
        ({"policy__num_simulations": "many"}, "num_simulations='many': allowed is a number"),
        ({"policy__use_priority": 1}, "policy.use_priority=1: allowed are True and False"),
        ({"policy__num_segments": 0}, "num_segments=0: allowed are numbers from 1"),
        ({"env__env_id": "PongoNoFrameskip-v4"}, "unknown game 'Pongo'; did you mean 'Pong'"),
        ({"policy__discount_factor": 2.0}, "policy.discount_factor: .*less than or equal to 1"),
        ({"exp_name": 7}, "exp_name=7: allowed is a text"),
        (wm(moe_use_lora=True), "moe_use_lora=True: .*no LoRA"),
        (wm(encoder_type="dino"), "encoder_type='dino': allowed are 'vit', 'resnet'"),
        (wm(encoder_type=["vit"]), r"encoder_type=\['vit'\]: allowed are 'vit', 'resnet'"),
        (wm(obs_type="text"), "obs_type='text': allowed are 'image', 'vector'"),
        (
            {"env__collect_max_episode_steps": [9]},
            r"collect_max_episode_steps=\(9,\): allowed is a",
        ),
        ({"policy__model__reward_support_range": (-5, 6, 1)}, "allowed is one range for both"),
        ({"policy__model__value_support_range": 50}, "value_support_range=50: allowed are three"),
        (wm(encoder_type="resnet"), "num_channels=256 with encoder_type='resnet': allowed is 64"),
        (wm(predict_latent_loss_type="group_kl"), "'group_kl' with 'SimNorm'"),
        (wm(context_length=7), "context_length=7: allowed are even numbers"),
        (wm(num_heads=7), "num_heads=7.*does not divide"),
    ],
)
def test_what_has_no_counterpart_is_refused_in_one_line(by_key, says):
    with pytest.raises(ValueError, match=says) as caught:
        translate_config(changed(**by_key))
    assert "\n" not in str(caught.value)


def test_tasks_must_agree_in_all_else():
    ours = configs()
    ours[3][1][0].policy.learning_rate = 1e-3
    with pytest.raises(ValueError, match="policy.learning_rate differs between tasks"):
        translate_config(ours)
    assert translate_config(ours[:3]).experiment.num_tasks == 3
    untouched = copy.deepcopy(ours)
    translate_config(ours[:3])
    assert ours == untouched, "the configs stay as they were written"


def test_the_table_of_keys_names_fields_that_exist():
    fields = dict(flatten(ExperimentConfig().model_dump()))
    fields |= {f"env.{name}": None for name in AtariEnvConfig.model_fields}
    for key in keys().values():
        if key.rule == "mapped":
            assert key.target in fields, key
        if key.rule == "copy":
            assert keys()[key.target].rule in ("mapped", "copy"), key
        if key.rule in ("ignored", "only"):
            assert key.text, key
    assert MADE_TOGETHER | set(SIMPLE) <= set(keys())
    for path, (target, _) in SIMPLE.items():
        assert keys()[path].target == target


def test_training_by_their_configs_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    logging.getLogger("lzero").setLevel(logging.WARNING)
    result = train_unizero_multitask_segment_ddp(
        tiny_catch("data"), seed=3, max_env_step=40, domain="zoo.catch.domain:CATCH"
    )
    assert set(result.scores) == {"Catch", "MirroredCatch"} and result.train_iter == 2
    assert result.run_dir.parts == ("data", "catch")
    written = ExperimentConfig.model_validate_json((result.run_dir / "config.json").read_text())
    assert written.batch_size_of("MirroredCatch") == 2 and written.model.moe.hidden_ratio == 4.0
    assert read_metrics(result.run_dir / "metrics.jsonl")
    shown = capsys.readouterr().out
    assert re.search(r"policy\.update_per_collect +│ +2 +│ +mapped +│ +policy\.replay_ratio", shown)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ValueError, match="benchmark_name='dmc': allowed is atari"):
        train_unizero_multitask_segment_ddp(tiny_catch("data"), benchmark_name="dmc")
    assert not capsys.readouterr().out
