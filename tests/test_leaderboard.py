"""The leaderboard over stores of plain JSON files: what is compared, what is averaged, what is left out."""

import csv
import hashlib
import io
import json
import statistics

import pytest
from rich.console import Console

from dcexp.leaderboard import boards
from dcexp.scale import PUBLISHED
from dcexp.tasks.datacomp import AT_CHANCE, GROUPS, SCORED


def node(kind, name, key, fields=None, values=None, **inputs):
    stage = {"name": f"{kind}/{name.title().replace('_', '')}", "version": 1, "fields": fields or {}}
    label = "-".join([name, *(f"{k}_{v}" for k, v in (fields or {}).items())])
    return {
        "kind": kind,
        "key": key,
        "name": f"{label}-{key}",
        "stage": stage,
        "values": values or {},
        "inputs": inputs,
    }


def run(filter="none", fields=None, seed=0, scale="tiny", pool="p001", train=None, filter_node=None):
    """The lineage of a checkpoint. Keys differ with everything, as in a real store."""
    key = hashlib.sha256(f"{filter}{fields}{seed}{scale}{pool}{train}".encode()).hexdigest()[:9]
    source = node("pool", "digits", pool)
    subset = filter_node or node("subset", filter, f"s{key}", fields, pool=source)
    shards = node("shards", "copy", f"h{key}", pool=source, subset=subset)
    values = {"scale": {"name": scale, **PUBLISHED[scale]}, "seed": seed}
    return node("checkpoint", "train", f"c{key}", train, values, shards=shards)


class Store:
    def __init__(self, root):
        self.root, self.made = root, 0

    def write(self, step, summary=None, **files):
        folder = self.root / step["kind"] / step["name"]
        folder.mkdir(parents=True)
        self.made += 1
        manifest = {
            "lineage": step,
            "created": f"2024-01-01T00:00:{self.made:02}",
            "summary": summary or {},
            "inputs": {},
        }
        (folder / "manifest.json").write_text(json.dumps(manifest))
        for name, content in files.items():
            (folder / f"{name}.json").write_text(json.dumps(content))
        return folder

    def result(self, checkpoint, task="digits", score=0.5, name=None, version=1, extra=""):
        step = node(
            "result", "zero_shot", f"r{extra}{checkpoint['key']}{task.replace('/', '_')}", checkpoint=checkpoint
        )
        step["stage"]["version"] = version
        line = {"key": task, "dataset": name or task.title(), "metrics": {"acc1": 0.9, "main_metric": score}}
        return self.write(step, result=line)

    def results(self, checkpoint, scores):
        for task, score in scores.items():
            self.result(checkpoint, task, score)


ALL = dict.fromkeys(sorted(SCORED), 0.5)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def test_the_best_filter_stands_first_with_its_size(store):
    for name, score, kept in (("none", 0.31, 12800), ("clip_score", 0.72, 3840), ("random", 0.2, 99)):
        checkpoint = run(name)
        store.result(checkpoint, score=score, name="Handwritten digits")
        if name != "random":
            subset = checkpoint["inputs"]["shards"]["inputs"]["subset"]
            store.write(subset, {"taken": kept})
    (board,) = boards(store.root)
    assert board.columns == ("Handwritten digits",)
    assert [(r.filter, r.samples, r.seeds, r.scores[0].mean) for r in board.rows] == [
        ("clip_score", 3840, 1, 0.72),
        ("none", 12800, 1, 0.31),
        ("random", None, 1, 0.2),
    ]
    assert board.title == "scale tiny (not a competition scale), source digits (p001), 1 task"


def test_the_size_of_shards_stands_in_for_a_subset_that_was_deleted(store):
    checkpoint = run()
    store.result(checkpoint)
    store.write(checkpoint["inputs"]["shards"], {"taken": 700})
    assert boards(store.root)[0].rows[0].samples == 700


