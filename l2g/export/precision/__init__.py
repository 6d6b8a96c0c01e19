"""FP16-mixed graphs: conversion, islands, emulation, the search and the proof."""
