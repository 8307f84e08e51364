"""Keys of LightZero's configs, and what is meant by them here: data for hints, read by :mod:`lzero.config_hints`.

Each key has the field of our schema that does the same, as a dotted path, or none, and a note: a difference of unit or meaning,
or why there is no such field.
"""

from typing import NamedTuple


class Meaning(NamedTuple):
    """What a key of LightZero's is here."""

    path: str
    """Dotted path of our field; empty where there is none."""
    note: str = ""
    """What else is to be known; without a path the reason."""


LIGHTZERO_KEYS = {
    # games and environments
    "env_id": Meaning("env.games", "a list of names, such as Pong"),
    "env_id_list": Meaning("env.games", "names such as Pong, without NoFrameskip-v4"),
    "task_num": Meaning("", "the number of tasks is that of env.games"),
    "task_id": Meaning("", "a game's place in env.games is its task id"),
    "collector_env_num": Meaning("env.num_envs", "environments of each game"),
    "evaluator_env_num": Meaning("env.num_eval_envs", "environments of each game"),
    "n_evaluator_episode": Meaning("train.eval_episodes", "episodes of each game"),
    "n_episode": Meaning(
        "", "all environments collect at once, train.collect_steps env steps at a time"
    ),
    "num_segments": Meaning(
        "", "all environments collect at once: env.num_envs of them, train.collect_steps at a time"
    ),
    "game_segment_length": Meaning(
        "train.collect_steps",
        "env steps between two rounds of updates; replay is a ring, not a list of segments",
    ),
    "collect_max_episode_steps": Meaning("env.max_episode_steps", "the same when evaluating"),
    "eval_max_episode_steps": Meaning("env.max_episode_steps", "the same when collecting"),
    "clip_rewards": Meaning("env.clip_reward"),
    "episode_life": Meaning("env.end_on_life_loss"),
    "frame_stack_num": Meaning("env.frame_stack", "of Atari"),
    "gray_scale": Meaning("env.grayscale", "of Atari"),
    "observation_shape": Meaning("", "environments say it; of Atari env.image_size changes it"),
    "image_channel": Meaning("", "environments say it; of Atari env.grayscale changes it"),
    "action_space_size": Meaning("", "environments say how many actions there are"),
    "action_space_size_list": Meaning("", "environments say how many actions there are"),
    # the world model
    "world_model_cfg": Meaning("model"),
    "infer_context_length": Meaning("model.context_steps", "env steps, as there"),
    "context_length": Meaning("model.context_steps", "env steps, not tokens: half the number"),
    "max_tokens": Meaning("", "sequences are as long as policy.unroll_steps makes them"),
    "max_blocks": Meaning("", "sequences are as long as policy.unroll_steps makes them"),
    "rotary_emb": Meaning("", "positions are always rotary"),
    "norm_type": Meaning("", "layers are normalised as model.encoder.kind has it, never by batch"),
    "final_norm_option_in_encoder": Meaning("model.latent_norm", "layer_norm or sim_norm"),
    "final_norm_option_in_obs_head": Meaning("model.latent_norm", "the encoder's and the head's"),
    "group_size": Meaning("", "groups of sim_norm have 8 numbers"),
    "encoder_type": Meaning("model.encoder.kind"),
    "num_res_blocks": Meaning("model.encoder.blocks_per_stage"),
    "num_channels": Meaning("model.encoder.widths", "channels of every stage"),
    "task_embed_option": Meaning("model.task_embedding"),
    "support_scale": Meaning("model.support_limit", "in transformed units, as there"),
    "support_size": Meaning("model.support_bins"),
    "reward_support_range": Meaning("model.support_limit", "with model.support_bins bins"),
    "value_support_range": Meaning("model.support_limit", "with model.support_bins bins"),
    "moe_in_transformer": Meaning("model.moe.enabled"),
    "multiplication_moe_in_transformer": Meaning("model.moe.enabled"),
    "num_experts_of_moe_in_transformer": Meaning("model.moe.num_experts", "shared ones aside"),
    "num_experts_per_tok": Meaning("model.moe.top_k"),
    "n_shared_experts": Meaning("model.moe.num_shared_experts"),
    # search
    "num_simulations": Meaning("policy.search.num_simulations"),
    "gumbel_algo": Meaning("policy.search.kind", "gumbel or puct"),
    "mcts_ctree": Meaning("", "the compiled search is taken wherever it was built"),
    "root_dirichlet_alpha": Meaning("policy.search.dirichlet_alpha"),
    "root_noise_weight": Meaning("policy.search.dirichlet_weight"),
    "fixed_temperature_value": Meaning("policy.search.temperature"),
    "manual_temperature_decay": Meaning("", "policy.search.temperature stays what it is"),
    # learning
    "replay_ratio": Meaning("policy.replay_ratio"),
    "update_per_collect": Meaning("", "the number of updates follows from policy.replay_ratio"),
    "batch_size": Meaning("policy.batch_size", "windows of each game"),
    "total_batch_size": Meaning("", "policy.batch_size is that of each game"),
    "replay_buffer_size": Meaning("policy.replay.capacity", "transitions of each game"),
    "num_unroll_steps": Meaning("policy.unroll_steps"),
    "td_steps": Meaning("policy.td_steps"),
    "discount_factor": Meaning("policy.discount"),
    "learning_rate": Meaning("policy.optimiser.learning_rate"),
    "optim_type": Meaning("", "the optimizer is AdamW"),
    "piecewise_decay_lr_scheduler": Meaning("", "the learning rate is constant"),
    "cos_lr_scheduler": Meaning("", "the learning rate is constant"),
    "grad_clip_value": Meaning("policy.optimiser.max_grad_norm", "a norm, as there"),
    "target_update_theta": Meaning("policy.target_momentum"),
    "target_update_freq": Meaning("", "the target follows at every update: policy.target_momentum"),
    "reanalyze_ratio": Meaning("policy.reanalyse_fraction"),
    "buffer_reanalyze_freq": Meaning(
        "policy.reanalyse_fraction",
        "windows are searched anew when they are drawn, a share of them",
    ),
    "use_priority": Meaning("policy.replay.prioritised"),
    "priority_prob_alpha": Meaning("policy.replay.alpha"),
    "priority_prob_beta": Meaning("policy.replay.beta"),
    "use_augmentation": Meaning("policy.shift_pixels", "pixels; 0 shifts nothing"),
    "ssl_loss_weight": Meaning("policy.loss.latent", "the prediction of the next latent"),
    "value_loss_weight": Meaning("policy.loss.value"),
    "reward_loss_weight": Meaning("policy.loss.reward"),
    "policy_loss_weight": Meaning("policy.loss.policy"),
    "policy_entropy_weight": Meaning("policy.loss.entropy"),
    "policy_entropy_loss_weight": Meaning("policy.loss.entropy"),
    "use_adaptive_entropy_weight": Meaning("policy.loss.adaptive_entropy"),
    "latent_recon_loss_weight": Meaning("", "observations are not reconstructed"),
    "perceptual_loss_weight": Meaning("", "observations are not reconstructed"),
    # the run
    "max_env_step": Meaning("train.max_env_steps", "env steps of each game"),
    "random_collect_episode_num": Meaning("train.random_steps", "env steps, not episodes"),
    "eval_freq": Meaning("train.eval_interval", "env steps of each game, not updates"),
    "save_ckpt_after_iter": Meaning(
        "train.checkpoint_interval", "env steps of each game, not updates"
    ),
    "cuda": Meaning("device", "auto, cpu or cuda"),
    "multi_gpu": Meaning("", "start several processes with python -m torch.distributed.run"),
    "model_path": Meaning("", "go on from a checkpoint with --resume PATH (resume= in Python)"),
    "seed": Meaning("", "a seed is asked for beside the experiment: --seed N (seed= in Python)"),
    "exp_name": Meaning("exp_name", "at the top of the experiment"),
}
