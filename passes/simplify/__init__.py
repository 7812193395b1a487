"""Exact simplifications: fold, eliminate, deduplicate."""
