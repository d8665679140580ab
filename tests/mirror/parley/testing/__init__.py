"""What a user's own test-suite gets."""
