"""Tree search: arrays only, no environment and no configuration."""
