"""Conversations as text: a heading, and turns marked by speaker, in drawn shapes.

Flan 2022 draws a heading, a pair of speaker markers and what ends a turn for each dialog; so do we,
from lists of our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flan_jax.draws import Draws

# What stands above a conversation; nothing, sometimes.
HEADINGS = (
    *("Conversation:", "Dialog:", "Chat:", "Transcript:", "Exchange:", "Discussion:", "Chat log:"),
    *("Here is a conversation.", "Two sides take turns.", "This is what was said so far."),
    *("Part of a conversation:", "Conversation log:", "From a chat between two speakers:"),
    *("What the two of them said:", "A talk, turn by turn:", ""),
)
# Marks of the one who asks or wants something, and of the one who answers or helps. Names stand for
# either, so that the pair does not give the kind of conversation away. None is "You" or "Me", since
# prompts say who is to speak next, and none looks like what ends a turn.
MARKERS = (
    *(("User:", "Assistant:"), ("Customer:", "Agent:"), ("Client:", "Advisor:")),
    *(("Visitor:", "Guide:"), ("Caller:", "Operator:"), ("Guest:", "Host:")),
    *(("Human:", "Computer:"), ("Human -", "Machine -"), ("USER:", "BOT:")),
    *(("[user]", "[assistant]"), ("[Customer]", "[Agent]"), ("[Caller]", "[Operator]")),
    *(("Seeker:", "Helper:"), ("Asker:", "Responder:"), ("Patron:", "Clerk:")),
    *(("Person 1:", "Person 2:"), ("Person A:", "Person B:"), ("Person X:", "Person Y:")),
    *(("Speaker 1:", "Speaker 2:"), ("Speaker A:", "Speaker B:"), ("Speaker One:", "Speaker Two:")),
    *(("Participant 1:", "Participant 2:"), ("Party A:", "Party B:"), ("Voice 1:", "Voice 2:")),
    *(("Friend 1:", "Friend 2:"), ("First speaker:", "Second speaker:"), ("First:", "Second:")),
    *(("A:", "B:"), ("X:", "Y:"), ("P:", "R:"), ("P1:", "P2:"), ("S1 -", "S2 -"), ("A -", "B -")),
    *(("(1)", "(2)"), ("(a)", "(b)"), ("[A]", "[B]"), ("[1]", "[2]"), ("#1:", "#2:"), ("1:", "2:")),
    *(("-", "+"), ("*", "-"), ("#", "*")),
    *(("One:", "Two:"), ("Left:", "Right:"), ("Blue:", "Red:")),
    *(("Anna:", "Ben:"), ("Alex:", "Sam:"), ("Maria:", "Tom:"), ("Kim:", "Lee:")),
    *(("Ravi:", "Nina:"), ("Olga:", "Pedro:"), ("Yuki:", "Omar:")),
)
# What stands between one turn and the next.
ENDINGS = ("\n", "\n\n", "\n--\n")


@dataclass(frozen=True)
class DialogStyle:
    """How a conversation looks.

    Attributes:
      heading: stands above it; nothing if empty.
      markers: of the one who asks, and of the one who answers.
      ending: stands between turns.
    """

    heading: str
    markers: tuple[str, str]
    ending: str

    def render(self, turns: Sequence[str], *, first: int = 0) -> str:
        """The conversation as text.

        Args:
          turns: what is said, by two speakers in turn.
          first: who begins: 0 for the one who asks, 1 for the one who answers.

        Raises:
          ValueError: there are no turns.
        """
        if not turns:
            raise ValueError("a dialog needs at least one turn, found none")
        marked = (f"{self.markers[(first + i) % 2]} {turn}" for i, turn in enumerate(turns))
        text = self.ending.join(marked)
        return f"{self.heading}\n{text}" if self.heading else text


# For targets: what a model is to write should not be left to chance.
PLAIN = DialogStyle("", ("A:", "B:"), "\n")


def drawn_style(draws: Draws) -> DialogStyle:
    """Heading, markers and ending, each drawn uniformly."""
    return DialogStyle(draws.choice(HEADINGS), draws.choice(MARKERS), draws.choice(ENDINGS))


def drawn_dialog(turns: Sequence[str], draws: Draws, *, first: int = 0) -> str:
    """The conversation in a drawn style; see `DialogStyle.render`."""
    return drawn_style(draws).render(turns, first=first)
