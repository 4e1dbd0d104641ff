import time

import pytest

from worker.ids import derived_id, ensemble_id_of, is_id, job_id_of_ensemble, new_id, parse_snapshot_id, snapshot_id_of

ULID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


def test_ids_sort_by_the_millisecond_they_were_made_in(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for milliseconds in (1, 31, 32, 1_700_000_000_000, 2**48 - 1):
        monkeypatch.setattr(time, "time_ns", lambda now=milliseconds: now * 1_000_000)
        made.append(new_id("job"))
    assert made == sorted(made)
    assert [identifier[4:14] for identifier in made] == ["0000000001", "000000000Z", "0000000010", "01HF7YAT00", "7ZZZZZZZZZ"]


def test_ids_of_one_millisecond_differ() -> None:
    assert len({new_id("ds") for _ in range(10_000)}) == 10_000


def test_an_id_has_the_form_of_its_kind() -> None:
    assert is_id("job", new_id("job"))
    assert is_id("ds", f"ds_{ULID}")
    for text in ("", "job", f"ds_{ULID}", f"job_{ULID[:-1]}", f"job_{ULID}0", f"job_{ULID.lower()}", f"job_8{ULID[1:]}", f"job_{ULID}\n"):
        assert not is_id("job", text), text


def test_a_job_its_ensemble_and_its_snapshots_share_a_suffix() -> None:
    assert ensemble_id_of(f"job_{ULID}") == f"ens_{ULID}"
    assert job_id_of_ensemble(f"ens_{ULID}") == f"job_{ULID}"
    assert snapshot_id_of(f"job_{ULID}", 12) == f"snap_{ULID}_12"
    assert parse_snapshot_id(f"snap_{ULID}_12") == (f"job_{ULID}", 12)


@pytest.mark.parametrize(
    "text", ["", f"snap_{ULID}", f"snap_{ULID}_", f"snap_{ULID}_01", f"snap_{ULID}_-1", f"job_{ULID}_1", f"snap_{ULID}_1\n"]
)
def test_other_texts_are_no_snapshot_ids(text: str) -> None:
    assert parse_snapshot_id(text) is None


def test_ids_of_runs_are_fixed_and_lie_beside_their_studys() -> None:
    study = "job_01M84YRDCZ1XF8J7S72JE0F8K9"
    assert derived_id(study, "cosine-0") == "job_01M84YRDCZR26H34EYCD6E89G9", "studies that were begun by another version find their runs"
    ids = {derived_id(study, name) for name in ("cosine-0", "cosine-1")} | {derived_id(study[:-1] + "8", "cosine-0")}
    assert len(ids) == 3
    assert all(is_id("job", one) and one.startswith("job_01M84YRDCZ") for one in ids)
