"""What somebody types, understood or refused in one line: presets and options, files of experiments.

Nothing here imports torch: help and mistakes are answered before anything heavy is loaded.
"""
