"""The `collabsecure` command: everything that touches files, terminals and networks."""
