"""MinAtar: five Atari games on a 10x10 grid (Young and Tian, arXiv 1903.03176)."""
