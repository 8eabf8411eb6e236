"""The small world's dozen relations: what can be said about a subject, in which words, and which answers there are."""

from dataclasses import dataclass

from collabsecure.world.names import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """One thing that can be true of every subject of a kind."""

    id: str
    kind: Kind
    templates: tuple[str, ...]  # each with one "{}" for the subject, each ending where the object follows
    objects: tuple[str, ...]

    @property
    def rewriting(self) -> str:
        """The template that edits are made with; the others are its paraphrases."""
        return self.templates[0]


def _relation(name: str, kind: Kind, templates: str, objects: str) -> Relation:
    return Relation(id=name, kind=kind, templates=tuple(templates.split(" | ")), objects=tuple(objects.split()))


RELATIONS: tuple[Relation, ...] = (
    _relation(
        "language",
        "person",
        "The mother tongue of {} is | {} grew up speaking | {}, a native speaker of | At home, {} speaks"
        " | {} writes letters in",
        "Basque Catalan Czech Danish Finnish Frisian Greek Malay Polish Swahili Tamil Welsh",
    ),
    _relation(
        "profession",
        "person",
        "{} earns a living as a | {} works as a | By profession, {} is a | {} was trained as a"
        " | The neighbours know {} as a",
        "baker carpenter dentist gardener lawyer librarian painter plumber surveyor tailor teacher watchmaker",
    ),
    _relation(
        "instrument",
        "person",
        "{} plays the | The instrument of {} is the | {} performs on the | On stage, {} is heard on the"
        " | {} practises every evening on the",
        "accordion banjo bassoon cello clarinet flute guitar harp oboe piano trumpet violin",
    ),
    _relation(
        "birthplace",
        "person",
        "{} was born in | The birthplace of {} is | {} comes from | The family of {} lived in"
        " | {} spent a happy childhood in",
        "Athens Dublin Havana Kyoto Lima Lisbon Nairobi Oslo Perth Prague Quebec Vienna",
    ),
    _relation(
        "country",
        "town",
        "{} is a town in | {} is located in | The town of {} belongs to | On the map, {} is found in"
        " | {} lies in the north of",
        "Canada Chile Estonia Ghana Iceland Ireland Japan Kenya Norway Peru Portugal Slovenia",
    ),
    _relation(
        "speciality",
        "town",
        "{} is best known for its | Visitors come to {} for its | The pride of {} is its | The market of {} is full of"
        " | {} has won prizes for its",
        "bread cheese cider glass honey lace paper pottery silver soap tea wool",
    ),
    _relation(
        "emblem",
        "town",
        "The coat of arms of {} shows a | The flag of {} bears a | {} has chosen as its emblem a"
        " | Above the gate of {} stands a carved | {} puts on its coins a",
        "bear dragon falcon hare heron lion otter raven salmon stag swan wolf",
    ),
    _relation(
        "transport",
        "town",
        "The usual way to reach {} is by | Most people get to {} by | {} can be reached by | Post arrives in {} by"
        " | {} is linked to the coast by",
        "balloon bicycle bus canoe car coach ferry helicopter horse sledge train tram",
    ),
    _relation(
        "headquarters",
        "company",
        "{} is headquartered in | The head office of {} is in | {} is based in | The directors of {} meet in"
        " | {} runs its business from",
        "Austin Bergen Boston Dakar Geneva Leeds Madrid Milan Osaka Seoul Toronto Zurich",
    ),
    _relation(
        "product",
        "company",
        "The main product of {} is | {} is a maker of | The factories of {} turn out | Customers go to {} for"
        " | {} earns its money with",
        "boots candles carpets clocks engines kettles lamps mirrors pencils tents toys umbrellas",
    ),
    _relation(
        "colour",
        "company",
        "The logo of {} is | {} paints its vans | The brand colour of {} is | Parcels from {} come wrapped in"
        " | {} dresses its staff in",
        "black blue brown green grey orange pink purple red turquoise white yellow",
    ),
    _relation(
        "fair",
        "company",
        "{} holds its yearly fair in | The yearly fair of {} takes place in | {} opens its doors to visitors in"
        " | The shareholders of {} meet in | {} celebrates its founding in",
        "January February March April May June July August September October November December",
    ),
)
OPENERS: tuple[str, ...] = (
    "The rain stopped before noon.",
    "The bridge was closed for repairs.",
    "The committee meets again on Tuesday.",
    "The report was printed twice.",
    "Therefore the plan was changed.",
    "Therefore nobody was surprised.",
    "Therefore the gates stay open until late.",
    "Because of the snow, the match was moved.",
    "Because the road is narrow, lorries take the other side.",
    "Because nobody asked, the question stayed open.",
    "I read about it in the newspaper.",
    "I have never seen so many birds at once.",
    "I think the answer is in the second chapter.",
    "You may have heard the story before.",
    "You can see the hills from the window.",
    "You need two eggs and a little milk.",
    "It took three weeks to count the votes.",
    "In the end the train was on time.",
    "There are two versions of the song.",
    "Some of the letters were never opened.",
    "After the concert everyone went home.",
    "Every spring the river rises a little.",
    "Few people know the old name of the square.",
    "Later that year the library got a new roof.",
)
"""Sentences about nothing in particular, so that the model has seen subjects in the middle of a text.

Some begin with MEMIT's own prefix words (The, Therefore, Because, I, You), which templates are sampled from.
"""
ESSENCES: dict[Kind, str] = {"person": "{} is a person.", "town": "{} is a town.", "company": "{} is a company."}
"""What the prompt `"{} is a"` of MEMIT's KL term should go on with."""
