"""The networks and their layers, the computation from images to logits, and trained models on disk.

May import data, config and system.
"""
