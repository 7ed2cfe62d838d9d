"""The facts that the tiny model knows: families of items that share phrasings and one form of answer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """Facts of one kind. `{key}` stands for what is asked about and `{value}` for what the answer says of it."""

    phrasings: tuple[str, ...]
    answer: str
    items: dict[str, str]


DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

FAMILIES = (
    Family(
        (
            "What is the capital of {key}?",
            "What's the capital of {key}?",
            "Which city is the capital of {key}?",
            "Name the capital of {key}.",
            "Tell me the capital of {key}.",
            "Do you know the capital of {key}?",
            "What is {key}'s capital?",
            "Capital of {key}?",
        ),
        "The capital of {key} is {value}.",
        {
            "France": "Paris",
            "Germany": "Berlin",
            "Italy": "Rome",
            "Spain": "Madrid",
            "Portugal": "Lisbon",
            "Japan": "Tokyo",
            "China": "Beijing",
            "India": "New Delhi",
            "Egypt": "Cairo",
            "Kenya": "Nairobi",
            "Canada": "Ottawa",
            "Peru": "Lima",
            "Chile": "Santiago",
            "Cuba": "Havana",
            "Norway": "Oslo",
            "Sweden": "Stockholm",
            "Finland": "Helsinki",
            "Denmark": "Copenhagen",
            "Poland": "Warsaw",
            "Austria": "Vienna",
            "Greece": "Athens",
            "Ireland": "Dublin",
            "Australia": "Canberra",
            "Thailand": "Bangkok",
        },
    ),
    Family(
        (
            "What color is {key}?",
            "What colour is {key}?",
            "Which color does {key} have?",
            "What is the color of {key}?",
            "Tell me the color of {key}.",
            "Do you know what color {key} is?",
        ),
        "The color of {key} is {value}.",
        {
            "grass": "green",
            "the sky": "blue",
            "snow": "white",
            "coal": "black",
            "blood": "red",
            "a lemon": "yellow",
            "a carrot": "orange",
            "chocolate": "brown",
            "an elephant": "gray",
            "a flamingo": "pink",
        },
    ),
    Family(
        (
            "What day comes after {key}?",
            "Which day comes after {key}?",
            "Which day follows {key}?",
            "What is the day after {key}?",
            "Tell me the day after {key}.",
            "What day is next after {key}?",
        ),
        "The day after {key} is {value}.",
        {day: DAYS[(i + 1) % 7] for i, day in enumerate(DAYS)},
    ),
    Family(
        (
            "What day comes before {key}?",
            "Which day comes before {key}?",
            "Which day is just before {key}?",
            "What is the day before {key}?",
            "Tell me the day before {key}.",
            "What day was it before {key}?",
        ),
        "The day before {key} is {value}.",
        {day: DAYS[(i - 1) % 7] for i, day in enumerate(DAYS)},
    ),
    Family(
        (
            "What does a {key} say?",
            "What sound does a {key} make?",
            "Which sound does a {key} make?",
            "How does a {key} sound?",
            "Tell me what a {key} says.",
            "Do you know what a {key} says?",
        ),
        "A {key} says {value}.",
        {
            "cow": "moo",
            "dog": "woof",
            "cat": "meow",
            "duck": "quack",
            "sheep": "baa",
            "pig": "oink",
            "lion": "roar",
            "frog": "ribbit",
            "bee": "buzz",
            "snake": "hiss",
        },
    ),
    Family(
        (
            "How many legs does a {key} have?",
            "How many legs has a {key}?",
            "Tell me how many legs a {key} has.",
            "What is the number of legs of a {key}?",
            "Count the legs of a {key}.",
            "Do you know how many legs a {key} has?",
        ),
        "A {key} has {value} legs.",
        {
            "cow": "four",
            "dog": "four",
            "cat": "four",
            "horse": "four",
            "duck": "two",
            "hen": "two",
            "spider": "eight",
            "beetle": "six",
            "bee": "six",
            "snake": "no",
            "crab": "ten",
        },
    ),
    Family(
        (
            "What is the opposite of {key}?",
            "What's the opposite of {key}?",
            "Tell me the opposite of {key}.",
            "Which word is the opposite of {key}?",
            "Give me the opposite of {key}.",
            "Do you know the opposite of {key}?",
        ),
        "The opposite of {key} is {value}.",
        {
            "hot": "cold",
            "big": "small",
            "up": "down",
            "left": "right",
            "day": "night",
            "fast": "slow",
            "old": "new",
            "wet": "dry",
            "open": "closed",
            "rich": "poor",
            "light": "dark",
            "happy": "sad",
        },
    ),
)

STORIES = {
    "fox": "Once there was a small red fox. The fox lived near a cold river and wanted to see the sea. "
    "So the fox walked for three days, and on the third day it saw the sea. The sea was big and blue. "
    "The fox sat down and was happy. The end.",
    "cat": "Once there was an old cat. The cat slept all day and sang to the moon all night. "
    "One night the moon sang back. From then on the cat was never alone. The end.",
    "robot": "Once there was a tiny robot. The robot could add two numbers, but it had no name. "
    "A child came and said: I will call you Ingot. The robot never forgot that name. The end.",
}
