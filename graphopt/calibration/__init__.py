"""Streaming statistics of activations."""