def test_seeds_are_one_row_with_mean_and_sample_deviation(store):
    scores = [0.30, 0.34, 0.41]
    for seed, score in enumerate(scores):
        store.result(run("random", {"fraction": 0.5, "seed": seed}, seed=seed), score=score)
    store.result(run("random", {"fraction": 0.4, "seed": 0}), score=0.35)
    (board,) = boards(store.root)
    alone, together = sorted(board.rows, key=lambda row: row.seeds)
    assert together.filter == "random-fraction_0.5" and together.seeds == 3
    assert together.scores[0].mean == pytest.approx(statistics.fmean(scores))
    assert together.scores[0].std == pytest.approx(statistics.stdev(scores))
    assert (alone.filter, alone.seeds, alone.scores[0].std) == ("random-fraction_0.4", 1, None)
    assert str(together.scores[0]) == "0.3500 ± 0.0557" and str(alone.scores[0]) == "0.3500"


def test_the_average_of_seeds_is_the_deviation_of_averages(store):
    for seed, (a, b) in enumerate([(0.2, 0.8), (0.4, 0.6)]):
        store.result(run(seed=seed), "mnist", a)
        store.result(run(seed=seed), "cars", b)
    (board,) = boards(store.root)
    assert board.columns == ("Cars", "Mnist", "average (2 of 38)")
    assert [score.std for score in board.rows[0].scores] == pytest.approx([0.02**0.5, 0.02**0.5, 0])


@pytest.mark.parametrize("difference", [{"scale": "debug"}, {"pool": "p002"}, {"task": "cars"}, {"version": 2}])
def test_what_cannot_be_compared_is_on_separate_boards(difference, store):
    how = {k: v for k, v in difference.items() if k in ("task", "version")}
    which = {k: v for k, v in difference.items() if k not in how}
    store.result(run())
    store.result(run("clip_score", **which), **how)
    assert sorted(len(board.rows) for board in boards(store.root)) == [1, 1]


def test_runs_of_a_scale_that_has_changed_since_are_apart_and_say_so(store):
    store.result(run("none"))
    older = run("clip_score")
    older["values"]["scale"] = {**older["values"]["scale"], "samples_seen": 1}
    store.result(older)
    titles = {board.title.partition(", ")[0]: [r.filter for r in board.rows] for board in boards(store.root)}
    assert titles == {
        "scale tiny (not a competition scale)": ["none"],
        "scale tiny (with other values than dcexp has for it now)": ["clip_score"],
    }


def test_a_run_that_lacks_a_task_is_on_a_board_of_its_own(store):
    for name in ("none", "clip_score", "basic"):
        store.result(run(name), "mnist")
        if name != "basic":
            store.result(run(name), "cars")
    assert {tuple(row.filter for row in board.rows) for board in boards(store.root)} == {
        ("clip_score", "none"),
        ("basic",),
    }


def test_all_38_tasks_show_the_published_aggregates(store):
    values = {key: (i * 37 % 100) / 100 for i, key in enumerate(sorted(SCORED))}
    store.results(run(scale="medium"), values)
    (board,) = boards(store.root)
    assert board.columns == (*GROUPS, "clean mean (33)", "average (38)")
    wanted = [sum(values[key] for key in keys) / len(keys) for keys in GROUPS.values()]
    clean = sum(value for key, value in values.items() if key not in AT_CHANCE) / 33
    assert [s.mean for s in board.rows[0].scores] == pytest.approx([*wanted, clean, sum(values.values()) / 38])
    assert board.title.startswith("scale medium, source") and board.title.endswith("38 of 38 tasks")


def test_all_40_entries_show_what_the_38_show(store):
    store.results(run(scale="medium"), {**ALL, "fairness/fairface": None, "fairness/utkface": None})
    store.results(run("basic", scale="medium"), ALL)
    (board,) = boards(store.root)
    assert len(board.rows) == 2 and board.title.endswith("38 of 38 tasks")


def test_a_task_of_ones_own_beside_the_38_has_a_column_and_takes_no_part(store):
    store.results(run(), {**ALL, "mine": 0.9})
    (board,) = boards(store.root)
    assert board.columns == ("Mine", *GROUPS, "clean mean (33)", "average (38)")
    assert [score.mean for score in board.rows[0].scores] == pytest.approx([0.9, *[0.5] * 6])


