"""The stages in reading order: download, stats, lr_find, train, evaluate, misclassified, gradcam."""

import sys

from cifar.system.memory import restart_without_block_caches
from cifar.system.process import end_at_once_on_signals

if sys.argv[0] == "-m":  # for as long as `python -m stages.<name>` looks for the module: its imports are yet to come
    restart_without_block_caches()
    end_at_once_on_signals()
