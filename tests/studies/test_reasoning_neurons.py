"""The demo's texts are what their builder makes, and their arithmetic is right."""

import json
import re
import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "studies" / "reasoning_neurons"
BUILDER = runpy.run_path(str(FOLDER / "make_texts.py"))
OPERATIONS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": lambda a, b: a / b}


def test_the_file_is_what_the_builder_makes() -> None:
    made = [json.dumps(r, ensure_ascii=False) for r in BUILDER["records"](BUILDER["PROBLEMS"], BUILDER["SEED"])]
    assert (FOLDER / "texts.jsonl").read_text(encoding="utf-8").splitlines() == made


@pytest.mark.parametrize("seed", range(20))
def test_every_step_and_answer_is_right(seed: int) -> None:
    questions = set()
    for record in BUILDER["records"](50, seed):
        answer = re.search(r"The answer is (-?\d+)\.$", record["ending"])
        assert answer
        assert int(answer[1]) >= 0
        if record["cot"]:
            questions.add(record["question"])
            steps = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", record["ending"])
            assert len(steps) >= 2
            for a, operation, b, result in steps:
                assert OPERATIONS[operation](int(a), int(b)) == int(result), record
            assert int(answer[1]) in {int(steps[-1][3])}
        else:
            assert "=" not in record["ending"]
    assert len(questions) == 50
