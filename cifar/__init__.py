"""The library that the stages compose. Its packages, from the lowest up: system, config, data, nn, results, training.

A package imports only from itself and from those below it. No module imports a stage.
"""
