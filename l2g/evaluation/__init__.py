"""Backends over whole data sets: AP, what a precision costs, parity of two backends."""
