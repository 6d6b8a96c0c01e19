"""Torch-free runtime: video in, state carried, tracks out."""
