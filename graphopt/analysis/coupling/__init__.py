"""Coupled dimensions: what must be cut together, in any graph."""
