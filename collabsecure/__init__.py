"""Collaborative knowledge editing of language models through secure summation."""

__version__ = "0.1.0"
