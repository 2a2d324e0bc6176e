"""The leaderboard: its order, its page, what is kept, who joins, who refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
import yaml

from benchmarks.judge import running
from benchmarks.judge.leaderboard import LIST, added, entrant_of, leaderboard_command, listed, together
from benchmarks.judge.leaderboard_faces import FaceRow, HeldOut, face_problems, face_row
from benchmarks.judge.leaderboard_page import (
    LEGEND,
    _cheaper,
    best,
    board_json,
    cheapest,
    equal_rows,
    main_rows,
    ordered,
    problem_rows,
    sentences,
    tuned_rows,
    write_board,
)
from benchmarks.judge.leaderboard_running import Board, Choice, Point, leaderboard
from benchmarks.judge.problems import chosen
from benchmarks.judge.running import Budget, Cell, Sampled, Sizes
from benchmarks.judge.statistics import Finding
from benchmarks.judge.verdict import Judged
from benchmarks.tools.measuring import measured
from posterior import UserError
from posterior.metrics import L2, Residual
from posterior.shipped import CONFIGS

TINY = Budget("tiny", Sizes(4, 60, 20, 9, sets=3), Sizes(4, 60, 20, 9, sets=3))
SAMPLERS = """\
ours:
  exact: {class_path: posterior.samplers.ExactMixture}
peers:
  refusing: {class_path: posterior.samplers.ExactGaussian}
  rough:
    sampler:
      class_path: posterior.samplers.DPS
      init_args: {schedule: {class_path: posterior.samplers.RespacedSigmas, init_args: {respacing: 9}}, scale: 0.3}
    leaderboard: {schedule.init_args.respacing: [3, 6]}
    judge: {"two-*": {scale: 1.0e-6}}
    tune: {scale: [1.0e-6, 0.5, 0.3]}
theirs:
  missing: {class_path: benchmarks.theirs.missing.Sampler}
