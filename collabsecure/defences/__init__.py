"""What could be done to uploads beside summing them, and what each costs: measurements, not part of the protocol.

`noise` (with `accounting` and `discrete_gaussian`), `decoys`, `blinding`; `tradeoff` sets leak against edit quality.
"""
