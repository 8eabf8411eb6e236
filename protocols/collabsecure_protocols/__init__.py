"""Pairwise-masked secure summation, sans-IO: bytes in, events out. Needs numpy and cryptography only."""
