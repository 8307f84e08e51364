"""What looks inside a model while it learns, of any algorithm: conflict, expert selection,
plasticity.
"""
