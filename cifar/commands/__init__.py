"""What a person calls: one module a command, for `python -m cifar`."""