def test_many_tasks_of_ones_own_beside_the_38_have_no_columns(store):
    store.results(run(), {**ALL, **{f"mine{i}": 0.9 for i in range(7)}})
    assert boards(store.root)[0].columns == (*GROUPS, "clean mean (33)", "average (38)")


def averaging(store, averages):
    """The one board of runs with these averages over the 38 tasks, by filter; several for several seeds."""
    for name, of_seeds in averages.items():
        for seed, average in enumerate(of_seeds):
            store.results(run(name, seed=seed), {**ALL, "mnist": 0.5 + (average - 0.5) * 38})
    (board,) = boards(store.root)
    return board


@pytest.mark.parametrize(
    "averages, tied",
    [
        ({"a": [0.506], "b": [0.5], "c": [0.4999]}, "ab"),
        ({"a": [0.506], "b": [0.4999]}, ""),
        ({"a": [0.5]}, ""),
        ({"a": [0.506], "b": [0.502], "c": [0.497]}, "ab"),  # c is near b, not near the best
        ({"a": [0.503, 0.509], "b": [0.5, 0.501], "c": [0.49, 0.506]}, "ab"),
    ],
    ids=["as far as seeds move it", "further", "alone", "near the second", "means over seeds"],
)
def test_rows_that_seeds_may_have_set_apart_from_the_best_are_marked(averages, tied, store):
    board = averaging(store, averages)
    assert "".join(row.filter for row in board.rows) == "".join(averages)
    assert "".join(row.filter for row in board.rows if row.tied) == tied
    assert bool(board.note) == bool(tied)


def test_there_is_no_mark_where_a_task_is_missing(store):
    for name in "ab":
        store.results(run(name), dict.fromkeys(SCORED - {"mnist"}, 0.5))
    (board,) = boards(store.root)
    assert board.columns == (*GROUPS, "average (37 of 38)") and not board.note
    assert "tied" not in board.csv().splitlines()[0]


def test_the_mark_and_what_it_means_are_shown_to_people(store):
    board = averaging(store, {"a": [0.504], "b": [0.5], "c": [0.4]})
    written = io.StringIO()
    Console(width=200, file=written, force_terminal=False).print(board.table())
    lines = board.markdown().splitlines()
    for text in (written.getvalue(), board.markdown()):
        assert "within 0.006 of the best" in text and "do not rank" in text
        assert text.count("≈") == 3, "two rows and the note"
    assert [line.split("|")[1].strip() for line in lines[4:7]] == ["≈ 1", "≈ 2", "3"]
    assert lines[7] == "" and lines[8] == board.note and len(lines) == 9


def test_the_mark_is_a_column_of_its_own_in_csv(store):
    board = averaging(store, {"a": [0.504], "b": [0.5], "c": [0.4]})
    rows = list(csv.DictReader(io.StringIO(board.csv())))
    assert [(row["rank"], row["filter"], row["tied"]) for row in rows] == [
        ("1", "a", "True"),
        ("2", "b", "True"),
        ("3", "c", "False"),
    ]
    assert [float(row["average (38)"]) for row in rows] == pytest.approx([0.504, 0.5, 0.4])
    assert [float(row["clean mean (33)"]) for row in rows] == pytest.approx(
        [0.5 + (row.scores[-1].mean - 0.5) * 38 / 33 for row in board.rows]
    )


def test_incomplete_groups_are_left_out_and_the_average_says_so(store):
    for key in SCORED - {"vtab/dtd", "misc/winogavil"}:
        store.result(run(), key, 0.5)
    (board,) = boards(store.root)
    assert board.columns == ("ImageNet", "ImageNet dist. shifts", "average (36 of 38)")
    assert board.title.endswith("36 of 38 tasks")


def test_an_average_with_tasks_of_ones_own_is_not_called_datacomps(store):
    store.result(run(), "mnist", 0.5)
    store.result(run(), "mine", 0.7)
    assert boards(store.root)[0].columns == ("Mine", "Mnist", "average of these 2")


