"""Edit requests: what they are, the published forms they are read from, and how clients share them out.

Needs neither torch nor transformers; `load_requests_from_hub` alone needs `datasets`, and only when it is called.
"""

from collabsecure.edits.forms import RecordForm
from collabsecure.edits.request import EditRequest, Neighbor, split_among_clients
from collabsecure.edits.sources import load_requests, load_requests_from_hub

__all__ = [
    "EditRequest",
    "Neighbor",
    "RecordForm",
    "load_requests",
    "load_requests_from_hub",
    "split_among_clients",
]
