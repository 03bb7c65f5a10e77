"""The library that the stages compose: it takes values, knows no stage and has no cycles."""
