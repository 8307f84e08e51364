"""The command ``lzero``: one name for training, evaluating, reports, experts and sweeps."""
