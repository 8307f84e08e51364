"""Every key of LightZero's multi-task configs, and what becomes of it: one line each.

A line has five columns: key, rule, object of the rule, default, text. Rules:

- ``mapped``: object is our field; LightZero's default is taken where the key is missing (``-``: none, then
  ours). Values that have to be converted, and fields made of several keys, are in ``conversions.py``.
- ``ignored``: text is the reason.
- ``only``: object are the values that change nothing here; all others are refused, and text says what to do.
- ``copy``: object is the key that it has to agree with.

Source: configs and policies of opendilab/LightZero, 2025 and later (``main`` and the multi-task branches).
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

Rule = Literal["mapped", "ignored", "only", "copy"]
NO_DEFAULT = "-"

TABLE = """
[main]
exp_name | mapped | exp_name | - | the folder that all tasks share; what is above it becomes output_dir
seed | ignored | | | give seed= to the call
[env]
env_id | mapped | env.games | - | PongNoFrameskip-v4 and ALE/Pong-v5 are Pong; actions are not repeated, as in v4
collector_env_num | mapped | env.num_envs | 8 | may differ between tasks
evaluator_env_num | mapped | env.num_eval_envs | 3 |
n_evaluator_episode | mapped | train.eval_episodes | 3 |
collect_max_episode_steps | mapped | env.max_episode_steps | - | may differ between tasks
eval_max_episode_steps | copy | env.collect_max_episode_steps | | a game has one time limit here
clip_rewards | mapped | env.clip_reward | True | may differ between tasks
episode_life | mapped | env.end_on_life_loss | True |
observation_shape | mapped | env.image_size | (3, 64, 64) | its last number; a domain of vectors knows its own
gray_scale | mapped | env.grayscale | False |
frame_stack_num | mapped | env.frame_stack | 1 |
frame_skip | mapped | env.frame_skip | 4 |
full_action_space | mapped | env.minimal_actions | False | the contrary; actions without effect are masked
stop_value | ignored | | | a run ends after its env steps, whatever the score
manager.shared_memory | ignored | | | environments of a game are one C++ vector environment
manager.context | ignored | | | environments of a game are one C++ vector environment
env_type | ignored | | | create_config.env.type says it
channel_last | only | (False,) | | leave it out: observations are channels first
warp_frame | only | (True,) | | leave it out: pictures are always scaled to env.image_size
scale | ignored | | | pictures are kept as bytes and scaled to [0, 1] in the encoder
transform2string | ignored | | | frames are kept in chunks; policy.replay.on_disk saves memory
game_wrapper | ignored | | | of LightZero's environments
render_mode_human | ignored | | | train.video records an episode of each game at the end
save_replay | ignored | | | train.video records an episode of each game at the end
save_replay_gif | ignored | | | train.video records an episode of each game at the end
replay_path | ignored | | | videos go into the run's folder
[policy]
batch_size | mapped | policy.batch_size | - | windows of each game, a number or one per task; may differ between tasks
num_unroll_steps | mapped | policy.unroll_steps | 10 |
td_steps | mapped | policy.td_steps | 5 |
discount_factor | mapped | policy.discount | 0.997 |
update_per_collect | mapped | policy.replay_ratio | None | updates over num_segments * game_segment_length
replay_ratio | mapped | policy.replay_ratio | 0.25 | only where update_per_collect is None, as in LightZero
num_segments | mapped | train.collect_steps | 8 | num_segments * game_segment_length / collector_env_num
game_segment_length | mapped | train.collect_steps | 400 | as num_segments; windows may begin anywhere, not in segments
replay_buffer_size | mapped | policy.replay.capacity | 1000000 | transitions per game
use_priority | mapped | policy.replay.prioritised | False |
priority_prob_alpha | mapped | policy.replay.alpha | 0.6 |
priority_prob_beta | mapped | policy.replay.beta | 0.4 |
num_simulations | mapped | policy.search.num_simulations | 50 | and num_eval_simulations
collect_num_simulations | mapped | policy.search.num_simulations | None | where it is given
eval_num_simulations | mapped | policy.search.num_eval_simulations | None | where it is given
gumbel_algo | mapped | policy.search.kind | False | True is gumbel, False puct
root_dirichlet_alpha | mapped | policy.search.dirichlet_alpha | 0.3 |
root_noise_weight | mapped | policy.search.dirichlet_weight | 0.25 |
fixed_temperature_value | mapped | policy.search.temperature | 0.25 |
reanalyze_ratio | mapped | policy.reanalyse_fraction | 0.0 |
learning_rate | mapped | policy.optimiser.learning_rate | 0.0001 |
weight_decay | mapped | policy.optimiser.weight_decay | 0.0001 |
grad_clip_value | mapped | policy.optimiser.max_grad_norm | 5.0 |
target_update_theta | mapped | policy.target_momentum | 0.05 |
use_augmentation | mapped | policy.shift_pixels | False | True shifts pictures by up to 4 pixels; intensities stay
use_adaptive_entropy_weight | mapped | policy.loss.adaptive_entropy | False | a weight of its own for every task
target_entropy_start_ratio | mapped | policy.loss.entropy_target_start | 0.98 |
target_entropy_end_ratio | mapped | policy.loss.entropy_target_end | 0.7 |
target_entropy_decay_steps | mapped | policy.loss.entropy_target_updates | 200000 |
label_smoothing_eps | mapped | model.label_smoothing | 0.0 | of values and rewards
train_start_after_envsteps | mapped | train.random_steps | 0 | they are played at random, not by the untrained policy
eval_freq | mapped | train.eval_interval | 5000 | updates there, env steps per game here: over the replay ratio
cuda | mapped | device | True | True is auto: CUDA where there is some
evaluator_env_num | copy | env.evaluator_env_num | |
collector_env_num | copy | env.collector_env_num | |
gray_scale | copy | env.gray_scale | |
frame_stack_num | copy | env.frame_stack_num | |
device | ignored | | | cuda says it; every process takes its own GPU
multi_gpu | ignored | | | processes are those that torch.distributed.run starts
task_id | ignored | | | the place in the list of configs; a number that contradicts it is refused
task_num | ignored | | | the number of configs
total_task_num | ignored | | | the number of configs
n_episode | ignored | | | env steps are collected, not episodes
total_batch_size | ignored | | | the sum of the games' batches
adaptive_entropy_alpha_lr | ignored | | | the weight's logarithm moves by 1e-3 times the distance from the target
target_update_freq | ignored | | | the target network follows in every update, as there
momentum | ignored | | | of SGD
mcts_ctree | ignored | | | the search is compiled where a compiler was found
env_type | ignored | | | of board games
sample_type | ignored | | | windows may begin anywhere
monitor_extra_statistics | ignored | | | metrics are always logged
monitor_norm_freq | ignored | | | norms are always logged (plasticity/…)
analysis_sim_norm | ignored | | | health metrics are always logged
print_task_priority_logs | ignored | | | health metrics are always logged
use_wandb | ignored | | | metrics go to metrics.jsonl and TensorBoard
learn.learner.hook.save_ckpt_after_iter | ignored | | | train.checkpoint_interval, in env steps; the last and the best are kept
learn.learner.hook.log_show_after_iter | ignored | | | train.log_interval
moco_version | ignored | | | of MoCo, which is refused
grad_correct_params.MoCo_beta | ignored | | | of MoCo, which is refused
grad_correct_params.MoCo_beta_sigma | ignored | | | of MoCo, which is refused
grad_correct_params.MoCo_gamma | ignored | | | of MoCo, which is refused
grad_correct_params.MoCo_gamma_sigma | ignored | | | of MoCo, which is refused
grad_correct_params.MoCo_rho | ignored | | | of MoCo, which is refused
grad_correct_params.calpha | ignored | | | policy.cagrad_c, where policy.gradient_aggregator is cagrad
grad_correct_params.rescale | ignored | | | policy.cagrad_c, where policy.gradient_aggregator is cagrad
reanalyze_batch_size | ignored | | | of reanalysing the buffer, which is refused
reanalyze_partition | ignored | | | of reanalysing the buffer, which is refused
reanalyze_noise | ignored | | | searches for targets have no root noise
use_encoder_clip_annealing | ignored | | | latents are normalised without a learned scale: there is nothing to clip
encoder_clip_anneal_type | ignored | | | as use_encoder_clip_annealing
encoder_clip_start_value | ignored | | | as use_encoder_clip_annealing
encoder_clip_end_value | ignored | | | as use_encoder_clip_annealing
encoder_clip_anneal_steps | ignored | | | as use_encoder_clip_annealing
latent_norm_clip_threshold | ignored | | | as use_encoder_clip_annealing
policy_ls_eps_end | ignored | | | of smoothed policy targets, which are refused
policy_ls_eps_decay_steps | ignored | | | of smoothed policy targets, which are refused
value_loss_weight | ignored | | | UniZero's loss has weights of its own there; policy.loss.value (0.5) here
reward_loss_weight | ignored | | | UniZero's loss has weights of its own there; policy.loss.reward (1) here
policy_loss_weight | ignored | | | UniZero's loss has weights of its own there; policy.loss.policy (1) here
ssl_loss_weight | ignored | | | UniZero's loss has weights of its own there; policy.loss.latent (10) here
augmentation | ignored | | | use_augmentation shifts
threshold_training_steps_for_final_lr | ignored | | | of schedules, which are refused
threshold_training_steps_for_final_temperature | ignored | | | of schedules, which are refused
eps.type | ignored | | | of random actions while collecting, which are refused
eps.start | ignored | | | of random actions while collecting, which are refused
eps.end | ignored | | | of random actions while collecting, which are refused
eps.decay | ignored | | | of random actions while collecting, which are refused
use_moco | only | (False,) | | set it to False; policy.gradient_aggregator has pcgrad, cagrad and upgrad
only_use_moco_stats | only | (False,) | | set it to False; conflict is measured every policy.gradient_conflict_interval updates
use_task_exploitation_weight | only | (False,) | | set it to False; policy.gradient_aggregator weighs tasks by their gradients
task_complexity_weight | only | (False,) | | set it to False; policy.gradient_aggregator weighs tasks by their gradients
allocated_batch_sizes | only | (False,) | | set it to False and give batch_size one number per task
model_path | only | (None, '') | | set it to None; resume= continues from a checkpoint of lzero, others cannot be read
optim_type | only | ('AdamW', 'AdamW_mix_lr_wdecay') | | set it to 'AdamW', the one optimizer here
cos_lr_scheduler | only | (False,) | | set it to False; a run may be continued with another learning rate
piecewise_decay_lr_scheduler | only | (False,) | | set it to False; a run may be continued with another learning rate
lr_piecewise_constant_decay | only | (False,) | | set it to False; a run may be continued with another learning rate
manual_temperature_decay | only | (False,) | | set it to False and give fixed_temperature_value
policy_ls_eps_start | only | (0, 0.0) | | set it to 0; policy targets are not smoothed here
buffer_reanalyze_freq | only | () | | set it to at most 1/100000, as good as never, and reanalyze_ratio instead
random_collect_episode_num | only | (0,) | | set it to 0; train_start_after_envsteps plays that many env steps at random
eps.eps_greedy_exploration_in_collect | only | (False,) | | set it to False; root noise and temperature explore
sampled_algo | only | (False,) | | set it to False; actions are discrete here
ignore_done | only | (False,) | | set it to False; how episodes end is predicted and learned from
collect_with_pure_policy | only | (False,) | | set it to False; every move is searched
use_rnd_model | only | (False,) | | set it to False; there is no intrinsic reward here
action_type | only | ('fixed_action_space', 'varied_action_space') | | leave it out
battle_mode | only | ('play_with_bot_mode',) | | leave it out; there are no games of two players here
accumulation_steps | only | (1,) | | set it to 1 and batch_size to the whole batch
[policy.model]
observation_shape | copy | env.observation_shape | |
action_space_size | ignored | | | the domain says how many actions there are
image_channel | ignored | | | env.grayscale and env.frame_stack say it
frame_stack_num | copy | env.frame_stack_num | |
gray_scale | copy | env.gray_scale | |
norm_type | only | ('LN',) | | set it to 'LN'; there is no batch norm here
num_res_blocks | mapped | model.encoder.kind | 2 | 2 with encoder_type resnet; without effect with vit
num_channels | mapped | model.encoder.kind | 64 | 64 with encoder_type resnet; without effect with vit
num_layers | copy | policy.model.world_model_cfg.num_layers | |
continuous_action_space | only | (False,) | | set it to False; actions are discrete here
support_scale | mapped | model.support_limit | 50.0 |
reward_support_range | mapped | model.support_bins | None | (-50.0, 51.0, 1.0) is a limit of 50 and 101 bins
value_support_range | mapped | model.support_bins | None | has to equal reward_support_range
categorical_distribution | only | (True,) | | set it to True; values and rewards are distributions over bins
model_type | ignored | | | obs_type and encoder_type say it
self_supervised_learning_loss | ignored | | | next latents are always predicted
bias | ignored | | | heads have a bias
res_connection_in_dynamics | ignored | | | of MuZero
downsample | ignored | | | pictures are always downsampled
analysis_sim_norm | ignored | | | health metrics are always logged
learn.learner.hook.save_ckpt_after_iter | ignored | | | train.checkpoint_interval, in env steps; the last and the best are kept
[policy.model.world_model_cfg]
embed_dim | mapped | model.embed_dim | 768 |
num_layers | mapped | model.num_layers | 2 |
num_heads | mapped | model.num_heads | 8 |
context_length | mapped | model.context_steps | 8 | half of it: tokens there, env steps here
resid_pdrop | mapped | model.dropout | 0.1 |
share_head | mapped | model.share_head | False |
task_embed_option | mapped | model.task_embedding | None | add_, concat_ and register_task_embed are add, concat and register
register_token_num | mapped | model.num_register_tokens | 4 |
final_norm_option_in_encoder | mapped | model.latent_norm | None | LayerNorm with mse, or SimNorm with group_kl
predict_latent_loss_type | mapped | model.latent_norm | None | goes with final_norm_option_in_encoder
support_size | mapped | model.support_bins | 101 |
policy_entropy_weight | mapped | policy.loss.entropy | 0.0001 |
encoder_type | mapped | model.encoder.kind | 'resnet' | vit: 768 wide, 12 blocks, 6 for up to 8 tasks; resnet: kind lightzero
obs_type | mapped | model.encoder.kind | 'image' | vector is kind mlp
multiplication_moe_in_transformer | mapped | model.moe.enabled | False | experts as large as there: model.moe.hidden_ratio 4
num_experts_of_moe_in_transformer | mapped | model.moe.num_experts | 8 |
n_shared_experts | mapped | model.moe.num_shared_experts | 0 | SwiGLU as the routed ones; GELU there
num_experts_per_tok | mapped | model.moe.top_k | 1 | 2 or more: model.moe.renormalise; with 1 the router learns here
norm_type | only | ('LN',) | | set it to 'LN'; there is no batch norm here
max_blocks | copy | policy.num_unroll_steps | |
continuous_action_space | only | (False,) | | set it to False; actions are discrete here
attn_pdrop | copy | policy.model.world_model_cfg.resid_pdrop | | blocks have one dropout rate here
use_priority | copy | policy.use_priority | |
priority_prob_alpha | copy | policy.priority_prob_alpha | |
priority_prob_beta | copy | policy.priority_prob_beta | |
game_segment_length | copy | policy.game_segment_length | |
final_norm_option_in_obs_head | copy | policy.model.world_model_cfg.final_norm_option_in_encoder | |
max_tokens | ignored | | | twice max_blocks
tokens_per_block | only | (2,) | | leave it out: a latent and an action
embed_pdrop | ignored | | | embeddings are not dropped here
device | ignored | | | policy.cuda says it
action_space_size | ignored | | | the domain says how many actions there are
env_num | ignored | | | the number of configs
task_num | ignored | | | the number of configs
use_task_embed | ignored | | | task_embed_option says it
task_embed_dim | ignored | | | a task's vector is as wide as the model
num_experts_in_moe_head | ignored | | | of use_moe_head, which is refused
lora_alpha | ignored | | | of LoRA, which is refused
lora_dropout | ignored | | | of LoRA, which is refused
analysis_dormant_ratio_weight_rank | ignored | | | plasticity is always measured
analysis_dormant_ratio_interval | ignored | | | plasticity is measured every train.log_interval updates
analysis_dormant_ratio | ignored | | | plasticity is always measured
dormant_threshold | ignored | | | 0.025, as in the paper that defines it
analysis_sim_norm | ignored | | | health metrics are always logged
max_cache_size | ignored | | | a move's context is computed anew; no keys are kept from move to move
rotary_emb | ignored | | | positions are always rotary
rope_theta | ignored | | | positions are always rotary
max_seq_len | ignored | | | positions are always rotary
gamma | ignored | | | policy.discount_factor says it
use_global_pooling | only | (False,) | | set it to False
use_shared_projection | only | (False,) | | set it to False; heads are model.share_head or one per task
use_normal_head | only | (True,) | | set it to True
use_softmoe_head | only | (False,) | | set it to False; mixtures are in the blocks
use_moe_head | only | (False,) | | set it to False; mixtures are in the blocks
moe_in_transformer | only | (False,) | | use multiplication_moe_in_transformer: experts are SwiGLU here
moe_use_lora | only | (False,) | | set it to False; there is no LoRA here
lora_r | only | (0,) | | set it to 0; there is no LoRA here
curriculum_stage_num | only | (1,) | | set it to 1; there is no LoRA here
gru_gating | only | (False,) | | set it to False
attention | only | ('causal',) | | set it to 'causal'
group_size | only | (8,) | | set it to 8, the size of SimNorm's groups here
latent_recon_loss_weight | only | (0, 0.0) | | set it to 0; pictures are not reconstructed
perceptual_loss_weight | only | (0, 0.0) | | set it to 0; pictures are not reconstructed
[create_config]
env.type | mapped | env.domain | - | atari_lightzero is zoo.atari.domain:ATARI; give domain= for games of your own
env.import_names | ignored | | | env.domain is an import path
env_manager.type | ignored | | | environments of a game are one C++ vector environment
policy.type | only | ('unizero_multitask',) | | set it to 'unizero_multitask'; other algorithms of LightZero are not here
policy.import_names | ignored | | | there is one policy here
collector.type | ignored | | | there is one collector here
collector.import_names | ignored | | | there is one collector here
"""


@dataclass(frozen=True)
class Key:
    """A key of LightZero's configs.

    Attributes:
        path: dotted, in the main config; ``create_config.…`` in the other.
        rule: see the module.
        target: our field (``mapped``), or the other key (``copy``); else empty.
        allowed: values that change nothing (``only``); else empty.
        default: LightZero's; :data:`NO_DEFAULT` where there is none.
        text: note, reason, or what to do.
    """

    path: str
    rule: Rule
    target: str
    allowed: tuple[Any, ...]
    default: Any
    text: str


@cache
def keys() -> dict[str, Key]:
    """All keys by path, in the order of the table.

    Raises:
        ValueError: if the table is malformed.
    """
    found: dict[str, Key] = {}
    for key in _read():
        if key.path in found:
            raise ValueError(f"{key.path} stands twice in the table of keys")
        found[key.path] = key
    return found


def _read() -> Iterator[Key]:
    section = ""
    for line in TABLE.strip().splitlines():
        if line.startswith("["):
            section = "" if line == "[main]" else line.strip("[]") + "."
            continue
        name, rule, target, default, text = (cell.strip() for cell in line.split("|", 4))
        if rule not in get_args(Rule):
            raise ValueError(f"{name}: unknown rule {rule!r} in the table of keys")
        only = rule == "only"
        yield Key(
            path=section + name,
            rule=rule,  # type: ignore[arg-type]  # checked above
            target="" if only else target,
            allowed=ast.literal_eval(target) if only else (),
            default=NO_DEFAULT if default in ("", NO_DEFAULT) else ast.literal_eval(default),
            text=text,
        )


def as_markdown() -> str:
    """The table as the documentation shows it."""
    lines = ["| LightZero's key | here | |", "|---|---|---|"]
    for key in keys().values():
        lines.append(f"| `{key.path}` | {_fate(key)} | {key.text} |")
    return "\n".join(lines)


def _fate(key: Key) -> str:
    if key.rule == "mapped":
        return f"`{key.target}`"
    if key.rule == "copy":
        return f"has to equal `{key.target}`"
    if key.rule == "ignored":
        return "ignored"
    if not key.allowed:
        return "refused above a limit"
    return "refused unless " + " or ".join(f"`{value!r}`" for value in key.allowed)
