"""The library that the stages compose. Its rooms, from the lowest up: system, config, data, nn, results, training.

A room imports only from itself and from the rooms below it. No module knows a stage.
"""
