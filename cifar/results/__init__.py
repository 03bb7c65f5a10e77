"""What a trained network did: scores, predictions, mistakes, heatmaps, and the pictures of them.

May import nn, data, config and system.
"""
