"""How good a choice is: the measurements themselves are tested, and two of their figures, with fewer trials."""
