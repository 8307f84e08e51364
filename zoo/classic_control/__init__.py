"""Gymnasium's classic control problems with discrete actions."""
