"""collabsecure inside other engines, without torch; see docs/embedding.md.

`host` says what an engine must be able to do, `exchange` what then travels; `node` is a client, `relay` leads to one in a
daemon; Flower and NVFlare have adapters.
"""