"""
DPS = yaml.safe_load(SAMPLERS)["peers"]["rough"]["sampler"]


@pytest.fixture(scope="module")
def problems():
    return chosen(["two-modes"])


@pytest.fixture(scope="module")
def entrants(tmp_path_factory):
    path = tmp_path_factory.mktemp("list") / "samplers.yaml"
    path.write_text(SAMPLERS)
    return listed(path)


@pytest.fixture(scope="module")
def run_once(entrants, problems, tmp_path_factory):
    folder = tmp_path_factory.mktemp("leaderboard")
    board = leaderboard(entrants, problems, TINY, folder=folder, curves=problems, quiet=True, tune=problems)
    write_board(folder, board, problems)
    return board, folder


class Page(HTMLParser):
    """Which tags are open, what was asked for from elsewhere, and the first column of the first table."""

    def __init__(self):
        super().__init__()
        self.open, self.asked, self.scripts, self.cells = [], [], 0, []

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.scripts += tag == "script"
        self.asked += [value for name, value in attributes if name in ("src", "href") and not value.startswith("data:")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_exact_sampler_is_first_and_the_one_that_refuses_last_with_its_reason(run_once):
    board, _ = run_once
    assert ordered(board) == ["exact", "rough", "refusing", "missing"]
    head, *rows = main_rows(board)
    assert [row[0] for row in rows] == ["exact", "rough", "rough (tuned)", "refusing", "missing"]
    assert [row[head.index("whose")] for row in rows] == ["ours", "peer", "peer, tuned", "peer", "their code"]
    assert [row[head.index("refuted")] for row in rows] == ["0 of 1", "1 of 1", "1 of 1", "0 of 0", "0 of 0"]
    assert "two-modes: ExactGaussian" in rows[3][-1]
    assert "benchmarks.theirs has no missing" in rows[4][-1]
    assert rows[0][-1] == "-"


def test_the_curve_has_a_point_a_budget_and_its_calls(run_once):
    board, _ = run_once
    points = {one.setting: one for one in board.curves}
    assert {one.calls for one in points.values()} == {6, 12}  # DPS: a forward and a backward call a level
    assert {one.sampler for one in points.values()} == {"rough"}
    assert len(board.points("two-modes")) == 4  # exact and rough as they ship, rough twice more


def test_the_page_is_one_well_formed_file_that_sorts(run_once):
    board, folder = run_once
    text, page = (folder / "leaderboard.html").read_text(encoding="utf-8"), Page()
    page.feed(text)
    assert page.open == []
    assert page.asked == []
    assert page.scripts == 1
    assert text.count("<img ") == 1
    told = json.loads((folder / "leaderboard.json").read_text())
    assert told == json.loads(json.dumps(board_json(board)))
    assert [one["name"] for one in told["judged"]["samplers"]] == ["exact", "refusing", "rough", "missing"]
    assert [one["name"] for one in told["tuned"]["samplers"]] == ["rough"]
    assert "Infinity" not in (folder / "leaderboard.json").read_text()
    assert (folder / "leaderboard-two-modes.png").stat().st_size > 1000
    assert all(line in (folder / "leaderboard.md").read_text() for line in sentences(board))


def test_what_is_kept_is_not_run_again_and_a_sampler_joins(run_once, entrants, problems, monkeypatch):
    board, folder = run_once
    asked, draw = [], running.draw
    monkeypatch.setattr(running, "draw", lambda name, *rest: asked.append(name) or draw(name, *rest))
    joined = [*entrants, added("another=posterior.samplers.ExactMixture")]
    taken = [one for one in joined if one.group != "theirs" and one.name != "refusing"]
    found = leaderboard(taken, problems, TINY, folder=folder, curves=problems, quiet=True, tune=problems)
    assert asked == []  # of the same settings and code as `exact`; what was tried is kept too
    assert set(found.found) == {"exact", "rough", "another"}
    assert found.ours == ["exact"]
    assert [one.ratio for one in found.curves] == [one.ratio for one in board.curves]
    leaderboard(joined[2:3], problems, TINY, 1, folder, quiet=True)
    assert set(asked) == {"rough"}  # another seed


def test_settings_are_chosen_on_measurements_that_are_not_reported(entrants, problems, tmp_path, monkeypatch):
    """On half as many, of a purpose of their own; the nearest there is judged again, and the page says which it is."""
    drawn, draw, rough = [], running.draw, [one for one in entrants if one.name == "rough"]

    def noted(name, sampler, problem, cases, count, seed, device):
        drawn.append((cases[0].id, seed, count, [case.measurement.y for case in cases]))
        return draw(name, sampler, problem, cases, count, seed, device)

    monkeypatch.setattr(running, "draw", noted)
    board = leaderboard(rough, problems, TINY, 5, tmp_path, quiet=True, tune=problems)
    tried, reported = ([one for one in drawn if ("/tuning/" in one[0]) is wanted] for wanted in (True, False))
    assert {one[1] for one in drawn} == {5}  # so that another run reports none of them either
    assert len(tried) == 3 * 2  # settings, measurements
    assert {one[2] for one in tried} == {30}
    known = [y for *_, ys in tried for y in ys]
    assert not any(torch.equal(y, other) for *_, ys in reported for y in ys for other in known)

    (choice,) = board.choices
    ratios = {one.setting: one.ratio for one in choice.tried}
    assert list(ratios) == ["scale 1e-06", "scale 0.5", "scale 0.3"]
    assert ratios["scale 1e-06"] == max(ratios.values())  # it does not look at y
    assert choice.best.setting == min(ratios, key=ratios.get)
    scale = float(choice.best.setting.split()[1])
    assert tuned_rows(board)[1] == ["rough", f"scale {scale} ({choice.best.ratio:.2f})", "; ".join(ratios)]
    settings = {"class_path": "posterior.samplers.DPS", "init_args": {**DPS["init_args"], "scale": scale}}
    alone = leaderboard([entrant_of("alone", settings, "peers")], problems, TINY, 5, tmp_path / "alone", quiet=True)
    assert board.tuned["rough"][0].findings == alone.found["alone"][0].findings
    assert board.found["rough"][0].findings != board.tuned["rough"][0].findings


def test_what_is_tried_goes_before_what_a_problem_has(entrants, problems):
    rough = next(one for one in entrants if one.name == "rough")
    assert rough.judged.made(problems[0]).scale == 1e-6
    assert [one.made(problems[0]).scale for one in rough.tune.values()] == [1e-6, 0.5, 0.3]


def test_of_equal_settings_the_first_is_taken_and_none_without_a_number():
    points = [Point("a", told, "p", ratio=ratio) for told, ratio in (("x", 2.0), ("y", 1.0), ("z", 1.0))]
    assert Choice("a", "p", points).best is points[1]
    assert Choice("a", "p", [Point("a", "x", "p", failure="why")]).best is None


def test_tuned_rows_say_where_they_are_not_tuned(run_once):
    board, _ = run_once
    without = replace(board, choices=[], found=board.found, tuned={"rough": [Judged("two-modes", "", failure="not")]})
    assert [row[0] for row in problem_rows(without, 0)[1:]] == ordered(board)
    assert main_rows(without)[3][-1] == "two-modes: not"


def test_whom_tuning_brings_near_and_who_is_better_by_it():
    def seen(median, mean, worst=2.0):
        more = {"mean": mean, "worst": worst}
        distance = Finding("distribution", "distance", "", median, median - 0.1, median + 0.1, 1e-9, more)
        return Judged("p", "", [distance], [1e-8], total=12)

    found = {"ours": [seen(1.3, 1.3)], "near": [seen(3.0, 3.0)], "far": [seen(5.0, 5.0)]}
    choices = [Choice(name, "p", [Point(name, "x", "p", ratio=1.0)]) for name in ("near", "far")]
    board = Board(
        "tiny", 0, ["ours"], found, tuned={"near": [seen(1.35, 1.4)], "far": [seen(4.0, 4.0)]}, choices=choices
    )
    *_, near, better = sentences(board)
    assert near.endswith("of ours (W2 / floor): p: near (1.35; as it ships 3.00).")
    assert better == "Tuned on p, nobody else is better there than ours."
    board = replace(board, tuned={"near": [seen(1.1, 1.1)], "far": found["far"]})
    *_, near, better = sentences(board)
    assert better == "**Tuned, others are better than ours here: p: W2 / floor 1.10 by near (tuned), 1.30 by ours.**"
    assert len(sentences(replace(board, tuned={}, choices=[]))) == 3
    alone = [Choice("ours", "p", choices[0].tried)]
    assert len(sentences(replace(board, tuned={"ours": [seen(1.2, 1.2)]}, choices=alone))) == 3


def test_what_tuning_says_is_of_the_problems_it_was_done_on():
    """On the other, what was not tuned is neither near nor far."""
    seen = {
        problem: Judged(problem, "", [Finding("distribution", "distance", "", 1.3, 1.2, 1.4, 1e-9, more)], [1e-8])
        for problem, more in (("p", {"mean": 1.3, "worst": 2.0}), ("q", {"mean": 1.3, "worst": 2.0}))
    }
    choices = [Choice("other", "q", [Point("other", "x", "q", ratio=1.0)])]
    tuned = {"other": [Judged("p", "", failure="not tuned on it"), seen["q"]]}
    board = Board("tiny", 0, ["ours"], {name: list(seen.values()) for name in ("ours", "other")}, tuned=tuned)
    *_, near, better = sentences(replace(board, choices=choices))
    assert near.endswith("(W2 / floor): q: nobody.")
    assert better == "Tuned on q, nobody else is better there than ours."


def test_a_setting_without_a_number_is_marked_where_it_has_none():
    def tried(problem, *reasons):
        settings = zip("xyz", reasons, strict=True)
        return Choice("a", problem, [Point("a", one, problem, failure=why) for one, why in settings])

    board = Board("tiny", 0, ["a"], {"a": []}, tuned={"a": []})
    choices = [tried("p", None, "why", "why"), tried("q", None, None, "diverged")]
    assert tuned_rows(replace(board, choices=choices))[1][-1] == "x; y (failed on p); z (failed on p, q)"


def test_equal_cost_takes_the_cheapest_that_is_near_and_the_nearest_that_is_cheap():
    points = [Point("a", "", "p", 50, 3.0, 2.0, 4.0), Point("a", "long", "p", 400, 1.0, 0.9, 1.1)]
    points += [Point("b", "", "p", 200, 1.15, 1.0, 1.3), Point("c", "", "p", 1500, 0.8, 0.7, 0.9)]
    assert cheapest(points) == points[2]
    assert [best(points, calls) for calls in (40, 100, 300, 1000)] == [None, points[0], points[2], points[1]]
    rows = equal_rows(Board("tiny", 0, ["b"], {}, points))
    assert rows[1] == ["p", points[2].told(), points[0].told(), points[2].told(), points[1].told()]
    assert cheapest(points[:1]) is None


def test_a_median_does_not_hide_the_worst_measurement(run_once):
    """As good as ours on most measurements; ours is far off on one."""

    def seen(mean, worst):
        distance = Finding("distribution", "distance", "", 1.0, 0.9, 5.0, 1e-9, {"mean": mean, "worst": worst})
        return Judged("p", "", [distance], [1e-8], total=12)

    board = Board("tiny", 0, ["ours"], {"ours": [seen(1.3, 3.45)], "steady": [seen(1.0, 1.09)]}, [])
    said = "**Others are better than ours here: p: W2 / floor on average 1.00 (worst 1.09) by steady, 1.30 (worst 3.45)"
    assert said in sentences(board)[2]
    for mean, worst in ((1.4, 1.09), (1.0, 3.0)):
        board.found["steady"] = [seen(mean, worst)]
        assert "Nobody else is better than ours" in sentences(board)[2]


def test_one_that_diverges_somewhere_stands_below_those_that_do_not():
    """Of samplers that are refuted everywhere, on two problems."""

    def seen(problem, ratio):
        distance = Finding("distribution", "distance", "", ratio or 1.0, 0.9, 5.0, 1e-9, {"mean": 1.0, "worst": 2.0})
        return Judged(problem, "", [distance], [1e-8], diverged=0 if ratio else 3, total=12)

    found = {
        "diverges": [seen("p", 1.19), seen("q", None)],
        "near": [seen("p", 1.2), seen("q", 1.5)],
        "far": [seen("p", 1.3), seen("q", 1.6)],
    }
    assert ordered(Board("tiny", 0, ["near"], found)) == ["near", "far", "diverges"]


def test_nobody_is_cheaper_for_as_many_calls():
    points = [Point("ours", "", "p", 100, 1.15, 1.0, 1.3), Point("other", "", "p", 100, 1.05, 1.0, 1.1)]
    board = Board("tiny", 0, ["ours"], {}, points)
    assert _cheaper(board, "p") == []
    cheaper = replace(board, curves=[points[0], replace(points[1], calls=99)])
    assert _cheaper(cheaper, "p") == ["p: other is within 1.2 floors for 99 calls, 100 (ours)"]


def test_where_another_is_better_stands_in_bold(run_once):
    board, _ = run_once
    worse = Board(board.budget, 0, ["rough"], board.found, board.curves)
    assert "**Others are better than rough here: two-modes: exact is not refuted, rough is" in sentences(worse)[2]
    assert "Nobody else is better than exact" in sentences(board)[2]
    assert sentences(board)[0] == "Refuted on the fewest of 1 problems: exact (0); then rough (1)."


def test_faces_are_paired_and_the_mean_is_of_those_with_several_samples():
    (problem, _) = face_problems(2)
    compared, pairs = ([f"{problem.name}/{kind}/{number}" for number in range(2)] for kind in ("compared", "pair"))
    sampled = Sampled(problem)
    for ids, count in ((compared, 3), (pairs, 1)):
        cases = problem.cases(ids, 0)
        cell = Cell.of(problem.truth.draw(ids, 0).repeat(count, 1, 1, 1, 1), cases, 6.0, 0.0, 1.0)
        sampled.add(cell, cases, ids is compared)
    metrics = {"l2": L2(), "residual": Residual()}
    row = face_row("truth", sampled, metrics)
    assert row.mean("l2") == (0.0, 0.0)
    assert set(row.values["l2"]) == set(pairs)
    assert set(row.values["l2_of_mean"]) == set(compared)
    case = sampled.pairs[1]
    expected = measured(metrics, case.truth[None], case.truth, case.measurement)["residual"]
    assert row.values["residual"][case.id] == pytest.approx(float(expected))
    assert row.forward == pytest.approx(12 / 8)
    other = FaceRow("other", problem.name, {"l2": {pairs[0]: 1.0, pairs[1]: 3.0, "elsewhere": 100.0}})
    assert other.paired(row, "l2") == (2.0, pytest.approx(1.96))  # std 2 ** 0.5 of two
    assert row.paired(FaceRow("refused", problem.name, failure="why"), "l2") is None


def test_faces_are_those_held_out():
    with pytest.raises(UserError, match="there are 256 held-out faces"):
        face_problems(len(HeldOut().images) + 1)


def test_the_shipped_list_has_every_sampler_that_needs_y_alone():
    """Left out: those that know the posterior in closed form, need no prior, are for MRI, CT, digits or latents, or are
    variants with a page of their own."""
    entrants = listed(LIST)
    names = {path.stem for path in (CONFIGS / "sampler").glob("*.yaml")}
    renamed = {
        "kinetic_toon32": "kinetic",
        "annealed_langevin_64": "algorithm1",
        "annealed_langevin_paper": "algorithm3",
    }
    left_out = {"exact_gaussian", "exact_mixture", "exact_empirical", "lasso", "kinetic_mri"}
    left_out |= {"dps_100", "langevin_digits", "filtered_back_projection", "in_latents"}
    ours = [one for one in entrants if one.group != "theirs"]
    assert {one.name for one in ours} == {renamed.get(name, name) for name in names - left_out}
    (problem,) = chosen(["mixture32"])
    for one in ours:
        for contestant in list(one.curve.values())[-1:]:
            contestant.made(problem)
        shipped = one.judged.made(problem)
        assert len(one.tune) == 6
        assert any(contestant.made(problem) == shipped for contestant in one.tune.values())
    clipped = next(one for one in entrants if one.name == "dps")
    assert clipped.plain.made(problem).clip_denoised
    assert not clipped.judged.made(problem).clip_denoised
    assert not next(iter(clipped.curve.values())).made(problem).clip_denoised


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--budget", "huge"], "there is no budget 'huge'"),
        (["--list", "nowhere.yaml"], "the file of samplers nowhere.yaml does not exist"),
        (["--list", "sampler/dps"], "a list of samplers"),
        (["--only", "dps,nobody"], "has no sampler 'nobody'"),
        (["--sampler", "posterior.samplers.Nothing"], "Nothing"),
        (["--only", "dps", "--sampler", "dps=DPS", "--curves", "false", "--faces", "0"], "two samplers are called dps"),
        (["--problems", "nowhere"], "there is no problem 'nowhere'"),
        (["--curves", "nowhere"], "--curves: there is no problem 'nowhere'"),
        (["--tune", "nowhere"], "--tune: 'nowhere' is none of the problems that are judged: two-modes, ring"),
        (["--problems", "ring", "--tune", "ring,two-modes"], "'two-modes' is none of the problems"),
        (["--faces", "-1"], "faces"),
        (["--seed", "x"], "--seed"),
        (["--only", ","], "--only names nothing"),
        (["--tune", ""], "--tune names nothing"),
        (["--problems", ","], "--problems names nothing"),
        (["--curves", ""], "--curves names nothing"),
    ],
)
def test_bad_input_is_one_line_before_any_work(arguments, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^[^\n]*$") as caught:
        leaderboard_command(arguments)
    assert told in str(caught.value)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "there is no sampler"),
        ("{1: {}, a: {}}", "1 is no table of a list of samplers"),
        ("ours: {1: {class_path: posterior.samplers.DPS}}", "1 is no name of a sampler"),
        ("ours: {one: {class_path: posterior.samplers.DPS, init_args: [1]}}", "one: init_args: must hold settings"),
        ("DPS, judge: {1: {scale: 1.0}}", "one: judge: must hold settings by problem"),
        ("DPS, tun: {scale: [1.0]}", "one: tun is no part of a sampler: class_path, init_args, judge"),
        ("ours: {one: {sampler: {class_path: posterior.samplers.DPS}, 3: {}}}", "one: 3 is no part of a sampler"),
        ("DPS, tune: {1: [1.0]}", "one: tune: must hold lists"),
        ("DPS, tune: {nonsense: [1, 2]}", "one: tune: nonsense 1: "),
        ("DPS, tune: {scale: [1.0, -1.0]}", "one: tune: scale -1.0: "),
        ("DPS, leaderboard: {schedule.init_args.nonsense: [1]}", "one: leaderboard: schedule.nonsense 1: "),
        ("DPS, tune: {schedule: [{class_path: posterior.samplers.RespacedSigmas, init_args: [1]}]}", "one: tune: "),
        ("DPS, tune: {schedule: [{class_path: 3}]}", "one: tune: schedule 3: "),
    ],
)
def test_a_mistake_of_the_list_is_one_line_before_any_work(text, told, tmp_path):
    settings = f"init_args: {yaml.safe_dump(DPS['init_args'], default_flow_style=True, width=1000).strip()}"
    if text.startswith("DPS"):
        text = f"ours: {{one: {{class_path: posterior.samplers.{text}, {settings}}}}}"
    (tmp_path / "list.yaml").write_text(text)
    options = ["--problems", "two-modes", "--curves", "false", "--faces", "0"]
    with pytest.raises(UserError, match=r"^[^\n]*$") as caught:
        leaderboard_command(["--list", f"{tmp_path / 'list.yaml'}", "--output", f"{tmp_path / 'results'}", *options])
    assert told in str(caught.value)
    assert not (tmp_path / "results").exists()


def test_a_sampler_that_cannot_be_loaded_is_a_row_whatever_it_is_tried_with(problems, tmp_path):
    settings = {"class_path": "benchmarks.theirs.missing.Sampler", "tune": {"a": [1]}, "leaderboard": {"b": [1]}}
    board = leaderboard([entrant_of("one", settings, "theirs")], problems, TINY, folder=tmp_path, quiet=True)
    assert "benchmarks.theirs has no missing" in board.found["one"][0].failure


def test_the_page_says_what_their_code_runs_with():
    (said,) = [one for one in LEGEND.replace("\n", " ").split(". ") if '"Their code"' in one]
    assert all(words in said for words in ("its own defaults", "clip at [-1, 1]", "is not tuned"))


def test_settings_that_belong_together():
    step = {"class_path": "posterior.samplers.DDIM", "init_args": {"ddim_eta": 0.5}}
    found = together("x", "tune", {"tune": {"a": [1, None], "b.init_args.c": [3, 4]}})
    assert found == {"a 1, b.c 3": {"a": 1, "b": {"init_args": {"c": 3}}}, "a null, b.c 4": found["a null, b.c 4"]}
    assert together("x", "tune", {"tune": {"step": [step]}}) == {"step DDIM ddim_eta 0.5": {"step": step}}
    for section in ({"a": [1], "b": [1, 2]}, {"a": 1}, [1]):
        for name in ("leaderboard", "tune"):
            with pytest.raises(UserError, match=f"x: {name}: "):
                together("x", name, {name: section})


def test_a_board_on_which_nothing_could_be_judged_is_no_success(tmp_path, capsys):
    (tmp_path / "list.yaml").write_text("peers:\n  gone: {class_path: posterior.samplers.Gone}\n")
    options = ["--problems", "two-modes", "--curves", "false", "--tune", "false", "--faces", "0"]
    with pytest.raises(SystemExit) as ended:
        leaderboard_command(["--list", f"{tmp_path / 'list.yaml'}", "--output", f"{tmp_path / 'results'}", *options])
    assert ended.value.code == 2
    assert (tmp_path / "results" / "leaderboard.html").is_file()
    assert "No sampler could be judged" in capsys.readouterr().out
