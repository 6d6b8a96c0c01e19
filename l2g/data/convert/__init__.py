"""Labelled video in the formats of other tools: read as a data set, written from one, with what is lost named."""
