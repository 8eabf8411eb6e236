"""Attacks on what parties see. Each takes the adversary's view as a type, and uses nothing else."""
