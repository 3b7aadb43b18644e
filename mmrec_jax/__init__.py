"""Multimodal, graph and sequential recommendation in JAX."""
