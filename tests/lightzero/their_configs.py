"""Configs in the shape of LightZero's ``atari_unizero_multitask_segment_ddp_config``, with all of its keys."""

from typing import Any

from easydict import EasyDict

GAMES = ("Pong", "MsPacman", "Seaquest", "Boxing", "Alien", "ChopperCommand", "Hero", "RoadRunner")


def world_model(num_tasks: int) -> dict[str, Any]:
    return {
        **{"norm_type": "LN", "use_global_pooling": False, "predict_latent_loss_type": "mse"},
        **dict.fromkeys(
            ("final_norm_option_in_obs_head", "final_norm_option_in_encoder"), "LayerNorm"
        ),
        **{"share_head": False, "continuous_action_space": False, "use_shared_projection": False},
        **{"analysis_dormant_ratio_weight_rank": True, "analysis_dormant_ratio_interval": 100},
        **{"task_embed_option": None, "use_task_embed": False},
        **{"max_blocks": 10, "max_tokens": 20, "context_length": 8, "device": "cuda"},
        **{"action_space_size": 18, "num_layers": 4, "num_heads": 24, "embed_dim": 768},
        **{"obs_type": "image", "env_num": num_tasks, "task_num": num_tasks},
        **{"game_segment_length": 20, "use_priority": True},
        **{"priority_prob_alpha": 1, "priority_prob_beta": 1, "encoder_type": "vit"},
        **{"use_normal_head": True, "use_softmoe_head": False, "use_moe_head": False},
        **{"num_experts_in_moe_head": 4, "moe_in_transformer": False},
        **{"multiplication_moe_in_transformer": True, "n_shared_experts": 1},
        **{"num_experts_per_tok": 1, "num_experts_of_moe_in_transformer": 8},
        **{"moe_use_lora": False, "lora_r": 0, "lora_alpha": 1, "lora_dropout": 0.0},
    }


def main_config(game: str, task_id: int, num_tasks: int) -> dict[str, Any]:
    env = {
        **{"stop_value": int(1e6), "env_id": f"{game}NoFrameskip-v4"},
        **{"observation_shape": (3, 64, 64), "gray_scale": False, "full_action_space": True},
        **{"collector_env_num": 8, "evaluator_env_num": 3, "n_evaluator_episode": 3},
        **{"manager": {"shared_memory": False}},
        **{"collect_max_episode_steps": 5_000, "eval_max_episode_steps": 5_000},
    }
    model = {
        **{"observation_shape": (3, 64, 64), "action_space_size": 18, "norm_type": "LN"},
        **{"num_res_blocks": 2, "num_channels": 256, "continuous_action_space": False},
        "world_model_cfg": world_model(num_tasks),
    }
    moco = ("MoCo_beta", "MoCo_beta_sigma", "MoCo_gamma", "MoCo_gamma_sigma", "MoCo_rho")
    policy = {
        **{"multi_gpu": True, "only_use_moco_stats": False, "use_moco": False},
        **{"learn": {"learner": {"hook": {"save_ckpt_after_iter": 200_000}}}},
        "grad_correct_params": dict.fromkeys((*moco, "calpha", "rescale"), 0.5),
        **{"moco_version": "v1", "total_task_num": num_tasks, "task_num": num_tasks},
        **{"task_id": task_id, "model": model},
        **{"use_adaptive_entropy_weight": True, "adaptive_entropy_alpha_lr": 1e-4},
        **{"target_entropy_start_ratio": 0.98, "target_entropy_end_ratio": 0.7},
        **{"target_entropy_decay_steps": 100_000, "use_encoder_clip_annealing": True},
        **{"encoder_clip_anneal_type": "cosine", "encoder_clip_start_value": 30.0},
        **{"encoder_clip_end_value": 10.0, "encoder_clip_anneal_steps": 100_000},
        **{"use_task_exploitation_weight": False, "task_complexity_weight": False},
        **{"total_batch_size": 512, "allocated_batch_sizes": False},
        **{"train_start_after_envsteps": 0, "use_priority": True, "priority_prob_alpha": 1},
        **{"priority_prob_beta": 1, "print_task_priority_logs": False, "cuda": True},
        **{"model_path": None, "num_unroll_steps": 10, "game_segment_length": 20},
        **{"update_per_collect": 80, "replay_ratio": 0.25, "batch_size": [64] * num_tasks},
        **{"optim_type": "AdamW", "cos_lr_scheduler": False, "num_segments": 8},
        **{"num_simulations": 50, "reanalyze_ratio": 0.0, "n_episode": 8},
        **{"replay_buffer_size": int(5e5), "eval_freq": int(2e4), "collector_env_num": 8},
        **{"evaluator_env_num": 3, "buffer_reanalyze_freq": 1 / 1_000_000},
        **{"reanalyze_batch_size": 160, "reanalyze_partition": 0.75},
    }
    return {"exp_name": f"data_mt/atari_8games_seed0/{game}_seed0", "env": env, "policy": policy}


def configs(games: tuple[str, ...] = GAMES) -> list[Any]:
    """``[[task_id, [main_config, create_config]], …]``, made of EasyDicts."""
    found = []
    for task_id, game in enumerate(games):
        create = {
            "env": {
                "type": "atari_lightzero",
                "import_names": ["zoo.atari.envs.atari_lightzero_env"],
            },
            "env_manager": {"type": "subprocess"},
            "policy": {
                "type": "unizero_multitask",
                "import_names": ["lzero.policy.unizero_multitask"],
            },
        }
        main = main_config(game, task_id, len(games))
        found.append([task_id, [EasyDict(main), EasyDict(create)]])
    return found


def tiny_catch(folder: str) -> list[Any]:
    """Catch and its mirror image by keys of LightZero, small enough for two updates in a moment."""
    found = configs(("Catch", "MirroredCatch"))
    for task_id, (main, _) in found:
        main.exp_name = f"{folder}/catch/{main.env.env_id}"
        main.env |= {"observation_shape": 80, "collector_env_num": 2, "evaluator_env_num": 2}
        main.env |= {"n_evaluator_episode": 2}
        main.env |= {"collect_max_episode_steps": 8, "eval_max_episode_steps": 8}
        policy, world = main.policy, main.policy.model.world_model_cfg
        policy |= {"collector_env_num": 2, "evaluator_env_num": 2, "num_segments": 2}
        policy |= {"game_segment_length": 20, "update_per_collect": 2, "batch_size": [3, 2]}
        policy |= {"num_unroll_steps": 4, "td_steps": 2, "num_simulations": 3}
        policy |= {"replay_buffer_size": 200, "cuda": False, "eval_freq": 1_000}
        policy.model.observation_shape = 80
        world |= {"obs_type": "vector", "embed_dim": 32, "num_layers": 1, "num_heads": 2}
        world |= {"max_blocks": 4, "max_tokens": 8, "context_length": 4}
        assert policy.task_id == task_id
    return found
