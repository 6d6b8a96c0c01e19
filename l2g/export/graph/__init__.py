"""A model becomes a graph: traced, folded, its batch axis freed, its nodes counted and named."""
