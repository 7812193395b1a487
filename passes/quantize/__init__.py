"""Passes that turn floating-point operators into integer ones."""
