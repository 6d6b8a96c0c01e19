"""Tests of the compiled backend."""
