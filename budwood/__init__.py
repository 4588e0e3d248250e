"""Budwood: from a pretrained model and a small data set to a small, fast model behind an API that scales."""

__version__ = "0.1.0"
