"""What attacks are tried on: edits of a real model (`editing`), keys made up in the likeness of such (`synthetic`)."""
