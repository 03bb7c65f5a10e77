"""The params: what params.yaml may say (the schema), and reading it.

May import system.
"""
