"""What numbers a tensor takes, and the integers that stand for them."""
