"""Hints: a wrong key is answered with the field that is meant wherever it is, a wrong value with what to write."""

import pytest
from pydantic import ValidationError

from lzero.config import ExperimentConfig, LossConfig, PolicyConfig, TrainConfig
from lzero.config_hints import key_hint, schema_paths, value_hint
from lzero.config_ppo import PPOConfig, PPOExperiment
from lzero.lightzero_keys import LIGHTZERO_KEYS
from zoo.atari.domain import AtariEnvConfig

PATHS = tuple(schema_paths(ExperimentConfig, AtariEnvConfig))
ASKED_FOR = """
num_simulations update_per_collect replay_ratio collector_env_num evaluator_env_num n_evaluator_episode env_id_list env_id
game_segment_length num_unroll_steps td_steps infer_context_length norm_type grad_clip_value target_update_theta
buffer_reanalyze_freq batch_size replay_buffer_size observation_shape action_space_size frame_stack_num max_env_step eval_freq
support_scale discount_factor policy_entropy_weight latent_recon_loss_weight num_experts_of_moe_in_transformer
num_experts_per_tok n_shared_experts use_priority ssl_loss_weight cuda seed exp_name
""".split()


def refusal(section, **fields) -> str:
    with pytest.raises(ValidationError) as caught:
        section(**fields)
    return str(caught.value)


def test_every_field_of_the_table_exists_and_every_other_entry_has_a_reason():
    assert {meaning.path for meaning in LIGHTZERO_KEYS.values()} - {""} <= set(PATHS)
    assert [key for key, meaning in LIGHTZERO_KEYS.items() if not any(meaning)] == []
    assert [key for key in ASKED_FOR if key not in LIGHTZERO_KEYS] == []
    assert len(LIGHTZERO_KEYS) >= 40


@pytest.mark.parametrize("key", LIGHTZERO_KEYS)
def test_lightzeros_keys_are_answered_wherever_they_are_written(key):
    path, note = LIGHTZERO_KEYS[key]
    for section in (TrainConfig, PolicyConfig, LossConfig):
        if key in section.model_fields:
            continue
        said = key_hint(key, section, [ExperimentConfig])
        meant = path.rpartition(".")[2]
        own = meant in section.model_fields and f"did you mean {meant!r}?" in said
        assert own or note in said and (path in said if path else "there is no" in said)


def test_a_field_of_any_section_is_found_from_any_other():
    for path in schema_paths(ExperimentConfig):
        name = path.rpartition(".")[2]
        if name in TrainConfig.model_fields or name in LIGHTZERO_KEYS:
            continue
        said = key_hint(name, TrainConfig, [ExperimentConfig])
        assert path in said or said == f"did you mean {name!r}?", (path, said)


@pytest.mark.parametrize(
    ("section", "key", "said"),
    [
        (PolicyConfig, "learning_rate", "learning_rate is policy.optimiser.learning_rate"),
        (PolicyConfig, "lerning_rate", "did you mean policy.optimiser.learning_rate?"),
        (PolicyConfig, "num_simulations", "num_simulations is policy.search.num_simulations here"),
        (PolicyConfig, "batch-size", "did you mean 'batch_size'?"),
        (TrainConfig, "dropout", "model.encoder.dropout or model.dropout"),
        (TrainConfig, "update_per_collect", "the number of updates follows from policy.replay_rat"),
        (TrainConfig, "xyzzy", "valid: checkpoint_interval, "),
        (ExperimentConfig, "learning_rate", "is policy.optimiser.learning_rate"),
        (PPOConfig, "epsilon", "epsilon is policy.optimiser.epsilon"),
        (PPOConfig, "num_simulations", "PPOExperiment has none"),
    ],
)
def test_keyword_arguments_of_a_section_are_answered_by_the_whole_schema(section, key, said):
    message = refusal(section, **{key: 1})
    assert f"unknown key {key!r}" in message and said in message


def test_a_place_as_it_was_written_tells_fields_of_one_name_apart():
    assert "encoder" not in key_hint("dropout", ExperimentConfig, [ExperimentConfig], "model")
    assert "model.encoder.dropout" in key_hint(
        "dropout", ExperimentConfig, [ExperimentConfig], "encoder"
    )


def test_fields_of_another_algorithm_are_not_named():
    said = key_hint("gae_lambda", LossConfig, [ExperimentConfig, PPOExperiment])
    assert "policy.gae_lambda" not in said


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        ("int_parsing", "1e6", "write 1000000"),
        ("int_parsing", "1,000", "write 1000"),
        ("int_parsing", "2M", "write 2000000"),
        ("int_from_float", 2.6, "write 3"),
        ("int_parsing", "many", "write a whole number"),
        ("int_parsing", "1e999", "write a whole number"),
        ("float_parsing", "3k", "write 3000"),
        ("float_parsing", "little", "write a number"),
        ("bool_parsing", "perhaps", "write true or false"),
        ("literal_error", "gumbl", "did you mean 'gumbel'?"),
        ("tuple_type", "Pong", "write a list: [Pong]"),
        ("greater_than", 0, ""),
    ],
)
def test_values_are_answered_with_what_to_write(kind, value, said):
    hint = value_hint(kind, value, ["puct", "gumbel"])
    assert said in hint and bool(said) == bool(hint)
