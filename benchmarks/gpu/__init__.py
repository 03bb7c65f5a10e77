"""Everything that a GPU is wanted for, as one program: `python -m benchmarks.gpu`, or `make gpu`.

`plan` says what runs, and in which order. `runs` and `speed` do the work, in `programs`. `journal` keeps the results,
and `summary` prints them.
"""
