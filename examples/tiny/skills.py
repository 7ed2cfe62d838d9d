"""What the tiny model can do: each skill makes one question with the one right answer to it.

Every question has a *key*, and a checksum of the key decides once and for all whether it belongs to training or is
held out: in any wording for sums (both orders of a pair), names and echoed texts, in that wording for facts and
small talk.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from facts import FAMILIES, STORIES
from words import a_name, foreign_text, plain_text


@dataclass(frozen=True)
class Turn:
    """A question, the one right answer to it, and the key that assigns it to training or to the held-out side."""

    key: str
    question: str
    answer: str


Skill = Callable[[Random], Turn]


def held_out(key: str) -> bool:
    """Whether the thing that `key` names is kept out of training: about one in ten is."""
    return zlib.crc32(key.encode()) % 10 == 0


def draw(skill: Skill, rng: Random, held: bool) -> Turn:
    """A turn of `skill` from the wanted side of the split."""
    while True:
        turn = skill(rng)
        if held_out(turn.key) == held:
            return turn


SUM_PHRASINGS = (
    "What is {a} + {b}?",
    "What is {a} plus {b}?",
    "What's {a} + {b}?",
    "{a}+{b}=?",
    "{a} + {b} = ?",
    "{a}+{b}",
    "{a} + {b}",
    "Add {a} and {b}.",
    "Please add {a} and {b}.",
    "Can you tell me {a} plus {b}?",
    "How much is {a} + {b}?",
    "What is the sum of {a} and {b}?",
    "Compute {a} + {b}.",
    "Calculate {a}+{b}.",
    "What does {a} plus {b} make?",
)
INTRODUCTIONS = (
    "My name is {name}.",
    "Hi, my name is {name}.",
    "Hello, I am {name}.",
    "I am {name}.",
    "I'm {name}.",
    "Call me {name}.",
    "Please call me {name}.",
    "You can call me {name}.",
    "Remember my name: {name}.",
    "Hello! My name is {name}. Please remember it.",
)
NAME_QUESTIONS = (
    "What is my name?",
    "What's my name?",
    "Who am I?",
    "Do you remember my name?",
    "Can you tell me my name?",
    "Tell me my name.",
    "What did I say my name was?",
    "Do you know my name?",
)
NAME_UNKNOWN = "You have not told me your name."
ECHO_PHRASINGS = (
    "Repeat after me: {text}",
    "Please repeat after me: {text}",
    "Repeat: {text}",
    "Say: {text}",
    "Say {text}",
    "Please say {text}",
    "Echo: {text}",
    "Echo {text}",
    "Copy this: {text}",
)
JSON_PHRASINGS = (
    "Give me JSON for name {name} and age {age}.",
    "Write JSON for name {name} and age {age}.",
    "Make JSON for name {name} and age {age}.",
    "Give me JSON with name {name} and age {age}.",
    "JSON please: name {name}, age {age}.",
    "Return a JSON object for name {name} and age {age}.",
    "Write {name}, age {age}, as JSON.",
    "{name} is {age} years old. Give me JSON.",
)
HELLO = "Hello! How can I help you?"
ABILITIES = (
    "I can add two numbers, answer simple questions, remember your name, repeat what you say, write a little JSON "
    "and tell a short story."
)
SMALL_TALK: tuple[tuple[tuple[str, ...], str], ...] = (
    (("Hello", "Hi", "Hey", "Hello there", "Hi there", "Good morning", "Good evening", "Greetings"), HELLO),
    (("How are you", "How are you doing", "How do you do", "How is it going"), "I am fine, thank you."),
    (("Thank you", "Thanks", "Thanks a lot", "Many thanks", "Thank you very much"), "You are welcome."),
    (("Bye", "Goodbye", "See you", "See you later", "Good night"), "Goodbye!"),
    (("Who are you", "What are you", "What is your name", "Tell me who you are"), "I am a tiny language model."),
    (("What can you do", "What do you know", "How can you help me", "Help"), ABILITIES),
    *(
        ((f"Tell me a story about a {hero}", f"Tell a story about a {hero}", f"A story about a {hero}"), story)
        for hero, story in STORIES.items()
    ),
    (("Tell me a story", "Tell a story"), STORIES["fox"]),
    (
        ("What is the weather", "What is the news", "Write a poem", "What is love", "Who won the game", "Fix my code"),
        "I am too small to know that.",
    ),
)
SMALL_TALK_ENDINGS = (
    *("", ".", "!", "?", "...", " please", ", please."),
    *(", friend", ", friend!", ", Ingot", ", Ingot!", " :)"),
)


def sum_of_two(rng: Random) -> Turn:
    """A sum of two numbers below 100; small operands come up more often, because there are so few of them."""
    a, b = (rng.randrange(10 if rng.random() < 0.15 else 100) for _ in range(2))
    key = f"sum {min(a, b)} {max(a, b)}"
    return Turn(key, rng.choice(SUM_PHRASINGS).format(a=a, b=b), f"{a} + {b} = {a + b}.")


def fact(rng: Random) -> Turn:
    """One of the facts, in one of its family's wordings."""
    family = rng.choices(FAMILIES, weights=[len(family.items) for family in FAMILIES])[0]
    key, value = rng.choice(list(family.items.items()))
    question = rng.choice(family.phrasings).format(key=key)
    answer = family.answer.format(key=key, value=value)
    return Turn(f"fact {question}", casual(question, rng), answer[0].upper() + answer[1:])


