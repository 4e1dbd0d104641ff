"""Refusals of the service in the words of the command line."""

from typing import Any

import pytest

from service.cli_refusals import in_words, place_of, refusal_text
from service.client_core import ApiError

Json = dict[str, Any]


def refusal(*errors: Json, detail: str = "fields are wrong", code: str = "validation_error") -> str:
    return refusal_text(ApiError(422, {"detail": detail, "code": code, "errors": list(errors)}))


@pytest.mark.parametrize(
    ("pointer", "place"),
    [
        ("#/schedule/max_lr/from_job", "--max-lr"),
        ("#/schedule/type", "--schedule"),
        ("#/model/params/width", "--param width"),
        ("#/budget/minutes", "--minutes"),
        ("#/landscape/max_rows", "--max-rows"),
        ("#/seeds/1", "--seeds"),
        ("#/dataset_id", "DATA"),
        ("#/schedule/warmup_steps", "schedule.warmup_steps"),
        ("#/optimizer/momentum", "optimizer.momentum"),
        ("#/metadata/name", "metadata.name"),
        ("#", ""),
    ],
)
def test_a_pointer_is_the_option_that_sets_it_or_the_field_of_a_config_file(pointer: str, place: str) -> None:
    assert place_of(pointer) == place


def test_one_wrong_option_is_one_sentence() -> None:
    error = {"pointer": "#/schedule/max_lr", "detail": 'must be a valid number, got "aut"', "hint": 'A rate. Default: "auto".'}
    assert refusal(error) == '--max-lr: must be a number, auto or a range test\'s id, got "aut"\n  hint: A rate. Default: auto.'


def test_several_wrong_options_are_counted() -> None:
    errors: list[Json] = [{"pointer": "#/batch_size", "detail": "x"}, {"parameter": "status", "detail": "y", "did_you_mean": ["z"]}]
    assert refusal(*errors) == "2 options are wrong\n  --batch-size: x\n  --status: y\n    did you mean z?"


def test_what_is_said_twice_is_printed_once() -> None:
    text = "target must be one of the columns a, b"
    assert refusal({"pointer": "#/target", "detail": text}, detail=text, code="dataset_invalid") == text
    assert refusal({"pointer": "#/sweep", "detail": "must be 'a' or 'b'", "hint": "one of: 'a' or 'b'"}) == "--sweep: must be 'a' or 'b'"


def test_a_refusal_without_a_place_keeps_its_sentence() -> None:
    assert refusal(detail="there is no job 'x': GET /v1/jobs lists them", code="not_found") == (
        "there is no job 'x': snapcycle jobs lists them"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("GET /v1/jobs?kind=train lists the train jobs", "snapcycle jobs --kind train lists the train jobs"),
        ("set batch_size to 15 or less", "set --batch-size to 15 or less"),
        ("raise budget.minutes to 3", "raise --minutes to 3"),
        ("a budget of minutes", "a budget of minutes"),
        ("take more steps_per_rate", "take more steps_per_rate (in --config)"),
        ("for example [0, 1, 2]", "for example 0,1,2"),
        ("the rate (1704.00109 uses 0.1 and 0.2) at", "the rate at"),
        ("some of snapshot_ensemble, auto", "some of snapshot_ensemble, auto"),
    ],
)
def test_texts_name_options_and_commands(text: str, words: str) -> None:
    assert in_words(text) == words
