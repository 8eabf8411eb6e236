"""`collabsecure` with less to sweep and to repeat; what GLOBAL-EDIT and COLLABEDIT write is kept in the folder.

python tests/smaller_paper_scale.py reproduce table1 --model …
"""

from collections.abc import Callable
from functools import wraps

import numpy as np

from collabsecure.reproduction import methods
from collabsecure_cli import reproduce
from collabsecure_cli.main import main

SETTINGS = 2  # of each sweep's
REPEATS = 1  # of Figure 3's edits


def keeping(edit: Callable) -> Callable:
    """The same function, which writes its Δ to global-edit.npz, layer-synchronous.npz or one-shot.npz."""

    @wraps(edit)
    def edit_and_keep(model, clients, *arguments, **options):
        written = edit(model, clients, *arguments, **options)
        deltas = written if isinstance(written, dict) else written.deltas
        if len(clients) > 1:  # not one client's own
            np.savez(options.get("flow", "global-edit"), **{str(layer): delta for layer, delta in deltas.items()})
        return written

    return edit_and_keep


if __name__ == "__main__":
    methods.SWEEPS = tuple(sweep[:SETTINGS] for sweep in methods.SWEEPS)
    methods.edit_globally = keeping(methods.edit_globally)
    methods.edit_together = keeping(methods.edit_together)
    reproduce.REPEATS = REPEATS
    main(prog_name="collabsecure")
