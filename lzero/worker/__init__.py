"""Workers: collecting experience and evaluating."""