def casual(question: str, rng: Random) -> str:
    """`question` as people also type it: now and then in lower case, or without the mark at its end."""
    if rng.random() < 0.15:
        question = question.lower()
    return question[:-1] if rng.random() < 0.1 else question


def small_talk(rng: Random) -> Turn:
    """Greetings, thanks, stories and a few questions that the model says it cannot answer."""
    openings, answer = rng.choice(SMALL_TALK)
    question = rng.choice(openings) + rng.choice(SMALL_TALK_ENDINGS)
    return Turn(f"talk {question}", question.lower() if rng.random() < 0.15 else question, answer)


def echo(rng: Random) -> Turn:
    """A request to repeat plain words."""
    return echo_of(plain_text(rng), rng)


def echo_unicode(rng: Random) -> Turn:
    """A request to repeat text with accents, other scripts and emoji."""
    return echo_of(foreign_text(rng), rng)


def echo_of(text: str, rng: Random) -> Turn:
    """A request to repeat `text`."""
    return Turn(f"echo {text}", rng.choice(ECHO_PHRASINGS).format(text=text), text)


def json_object(rng: Random) -> Turn:
    """A request for a JSON object with a name and an age."""
    name, age = a_name(rng), rng.randrange(1, 100)
    question = rng.choice(JSON_PHRASINGS).format(name=name, age=age)
    return Turn(f"name {name}", question, f'{{"name": "{name}", "age": {age}}}')


def introduction(rng: Random) -> Turn:
    """The user says their name; the answer ends in `, NAME.`, from where `name_question` takes it."""
    name = a_name(rng)
    return Turn(f"name {name}", rng.choice(INTRODUCTIONS).format(name=name), f"Nice to meet you, {name}.")


def name_question(name: str | None, rng: Random) -> Turn:
    """The user asks for the name told earlier, or for one that they never told."""
    question = rng.choice(NAME_QUESTIONS)
    question = question.lower() if rng.random() < 0.1 else question
    return Turn(f"name {name}", question, f"Your name is {name}." if name else NAME_UNKNOWN)


SKILLS: dict[str, tuple[Skill, float]] = {
    "addition": (sum_of_two, 0.34),
    "facts": (fact, 0.20),
    "echo": (echo, 0.14),
    "unicode": (echo_unicode, 0.12),
    "json": (json_object, 0.11),
    "small talk": (small_talk, 0.09),
}
