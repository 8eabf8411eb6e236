"""Merging finished updates: what CollabEdit is compared with. NumPy only.

Each method is one function from the clients' updates Δ₁ … Δ_N, any N ≥ 1, to one Δ:

    simple_average     (1/N) Σ Δᵢ
    task_arithmetic    λ Σ Δᵢ
    ties               trim each Δᵢ, elect a sign for each entry, average those that have it

None of them is what `collabsecure aggregate` does, and none gives what editing with all requests in one place gives:
they see the Δᵢ alone, each of which was solved for as if the others did not exist. `collabsecure.merge`, whose name is
so like, is the server's exact solve (CollabEdit eq. 3), which takes the summed statistics Σ KᵢKᵢᵀ and Σ RᵢKᵢᵀ instead.

An update maps layers to Δ, (d_out, d_in). It may be one that reads a layer when it is asked for: the methods take one
layer of one update at a time, and hold no more of them.
"""

from collabsecure.merging.averaging import simple_average, task_arithmetic
from collabsecure.merging.ties import ties
from collabsecure.merging.updates import Update

__all__ = ["Update", "simple_average", "task_arithmetic", "ties"]
