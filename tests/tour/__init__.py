"""Start here: ten tests that show what Parley does, in reading order. `pytest tests/tour` runs them."""
