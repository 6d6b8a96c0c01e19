"""Serving by Triton: a model repository made from a contract, what runs in it, and the client."""
