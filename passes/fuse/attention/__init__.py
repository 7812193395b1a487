"""Attention in a graph: found by what it computes, whatever an exporter made of it."""
