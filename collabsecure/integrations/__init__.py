"""collabsecure inside other engines, without torch; see docs/embedding.md.

`host` says what an engine must be able to do, `exchange` what then travels. At a node, `node` is a client of sums, and
`relay` leads to one in a daemon; at the coordinating end, `sums` runs them, and `tunnel` leads to an aggregator. Flower
and NVFlare have adapters.
"""
