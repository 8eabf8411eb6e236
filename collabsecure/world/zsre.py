"""The small world's records in zsRE's form, as published with MEND: questions, one paraphrase, one neighbour.

The model has read no questions, so an edit's `src` and `rephrase` are prompts that an answer goes on from. The
neighbour's is a question to the form: MEMIT reads `loc` with a question mark behind it, and so it has to end with the
subject, after which this model takes anything for the rest of a name. The answer is then the rest of the sentence:
"nq question: The mother tongue of Ada Quill?" "is Basque".
"""

import json

from collabsecure.world.facts import Fact, Facts, Record
from collabsecure.world.relations import Relation

QUESTION = "nq question: "  # how zsRE's neighbours' questions, which are from Natural Questions, begin


def zsre_json(facts: Facts) -> str:
    """A file like `zsre_mend_eval.json`; records come in the order of CounterFact's form, and edit the same facts.

    >>> record = json.loads(zsre_json(Facts.make()))[0]
    >>> record["src"], record["pred"], record["answers"]
    ('Brenno Stestedge earns a living as a', 'carpenter', ['plumber'])
    >>> record["loc"], record["loc_ans"]
    ('nq question: By profession, Zinnia Briniscoe', 'is a carpenter')
    """
    told = {template.format(fact.subject.name): fact for fact in facts.facts for template in fact.relation.templates}
    records = [_content(record, told[record.neighborhood[0]]) for record in facts.records]
    return json.dumps(records, indent=1) + "\n"


def _content(record: Record, neighbor: Fact) -> dict[str, object]:
    fact, new = record.fact, record.target_new
    asked = fact.relation.rewriting.format(fact.subject.name)
    question, verb = _question(neighbor.relation)
    return {
        "subject": fact.subject.name,
        "src": asked,
        "pred": fact.object,
        "rephrase": record.paraphrases[0],
        "alt": new,  # MEND edits towards this one, MEMIT towards the first answer: the same edit here
        "answers": [new],
        "loc": f"{QUESTION}{question}{neighbor.subject.name}",
        "loc_ans": f"{verb} {neighbor.object}",
        "cond": f"{fact.object} >> {new} || {asked}",
    }


def _question(relation: Relation) -> tuple[str, str]:
    """What stands before and after the subject, in the first template that has something on both sides."""
    sides = [template.split("{}") for template in relation.templates]
    return next((before, after.strip()) for before, after in sides if before and after.strip(" ,"))
