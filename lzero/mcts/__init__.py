"""Tree search and replay: arrays only, no environment and no configuration."""