def test_tasks_of_one_display_name_stay_apart(store):
    store.result(run(), "a", 0.2, name="Same")
    store.result(run(), "b", 0.4, name="Same")
    (board,) = boards(store.root)
    assert board.columns == ("Same (a)", "Same (b)", "average of these 2")
    assert board.rows[0].scores[2].mean == pytest.approx(0.3)


def test_a_task_without_a_main_metric_enters_nothing(store):
    store.result(run(), "fairness/utkface", None)
    store.result(run(), "mnist", 0.5)
    assert boards(store.root)[0].columns == ("Mnist",)


def test_a_store_of_nothing_but_tasks_without_a_main_metric_makes_no_board(store, caplog):
    store.result(run(), "fairness/fairface", None)
    with pytest.raises(ValueError, match="main metrics of models trained here"):
        boards(store.root)
    assert not caplog.records


def test_models_that_were_not_trained_here_are_left_out_in_silence(store, caplog):
    store.result(run(), score=0.5)
    store.result(node("pretrained", "ViT-B-32", "p1"), score=0.9)
    (board,) = boards(store.root)
    assert [row.filter for row in board.rows] == ["none"] and not caplog.records


def test_a_metric_that_is_not_a_number_disturbs_nothing(store, caplog):
    folder = store.result(run(), score=0.5)
    (folder / "result.json").write_text('{"key": "digits", "dataset": "D", "metrics": {"main_metric": 0.5, "a": NaN}}')
    assert boards(store.root)[0].rows[0].scores[0].mean == 0.5 and not caplog.records


def test_of_two_results_for_one_task_the_newer_counts(store):
    store.result(run(), score=0.9, extra="z")
    store.result(run(), score=0.1, extra="a")
    (board,) = boards(store.root)
    assert [row.scores[0].mean for row in board.rows] == [0.1] and board.rows[0].seeds == 1


def test_runs_of_one_filter_that_differ_in_training_are_told_apart(store):
    store.result(run(train={"precision": "bf16"}), score=0.4)
    store.result(run(train={"precision": "fp32"}), score=0.5)
    first, second = boards(store.root)[0].rows
    assert first.filter.startswith("none [train-precision_fp32 ")
    assert second.filter.startswith("none [train-precision_bf16 ")


def test_a_combination_names_its_parts(store):
    parts = {
        "part_0": node("subset", "random", "k1", {"fraction": 0.5, "seed": 3}),
        "part_1": node("subset", "clip_score", "k2", {"fraction": 0.3}),
    }
    combined = node("subset", "intersection", "k3", pool=node("pool", "digits", "p001"), **parts)
    store.result(run("x", filter_node=combined))
    assert boards(store.root)[0].rows[0].filter == "intersection (clip_score-fraction_0.3, random-fraction_0.5)"


def mixed(checkpoint, weight=1, filter="no_filter", laion=2):
    """The lineage of ``checkpoint``, with a part ``laion`` mixed in."""
    checkpoint = json.loads(json.dumps(checkpoint))
    main, pool = checkpoint["inputs"]["shards"], node("pool", "web_dataset", "p9")
    subset = node("subset", filter, f"s{filter}", pool=pool)
    parts = {"main": main, "laion": node("shards", "copy", f"h{filter}", pool=pool, subset=subset)}
    fields = {"weights": {"laion": laion}, "weight": weight}
    checkpoint["inputs"]["shards"] = node("shards", "mixture", f"m{main['key']}", fields, **parts)
    checkpoint["key"] += f"{weight}{filter}{laion}"
    return checkpoint


def test_a_mixture_names_its_parts_and_is_on_a_board_of_its_own(store):
    store.result(run("clip_score", {"fraction": 0.3}), score=0.5)
    store.result(mixed(run("clip_score", {"fraction": 0.3})), score=0.7)
    store.result(mixed(run(), weight=0.5, filter="basic", laion=1), score=0.6)
    own, others = sorted(boards(store.root), key=lambda board: len(board.rows))
    assert [row.filter for row in own.rows] == ["clip_score-fraction_0.3"]
    assert [row.filter for row in others.rows] == ["clip_score-fraction_0.3 + laion x2", "none x0.5 + laion (basic)"]
    assert own.title == "scale tiny (not a competition scale), source digits (p001), 1 task"
    assert "source digits (p001) mixed with others (BYOD track), 1 task" in others.title


