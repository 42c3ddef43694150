"""Measure the figures that the project promises: ``python -m bench``."""
