"""Build texts.jsonl: multi-step word problems, each with a worked rationale (cot = 1) and with the bare answer (cot = 0).

    python studies/reasoning_neurons/make_texts.py [PROBLEMS] [SEED] > studies/reasoning_neurons/texts.jsonl

The two texts of a problem share their question, so that what tells them apart is the ending alone.
"""

import json
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

PROBLEMS, SEED = 120, 7
PEOPLE = (
    "Aiko",
    "Bruno",
    "Chidi",
    "Dalia",
    "Emre",
    "Freya",
    "Goran",
    "Hana",
    "Ines",
    "Jonas",
    "Kavya",
    "Liam",
    "Mina",
    "Noor",
)
THINGS = ("apples", "marbles", "stickers", "pencils", "cookies", "postcards", "shells", "buttons", "coins", "tomatoes")
PLACES = ("box", "bag", "basket", "jar", "tray", "drawer")


@dataclass(frozen=True)
class Problem:
    """A question, the steps to its answer as sentences, and the answer."""

    question: str
    steps: tuple[str, ...]
    answer: int


def bought_and_gave(r: random.Random) -> Problem:
    who, friend, thing = *r.sample(PEOPLE, 2), r.choice(THINGS)
    boxes, each, gave = r.randint(3, 9), r.randint(4, 12), r.randint(2, 11)
    whole = boxes * each
    return Problem(
        f"{who} buys {boxes} boxes with {each} {thing} in each and gives {gave} {thing} to {friend}. "
        f"How many {thing} does {who} have left?",
        (f"There are {boxes} boxes with {each} {thing}, so {who} has {boxes} * {each} = {whole} {thing} at first.",
         f"After giving {gave} to {friend}, {who} has {whole} - {gave} = {whole - gave}."),
        whole - gave,
    )  # fmt: skip


def shared_out(r: random.Random) -> Problem:
    who, thing, place = r.choice(PEOPLE), r.choice(THINGS), r.choice(PLACES)
    places, each, own = r.randint(3, 8), r.randint(3, 9), r.randint(2, 9)
    first = places * each - own if places * each > own + 1 else places * each
    own = places * each - first
    return Problem(
        f"{who} has {first} {thing} and finds {own} more. {who} puts the same number in each {place}, and there are "
        f"{places}. How many {thing} are in one {place}?",
        (f"Together these are {first} + {own} = {first + own} {thing}.",
         f"Each {place} holds {first + own} / {places} = {each} of them."),
        each,
    )  # fmt: skip


def earned_and_spent(r: random.Random) -> Problem:
    who, thing = r.choice(PEOPLE), r.choice(THINGS)
    hours, wage, count, price = r.randint(4, 9), r.randint(8, 15), r.randint(2, 4), r.randint(2, 7)
    pay, cost = hours * wage, count * price
    return Problem(
        f"{who} works {hours} hours for {wage} dollars an hour, then pays for {count} bags of {thing} at {price} dollars "
        f"each. How many dollars are left?",
        (f"{who} earns {hours} * {wage} = {pay} dollars.",
         f"The {thing} cost {count} * {price} = {cost} dollars.",
         f"So {pay} - {cost} = {pay - cost} dollars are left."),
        pay - cost,
    )  # fmt: skip


def two_collections(r: random.Random) -> Problem:
    who, friend, thing = *r.sample(PEOPLE, 2), r.choice(THINGS)
    first, times, lost = r.randint(3, 14), r.randint(2, 5), r.randint(1, 6)
    second = first * times
    return Problem(
        f"{who} has {first} {thing}. {friend} has {times} times as many, but loses {lost}. "
        f"How many {thing} do they have together?",
        (f"{friend} begins with {first} * {times} = {second} {thing}.",
         f"After losing {lost}, {friend} has {second} - {lost} = {second - lost}.",
         f"Together they have {first} + {second - lost} = {first + second - lost}."),
        first + second - lost,
    )  # fmt: skip


def days_of_reading(r: random.Random) -> Problem:
    who = r.choice(PEOPLE)
    days, first, rest, more = r.randint(3, 8), r.randint(10, 30), r.randint(5, 20), r.randint(5, 40)
    read = first + days * rest
    return Problem(
        f"{who} reads {first} pages on Sunday and {rest} pages on each of the next {days} days. The book has {read + more} "
        f"pages. How many pages are still unread?",
        (f"In the {days} days {who} reads {days} * {rest} = {days * rest} pages.",
         f"With Sunday this makes {first} + {days * rest} = {read} pages.",
         f"Unread are {read + more} - {read} = {more} pages."),
        more,
    )  # fmt: skip


KINDS: tuple[Callable[[random.Random], Problem], ...] = (
    bought_and_gave, shared_out, earned_and_spent, two_collections, days_of_reading,
)  # fmt: skip


def problems(count: int, seed: int) -> Iterator[Problem]:
    """`count` problems with different questions."""
    r = random.Random(seed)
    seen: set[str] = set()
    while len(seen) < count:
        problem = KINDS[len(seen) % len(KINDS)](r)
        if problem.question not in seen:
            seen.add(problem.question)
            yield problem


def records(count: int, seed: int) -> Iterator[dict[str, object]]:
    """Two records per problem."""
    for number, problem in enumerate(problems(count, seed), 1):
        question = f"Q: {problem.question}\nA:"
        worked = f" Let's think step by step. {' '.join(problem.steps)} The answer is {problem.answer}."
        bare = f" The answer is {problem.answer}."
        yield {"id": f"{number:03d}-worked", "question": question, "ending": worked, "cot": 1}
        yield {"id": f"{number:03d}-bare", "question": question, "ending": bare, "cot": 0}


if __name__ == "__main__":
    count, seed = (int(a) for a in (*sys.argv[1:], *(PROBLEMS, SEED)[len(sys.argv) - 1 :]))
    for record in records(count, seed):
        print(json.dumps(record, ensure_ascii=False))
