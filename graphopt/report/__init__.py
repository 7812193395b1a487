"""What a person reads: console, JSON."""