def test_seeds_of_a_mixture_are_one_row_and_its_samples_those_of_all_parts(store):
    for seed in (0, 1):
        checkpoint = mixed(run("random", {"seed": seed}, seed=seed))
        store.result(checkpoint, score=0.5)
        store.write(checkpoint["inputs"]["shards"]["inputs"]["main"]["inputs"]["subset"], {"taken": 7})
        store.write(checkpoint["inputs"]["shards"], {"written": 30})
    store.result(mixed(run("random", {"seed": 0}), laion=3), score=0.4)
    (board,) = boards(store.root)
    assert [(row.filter, row.seeds, row.samples) for row in board.rows] == [
        ("random + laion x2", 2, 30),
        ("random + laion x3", 1, None),
    ]


POOLLESS = node("checkpoint", "train", "k", values={"scale": {"name": "tiny"}})
BROKEN = {
    "no manifest": {"manifest.json": None},
    "no result": {"result.json": None},
    "not JSON": {"manifest.json": "{"},
    "not an object": {"result.json": "[1]"},
    "no lineage": {"manifest.json": "{}"},
    "NaN": {"result.json": '{"key": "digits", "dataset": "D", "metrics": {"main_metric": NaN}}'},
    "a word": {"result.json": '{"key": "digits", "dataset": "D", "metrics": {"main_metric": "good"}}'},
    "no checkpoint": {"manifest.json": json.dumps({"created": "", "lineage": node("result", "x", "k")})},
    "no pool": {"manifest.json": json.dumps({"created": "", "lineage": node("result", "x", "k", checkpoint=POOLLESS)})},
}


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN.keys())
def test_what_cannot_be_read_is_skipped_with_a_warning(damage, store, caplog):
    store.result(run("none"), score=0.5)
    broken = store.result(run("clip_score"), score=0.9)
    for name, text in damage.items():
        (broken / name).unlink() if text is None else (broken / name).write_text(text)
    (board,) = boards(store.root)
    assert [row.filter for row in board.rows] == ["none"]
    assert [str(broken) in record.getMessage() for record in caplog.records] == [True]


def test_unfinished_and_replaced_results_and_stray_files_are_ignored_in_silence(store, caplog):
    store.result(run("none"), score=0.5)
    for ending in ("partial", "old"):
        left = store.result(run(ending), score=0.9)
        left.rename(left.with_name(f"{left.name}.{ending}"))
    (store.root / "result" / "x.lock").touch()
    assert len(boards(store.root)[0].rows) == 1 and not caplog.records


def test_a_store_without_results_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"no results below .*run something first.*python -m dcexp"):
        boards(tmp_path / "nothing")


@pytest.fixture
def shown(store):
    for seed, score in enumerate((0.5, 0.75)):
        store.result(run("a|b[red]", seed=seed), score=score)
    store.result(run("none"), score=1 / 3)
    (board,) = boards(store.root)
    return board


def test_for_the_terminal(shown):
    written = io.StringIO()
    Console(width=200, file=written, force_terminal=False).print(shown.table())
    text = written.getvalue()
    assert "not a competition scale" in text and "a|b[red]" in text, "markup in a name must not vanish"
    assert text.index("0.6250 ± 0.1768") < text.index("0.3333")


def test_as_markdown(shown):
    assert shown.markdown().splitlines() == [
        f"## {shown.title}",
        "",
        "| rank | filter | samples | seeds | Digits |",
        "| ---: | --- | ---: | ---: | ---: |",
        r"| 1 | a\|b[red] |  | 2 | 0.6250 ± 0.1768 |",
        "| 2 | none |  | 1 | 0.3333 |",
    ]


def test_as_csv_with_full_precision(shown):
    header, first, second = csv.reader(io.StringIO(shown.csv()))
    assert header == ["board", "rank", "filter", "samples", "seeds", "Digits", "Digits std"]
    assert first[1:5] == ["1", "a|b[red]", "", "2"] and float(first[5]) == 0.625
    assert float(second[5]) == 1 / 3 and second[6] == ""
