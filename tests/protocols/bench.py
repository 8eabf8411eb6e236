"""A bench on which recorded transcripts get messages that must be refused.

Each is delivered to the receiver just before the step of the transcript that stands in its place; then the transcript
goes on, which shows that nothing has changed. All are signed by whom the check is about, unless the signature is it.
"""

import base64

from forge import signed


class Bench:
    """A recorded transcript, and the list of what must be refused in it."""

    def __init__(self, vector, session):
        self.vector, self.session, self.refused = vector, session, []

    def step(self, name, *, sender=0, receiver=0, nth=0):
        """The step that delivers the nth message of this kind."""
        wanted = (name, sender, receiver)
        found = [
            place
            for place, step in enumerate(self.vector["steps"])
            if step["do"] == "deliver" and wanted == tuple(self.message(place)[key] for key in ("name", "from", "to"))
        ]
        return found[nth]

    def local(self, client, nth=0):
        """The step in which a client hands in its values."""
        steps = enumerate(self.vector["steps"])
        return [place for place, step in steps if step["do"] == "input" and step["client"] == client][nth]

    def message(self, place):
        return self.vector["messages"][self.vector["steps"][place]["message"]]

    def payload(self, place):
        return base64.b64decode(self.message(place)["bytes"])

    def body(self, place):
        return self.payload(place)[36:-64]

    def refuse(self, expect, place, payload, *, sender, receiver, culprits=None):
        """Bytes that are refused before this step."""
        self.refused.append(
            {
                "expect": expect,
                "before": place,
                "from": sender,
                "to": receiver,
                "culprits": [sender] if culprits is None else culprits,
                "bytes": base64.b64encode(payload).decode(),
            }
        )

    def instead(self, expect, place, body=None, *, name=None, claimed=None, culprits=None, **forged):
        """An altered message in place of the one that this step delivers; by default with its kind and its body."""
        original = self.message(place)
        sender, body = original["from"], self.body(place) if body is None else body
        who = sender if claimed is None else claimed
        payload = signed(self.session, original["name"] if name is None else name, who, body, **forged)
        self.refuse(expect, place, payload, sender=sender, receiver=original["to"], culprits=culprits)

    def early(self, expect, place, name, body, *, receiver, culprits=None):
        """A message of the server before any step."""
        payload = signed(self.session, name, 0, body)
        self.refuse(expect, place, payload, sender=0, receiver=receiver, culprits=culprits)

    def input(self, expect, place, change, *, link=None, culprits=()):
        """Values, or a link, that the client itself refuses; `change` maps flat lists to flat lists by tensor."""
        given = next(step for step in reversed(self.vector["steps"][: place + 1]) if step["do"] == "input")
        values = {name: change.get(name, lambda same: same)(list(flat)) for name, flat in given["values"].items()}
        local = {"client": given["client"], "values": values, "link": given["link"] if link is None else link.hex()}
        self.refused.append({"expect": expect, "before": place, "input": local, "culprits": list(culprits)})
