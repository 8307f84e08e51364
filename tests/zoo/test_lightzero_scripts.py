"""Scripts under LightZero's names: presets of ours with one change each; their help works."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

import lzero
from lzero.nn.moe import MoELayer
from zoo.atari.config.presets import LIGHTZERO_PRESETS, lightzero_presets, presets

SCRIPTS = Path(lzero.__file__).parents[1] / "zoo" / "atari" / "config"
OURS = {name: config for name, (_, config) in presets(moe=True).items()}


@pytest.mark.parametrize("name", LIGHTZERO_PRESETS)
def test_the_script_explains_itself(name, monkeypatch, capsys):
    script = SCRIPTS / f"atari_unizero_multitask_segment_ddp_config_moe_{name}.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert not ended.value.code
    shown = capsys.readouterr().out
    for preset in lightzero_presets(name):
        assert preset in shown
    assert name in shown


def differences(ours, theirs, name: str) -> dict:
    """Fields of the model and the policy that differ; nothing else may but the name."""
    a, b = ours.model_dump(), theirs.model_dump()
    assert b.pop("exp_name") == f"{a.pop('exp_name')}_{name}"
    found = {}
    for section in ("model", "policy"):
        before, after = a.pop(section), b.pop(section)
        for key, value in after.items():
            if value != before[key]:
                found[f"{section}.{key}"] = value
    assert a == b
    return found


def test_they_are_our_presets_with_one_change():
    deep = lightzero_presets("8layer")
    assert set(deep) == {name for name in OURS if not name.startswith("conflict_study")}
    for preset, (_, config) in deep.items():
        of_atari8 = {"policy.batch_size": 64} if preset.startswith("atari8") else {}
        found = differences(OURS[preset], config, "8layer")
        assert found == {"model.num_layers": 8} | of_atari8
    for name, experts in (("noshare", (8, 0)), ("only_share", (0, 1))):
        for preset, (_, config) in lightzero_presets(name).items():
            assert set(differences(OURS[preset], config, name)) == {"model.moe"}
            moe = config.model.moe
            assert (moe.num_experts, moe.num_shared_experts) == experts


def test_a_token_passes_as_many_parameters_as_in_the_whole_mixture():
    work = []
    for made in (OURS, *map(lightzero_presets, ("noshare", "only_share"))):
        config = made["atari8"] if made is OURS else made["atari8"][1]
        with torch.device("meta"):
            work.append(MoELayer(config.model.moe, config.model.embed_dim, 8).work_of_token())
    assert len(set(work)) == 1


def test_another_name_is_refused():
    with pytest.raises(ValueError, match="name='4layer': allowed are noshare, only_share, 8layer"):
        lightzero_presets("4layer")
