"""Unstructured and structured pruning."""
