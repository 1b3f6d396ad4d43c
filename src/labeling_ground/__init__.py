"""Labeling Ground: a prediction-cache server for interactive image labeling."""

__version__ = "0.1.0"
