"""A conversation to measure with: any number of questions of different lengths, each with the reply it gets."""

from __future__ import annotations

PROMPT = (
    "You are the assistant of a small town's public works office. You answer residents and staff in plain words, you say "
    "what you do not know, and you name the office that does when it is not yours. You never promise a date."
)
SUBJECTS = (
    "the water tower", "the swing bridge", "the night bus", "the town library", "the tram depot", "the fish market",
    "the old lighthouse", "the clock tower", "the ferry landing", "the fire station", "the rose garden", "the ice rink",
)  # fmt: skip
FORMS = (
    (
        "I live next to {0} and noticed some work going on there since Monday. What is being done, and who decided it?",
        "The work at {0} is its yearly inspection. The council ordered it in spring, and our office oversees it.",
    ),
    (
        "How long will that take?",
        "About three weeks, if the weather holds.",
    ),
    (
        "A neighbour sent me this note: 'From the first of the month {0} will be closed in the mornings, the footpath behind "
        "it will be moved to the other side of the street, and deliveries are to use the north gate only. Parking is not "
        "affected. Questions go to the site office, which is open on weekdays from eight to noon.' Is all of it right?",
        "Nearly all of it. The footpath stays where it is; the rest is as the note says, and the site office can tell you "
        "more about {0}.",
    ),
    (
        "My mother uses a wheelchair. Can she still get to {0} in the afternoon?",
        "Yes. There is a ramp at the south side, and the gate there is open from one o'clock.",
    ),
    (
        "Good. Whom do I write to about the noise, and what should the letter say so that it is dealt with quickly?",
        "Write to the environmental office. Give the day, the hour and how long it lasted, and say that it concerns {0}.",
    ),
)  # fmt: skip


def exchange(number: int) -> tuple[str, str]:
    """Return the question of turn `number`, counted from 0, and its reply."""
    round_, place = divmod(number, len(SUBJECTS) * len(FORMS))
    question, reply = FORMS[place % len(FORMS)]
    subject = SUBJECTS[place // len(FORMS)]
    if round_:
        question = f"Once more, for the {round_ + 1}. time. {question}"
    return question.format(subject), reply.format(subject)
