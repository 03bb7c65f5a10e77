"""The recipes, and the commands on them."""
