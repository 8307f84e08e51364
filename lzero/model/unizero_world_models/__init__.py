"""The UniZero world model: transformer, attention, mixture of experts, heads."""
