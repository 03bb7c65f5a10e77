"""From a data set to batches: obtaining it, its splits and statistics, augmentation, the order of the batches.

May import config and system.
"""
