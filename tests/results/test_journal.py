import pytest

from posterior import UserError
from posterior.results import Journal


def record(image_id, sample, value=1.0):
    return {"id": image_id, "sample": sample, "psnr": value}


def test_all_ranks_are_read_in_order_of_ids(tmp_path):
    journal = Journal(tmp_path / "journal")
    journal.append([record("b", 0)], rank=0)
    journal.append([record("a", 0), record("a", 1)], rank=1)
    assert [(r["id"], r["sample"]) for r in journal.read()] == [("a", 0), ("a", 1), ("b", 0)]


def test_a_missing_journal_is_empty(tmp_path):
    assert Journal(tmp_path / "journal").read() == []


def test_a_line_cut_off_by_a_kill_is_ignored_and_appended_to_safely(tmp_path):
    journal = Journal(tmp_path)
    journal.append([record("a", 0)], rank=0)
    with (tmp_path / "rank0.jsonl").open("a") as file:
        file.write('{"id": "b", "sam')
    assert [r["id"] for r in journal.read()] == ["a"]
    journal.append([record("b", 0)], rank=0)
    assert [r["id"] for r in journal.read()] == ["a", "b"]


def test_an_image_is_complete_with_all_its_samples_and_their_mean(tmp_path):
    journal = Journal(tmp_path)
    journal.append([record("a", 0), record("a", 1), record("a", "mean"), record("b", 0)], rank=0)
    assert {r["id"] for r in journal.complete({"0"})} == {"a", "b"}
    assert {r["id"] for r in journal.complete({"0", "1", "mean"})} == {"a"}
    assert journal.complete({"0", "1", "2", "mean"}) == []


def test_garbage_is_passed_over(tmp_path):
    (tmp_path / "rank0.jsonl").write_bytes(b'\xff\xfe\n{"no": "id"}\n[1]\n{"id": "a", "sample": 0}\n')
    assert Journal(tmp_path).read() == [{"id": "a", "sample": 0}]


def test_a_line_nested_without_end_is_passed_over_and_named_by_a_check(tmp_path):
    (tmp_path / "rank0.jsonl").write_text('{"id": "a", "sample": 0}\n' + "[" * 100_000 + "\n")
    assert Journal(tmp_path).read() == [{"id": "a", "sample": 0}]
    with pytest.raises(UserError, match=r"rank0\.jsonl, line 2: nested too deeply"):
        Journal(tmp_path).check()


def test_failures_are_of_one_run(tmp_path):
    journal = Journal(tmp_path)
    journal.fail({"b": "bad"}, rank=0)
    journal.fail({"a": "worse"}, rank=1)
    assert journal.failed() == {"a": "worse", "b": "bad"}
    assert journal.read() == []
    journal.forget_failures()
    assert journal.failed() == {}


def test_an_image_recorded_twice_counts_once(tmp_path):
    journal = Journal(tmp_path)
    journal.append([record("a", 0, 1.0)], rank=0)
    journal.append([record("a", 0, 2.0)], rank=1)
    assert [r["psnr"] for r in journal.read()] == [2.0]


def test_of_an_image_done_again_only_the_latest_session_counts_whichever_rank_wrote_it(tmp_path):
    journal = Journal(tmp_path)
    journal.append([record("a", 0, 1.0) | {"session": 1}, record("b", 0, 1.0) | {"session": 1}], rank=1)
    journal.void(["a"], session=2)
    assert [r["id"] for r in journal.read()] == ["b"]
    assert journal.next_session() == 3
    journal.append([record("a", 0, 2.0) | {"session": 2}], rank=0)
    assert {r["id"]: r["psnr"] for r in journal.complete({"0"})} == {"a": 2.0, "b": 1.0}


def test_images_come_in_the_order_that_people_expect(tmp_path):
    journal = Journal(tmp_path)
    journal.append([record(f"img_{n}", 0) for n in (10, 9, 1)], rank=0)
    assert [r["id"] for r in journal.read()] == ["img_1", "img_9", "img_10"]
