"""How pydantic's findings are told to a user."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from service.validation import body_errors, pointer_to, shown
from worker.job_requests import TrainJobRequest

Json = dict[str, Any]


def errors_of(**fields: Any) -> list[Json]:
    with pytest.raises(ValidationError) as caught:
        TrainJobRequest.model_validate({"dataset_id": "ds_1", **fields})
    return [error.document() for error in body_errors(TrainJobRequest, caught.value)]


def test_pointer_has_no_tag_of_a_union() -> None:
    (error,) = errors_of(schedule={"type": "warm_restarts", "max_lr": -1})
    assert error["pointer"] == "#/schedule/max_lr"
    assert error["detail"] == "must be greater than 0, got -1"
    assert "Default: 0.1." in error["hint"]


def test_pointer_is_right_where_a_key_is_named_like_the_tag() -> None:
    errors = errors_of(schedule={"type": "step", "step": {"gamma": "x"}, "gamma": "y"})
    assert [error["pointer"] for error in errors] == ["#/schedule/gamma", "#/schedule/step"]


def test_pointer_leads_into_lists_and_nested_models() -> None:
    (error,) = errors_of(model={"architecture": "mlp", "params": {"hidden": [16, "many"]}})
    assert error["pointer"] == "#/model/params/hidden/1"
    assert error["detail"] == 'must be a valid integer, got "many"'


def test_pointer_leads_to_the_value_of_metadata() -> None:
    (error,) = errors_of(metadata={"a/b~c": 1})
    assert error["pointer"] == "#/metadata/a~1b~0c"


def test_unknown_field_gets_the_name_that_was_meant() -> None:
    (error,) = errors_of(schedule={"type": "warm_restarts", "cycels": 3})
    assert error["pointer"] == "#/schedule/cycels"
    assert error["detail"] == 'unknown field "cycels"'
    assert error["did_you_mean"][0] == "cycles"
    assert "epochs_per_cycle" in error["hint"]


def test_unknown_architecture_gets_the_name_that_was_meant() -> None:
    (error,) = errors_of(model={"architecture": "resnet17"})
    assert error["pointer"] == "#/model/architecture"
    assert error["detail"] == 'unknown: "resnet17"'
    assert error["did_you_mean"][0] == "resnet"
    assert error["hint"] == "one of: mlp, small_cnn, resnet, wide_resnet"


def test_missing_type_gets_the_choices() -> None:
    (error,) = errors_of(optimizer={})
    assert error == {"pointer": "#/optimizer/type", "detail": "is required, but missing", "hint": "one of: sgd, adamw"}


def test_value_that_fits_no_member_of_a_union_is_one_error() -> None:
    (error,) = errors_of(schedule={"type": "warm_restarts", "cycle_mult": []})
    assert error["pointer"] == "#/schedule/cycle_mult"
    assert error["detail"].endswith(", got []")
    assert "number" in error["detail"]
    assert "string" in error["detail"]


def test_sentence_of_our_own_validator_stands_as_it_is() -> None:
    (error,) = errors_of(model={"architecture": "resnet", "params": {"depth": 21}})
    assert error["detail"] == "depth must be 6n + 2, got 21: take 20 or 26"


def test_all_wrong_fields_are_reported_at_once() -> None:
    errors = errors_of(batch_size=0, seed=-1, precision="fp16")
    assert {error["pointer"] for error in errors} == {"#/batch_size", "#/seed", "#/precision"}


@pytest.mark.parametrize(
    ("value", "pointer", "part"),
    [
        ("autp", "#/schedule/max_lr", "must be a valid number"),
        ({"from_job": 3}, "#/schedule/max_lr/from_job", "must be a valid string, got 3"),
        ({"from_job": "job_1", "scale": 2}, "#/schedule/max_lr/scale", 'unknown field "scale"'),
        ({}, "#/schedule/max_lr/from_job", "is required"),
    ],
)
def test_an_error_in_a_rate_speaks_of_the_form_that_was_meant(value: object, pointer: str, part: str) -> None:
    (error,) = errors_of(schedule={"type": "warm_restarts", "max_lr": value})
    assert error["pointer"] == pointer
    assert part in error["detail"]


def test_pointer_escapes_as_rfc_6901_says() -> None:
    assert pointer_to(("a/b", 0, "~")) == "#/a~1b/0/~0"


def test_shown_value_is_short_ascii_json() -> None:
    assert shown("é") == '"\\u00e9"'
    assert shown("\ud800") == '"\\ud800"'
    assert shown(True) == "true"
    assert shown(math.nan) == "NaN"
    assert len(shown("x" * 1000)) < 100
    assert shown(10**5000) == "a value of type int"
    assert shown(object()) == "a value of type object"
