"""Experiments with environments of gymnasium's registry."""
