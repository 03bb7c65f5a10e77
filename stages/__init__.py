"""The stages in reading order: download, stats, lr_find, train, evaluate, misclassified, gradcam."""

import sys

from cifar.console import end_at_once_on_signals

if sys.argv[0] == "-m":  # for as long as `python -m stages.<name>` looks for the module: its imports are yet to come
    end_at_once_on_signals()
