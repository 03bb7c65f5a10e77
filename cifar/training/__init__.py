"""The training step and what surrounds it: optimizers, schedules, the loop over epochs, checkpoints, the range test.

May import results, nn, data, config and system.
"""
