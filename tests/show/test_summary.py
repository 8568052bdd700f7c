"""Many runs in one table: numbers by hand, what is missing by name, nothing averaged that should not be."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import ROOT
from runs import refexp

from refexp.errors import RefexpError
from refexp.show.tables.apart import split, varying
from refexp.show.tables.choose import make_tables
from refexp.show.tables.compare import bootstrap, compare
from refexp.show.tables.page import write_sweep_report
from refexp.show.tables.plots import as_drawn, draw_metric
from refexp.show.tables.published import COLUMNS, DEFAULT, as_figures, find_figures, read_figures
from refexp.show.tables.runs import Runs as Found
from refexp.show.tables.runs import find_runs
from refexp.show.tables.settings import guessed_settings, renamed
from refexp.show.tables.summary import Wanted, summarise, summarise_sweep
from refexp.show.tables.table import Table, lay_out
from refexp.show.tables.write import to_latex, to_markdown
from refexp.show.words import listed

RANDOM = "RANDOM WEIGHTS (encoder): the results of this run mean nothing."


class Runs:
    """A sweep's folder as a multirun leaves it, without the images: jobs are added one by one."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.jobs = folder, {}

    def add(
        self, box: float | None, *, state: str = "completed", note: str = "", message: str = "", **settings
    ) -> Path:
        """A job with this box nAP; its settings: seed, shots, dataset, matcher, topk, protocol (None: an older run)."""
        options = {"seed": 0, "shots": 5, "dataset": "synthetic", "matcher": "prototype", "topk": 100} | settings
        number = len(self.jobs)
        overrides = [f"{key}={value}" for key, value in settings.items()]
        self.jobs[str(number)] = {"id": None, "number": number, "overrides": overrides, "folder": str(number)}
        content = {"command": ["x"], "cwd": "/", "jobs": self.jobs, "launcher": "serial", "host": "gone", "pid": 1}
        self.write("sweep.json", json.dumps(content))
        if state == "not started":
            return self.folder / str(number)
        config = {
            "seed": options["seed"],
            "shots": {"n": options["shots"]},
            "dataset": {"_target_": f"sets.{options['dataset'].title()}"},
            "matcher": {"_target_": f"matchers.{options['matcher'].title()}"},
            "postprocess": {"topk": {"_target_": "steps.TopK", "k": options["topk"]}},
            "store": {"dir": f"/store/{number}"},
        }
        if protocol := options.get("protocol"):
            config |= {"protocol": protocol, "evaluation": {"_target_": "evaluations.Coco", "protocol": protocol}}
        choices = {
            "shots": "custom",
            "dataset": options["dataset"],
            "matcher": options["matcher"],
            "postprocess": "merge",
        }
        self.write(f"{number}/.hydra/hydra.yaml", yaml.safe_dump({"hydra": {"runtime": {"choices": choices}}}))
        self.write(f"{number}/config.yaml", yaml.safe_dump(config))
        status = {"state": state, "overrides": overrides, "host": "gone", "pid": 1, "job_id": None, "seconds": 2.5}
        status |= {"ended": f"2026-01-01T00:00:{number:02d}", "error": {"message": message}}
        self.write(f"{number}/status.json", json.dumps(status))
        if state == "completed":
            done = {"metrics": {"bbox/nAP": box, "bbox/nAP/cat": box}, "config": config, "shots": options["shots"]}
            done |= {
                "note": note,
                "targets": f"{options['dataset']} targets",
                "seed": options["seed"],
                "classes": ["cat"],
                "images": 2,
                "instances": 3,
            }
            self.write(f"{number}/metrics.json", json.dumps(done))
        return self.folder / str(number)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def runs(tmp_path) -> Runs:
    return Runs(tmp_path / "sweep")


def grid(runs: Runs, values: dict[tuple[int, str], list[float]]) -> Found:
    """A job for each value, seeds from 0; keys are (shots, matcher)."""
    for (shots, matcher), of_seeds in values.items():
        for seed, value in enumerate(of_seeds):
            runs.add(value, shots=shots, matcher=matcher, seed=seed)
    return find_runs([runs.folder])


def only(found: Found, **values: object) -> Found:
    """The runs with these values of a column."""
    for name, value in values.items():
        found = found.only(found.frame[name].isin(value if isinstance(value, list) else [value]))
    return found


def tables_of(runs: Runs, wanted: Wanted) -> list[Table]:
    """The tables of a summary, without its files and plots."""
    return make_tables(find_runs([runs.folder]), wanted, read_figures())


def beside(table: Table, figures: pd.DataFrame) -> Table:
    return replace(table, published=find_figures(table.runs, table.metric, figures))


def test_mean_deviation_and_best_are_those_computed_by_hand(runs):
    found = grid(runs, {(1, "a"): [0.1, 0.2, 0.6], (1, "b"): [0.2, 0.3, 0.1], (10, "a"): [0.5, 0.5], (10, "b"): [0.9]})
    table = lay_out(found, "shots", "matcher", "bbox/nAP")
    mean = table.grid("mean")
    assert (list(mean.index), list(mean.columns), table.n) == (["1", "10"], ["a", "b"], 3)
    first = table.cells.iloc[0]
    assert first["mean"] == pytest.approx(0.3)
    assert first["std"] == pytest.approx(math.sqrt((0.2**2 + 0.1**2 + 0.3**2) / 2))
    text = to_markdown(table)
    assert "| 1 | **30.0 ± 26.5** | 20.0 ± 10.0 |" in text
    assert "| 10 | 50.0 ± 0.0 (n=2) | 90.0 (n=1) |" in text  # of different seeds none is the best
    assert table.troubles == ["no run: 10, a, seed 2", "no run: 10, b, seed 1, 2"]
    paired = only(found, matcher="a", seed=["0", "1"])
    assert list(lay_out(paired, "shots", None, "bbox/nAP").cells["best"]) == [False, True]


def test_other_classes_are_other_data(runs):
    for seed in (0, 1):
        runs.add(0.2, matcher="a", seed=seed)
        path = runs.add(0.4, matcher="b", seed=seed) / "metrics.json"
        if seed:
            path.write_text(path.read_text().replace('["cat"]', '["cat", "dog"]'))
    (table,) = tables_of(runs, Wanted(cols="matcher"))
    assert not table.cells["best"].any() and table.differences == []
    assert "Not all runs have the same classes (1 to 2 of them)." in table.notes
    (table,) = tables_of(runs, Wanted(cols="matcher", compare="a,b"))
    assert len(table.differences) == 1


def test_what_failed_died_or_is_not_there_is_named(runs):
    for seed in (0, 1):
        runs.add(0.5, shots=1, seed=seed, matcher="a")
    runs.add(None, shots=1, seed=0, matcher="b", state="failed", message="ValueError: too\nlittle")
    runs.add(None, shots=1, seed=1, matcher="b", state="running")
    runs.add(None, shots=5, seed=0, matcher="a", state="not started")
    runs.add(None, shots=5, seed=1, matcher="a")
    runs.write("multirun.yaml", yaml.safe_dump(MULTIRUN))
    found = find_runs([runs.folder])
    assert list(found.frame["state"]) == ["completed", "completed", "failed", "died", "not started", "completed"]
    table = lay_out(found, "shots", "matcher", "bbox/nAP")
    assert shown(table) == [["50.0 ± 0.0", "failed"], ["not started", "no run"]]
    text = to_markdown(table)
    assert "#2 failed (shots=1 seed=0 matcher=b): ValueError: too little" in " ".join(text.split())
    assert "#3 died" in text and "#4 not started" in text and "#5 without bbox/nAP" in text and "no run: 5, b" in text


def shown(table: Table) -> list[list[str]]:
    return [[text for text, _ in cells] for _, cells in table.lines]


MULTIRUN = {
    "hydra": {"runtime": {"choices": {"shots": "5", "matcher": "prototype", "dataset": "synthetic"}}},
    "seed": 0,
    "shots": {"n": 5},
    "matcher": {"_target_": "matchers.Prototype"},
    "dataset": {"_target_": "sets.Synthetic"},
}


def test_runs_that_differ_in_more_than_the_seed_are_never_averaged(runs):
    for dataset in ("fish", "bugs"):
        for seed in (0, 1):
            runs.add(0.5, dataset=dataset, seed=seed)
            runs.add(0.4, dataset=dataset, seed=seed, note=RANDOM)
    found = find_runs([runs.folder])
    assert varying(found) == ["dataset", "seed", "note"]
    with pytest.raises(RefexpError, match="cannot average: runs also differ in note"):
        lay_out(found, "dataset", None, "bbox/nAP")
    parts = dict(split(found, ["shots"]))
    assert sorted(parts) == [f"dataset={name}, note={note}" for name in ("bugs", "fish") for note in (RANDOM, "none")]
    assert all(len(part.frame) == 2 for part in parts.values())
    by_data = lay_out(only(found, note=RANDOM), "shots", "dataset", "bbox/nAP")
    assert not by_data.cells["best"].any()  # of different data none is best
    assert by_data.notes == [RANDOM] and RANDOM in to_latex(by_data)


def test_runs_are_split_by_numbers_in_their_order(runs):
    for shots in (10, 1):
        runs.add(0.5, shots=shots, matcher="a")
        runs.add(None, shots=shots, matcher="b")
    parts = split(find_runs([runs.folder]), ["matcher"])
    assert [name for name, _ in parts] == ["shots=1", "shots=10"]
    assert shown(lay_out(parts[0][1], "matcher", None, "bbox/nAP")) == [["50.0"], ["no value"]]


def test_a_setting_that_differs_along_with_another_is_named(runs):
    for shots, topk in ((1, 100), (5, 50)):
        runs.add(0.5, shots=shots, topk=topk)
    found = find_runs([runs.folder])
    found.frame["overrides"] = found.frame["overrides"].str.replace("topk", "postprocess.topk.k")
    table = lay_out(found, "shots", None, "bbox/nAP")
    assert table.notes == ["postprocess.topk.k differs as well, together with shots or seed."]


def test_a_run_that_is_there_twice_counts_once(runs):
    for value in (0.1, 0.3):
        runs.add(value, seed=0)
    runs.add(0.5, seed=1)
    table = lay_out(find_runs([runs.folder]), "shots", None, "bbox/nAP")
    assert (table.cells["mean"].iloc[0], table.n) == (pytest.approx(0.4), 2)
    assert table.notes == ["1 run repeats the settings and the seed of another run; the later one counts."]


def test_latex_is_escaped(runs):
    for seed in (0, 1):
        for matcher, value in (("soft_merge", 0.5 + 0.2 * seed), (r"50%&\$", 0.5)):
            runs.add(value, matcher=matcher, seed=seed)
    text = to_latex(lay_out(find_runs([runs.folder]), "shots", "matcher", "bbox/nAP"))
    assert r"shots / matcher & 50\%\&\textbackslash{}\$ & soft\_merge \\" in text
    assert r"5 & 50.0 $\pm$ 0.0 & \textbf{60.0 $\pm$ 14.1} \\" in text


def test_lists_as_values(runs):
    """Their brackets end no row of LaTeX, and their commas separate no two values."""
    for matcher, value in (('["a"]', 0.2), ('["a", "b"]', 0.4)):
        runs.add(value, matcher=matcher)
    found = find_runs([runs.folder])
    assert "\n{}" + '["a"] &' in to_latex(lay_out(found, "matcher", None, "bbox/nAP"))
    (table,) = tables_of(runs, Wanted(cols="matcher", compare='["a"],["a", "b"]'))
    assert [line.split(",")[0:2] for line in table.differences] == [['shots=5: ["a"', ' "b"] against ["a"]']]


def test_published_figures_stand_in_columns_of_their_own(runs, tmp_path):
    for shots, value in ((1, 0.2), (30, 0.4), (7, 0.3)):
        runs.add(value, shots=shots, dataset="coco_fsod", protocol="published")
    found = find_runs([runs.folder])
    table = beside(lay_out(found, "shots", None, "bbox/nAP"), read_figures(DEFAULT))
    text = to_markdown(table)
    assert "| shots | box nAP | published, arXiv 2507.02798 (shots) |" in text
    assert "| 1 | 20.0 | 24.5 ± 1.5 |  |" in text and "| 30 | **40.0** | 37.0 ± 0.2 | 36.8 |" in text
    assert "| 7 | 30.0 |  |" in text
    across = beside(lay_out(found, "dataset", "shots", "bbox/nAP"), read_figures(DEFAULT))
    assert list(across.foreign["published, arXiv 2507.02798 (shots), shots=30"].by_row["mean"]) == [0.37]
    with pytest.raises(RefexpError, match="no such file"):
        read_figures(tmp_path / "none.csv")
    (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RefexpError, match="has no column 'table'"):
        read_figures(tmp_path / "wrong.csv")


def test_numbers_of_two_protocols_are_never_averaged(runs):
    """Not even where the seed alone would tell the runs apart."""
    runs.add(0.65, seed=0, protocol="standard")
    runs.add(0.62, seed=1, protocol="published")
    assert varying(find_runs([runs.folder])) == ["protocol"]


def test_a_number_of_an_older_run_has_no_published_figure_beside_it(runs):
    runs.add(0.4, shots=30, dataset="coco_fsod")
    (table,) = tables_of(runs, Wanted())
    assert not table.foreign and "published" not in to_markdown(table)


def test_a_number_by_the_standard_protocol_has_no_published_figure_beside_it(runs):
    runs.add(0.4, shots=30, dataset="coco_fsod", protocol="standard")
    (table,) = tables_of(runs, Wanted())
    assert not table.foreign and "published" not in to_markdown(table)
    runs.add(0.4, shots=30, dataset="coco_fsod", protocol="published")
    (table,) = tables_of(runs, Wanted())
    assert table.rows == "protocol" and [row for row, _ in table.lines] == ["published", "standard"]
    assert set(table.published["row"]) == {"published"}


def test_the_other_protocol_s_number_has_a_table_of_its_own(runs):
    path = runs.add(0.4, shots=30, dataset="coco_fsod", protocol="published") / "metrics.json"
    path.write_text(path.read_text().replace('"bbox/nAP/cat"', '"bbox@standard/nAP": 0.41, "bbox/nAP/cat"'))
    leading, other = tables_of(runs, Wanted())
    assert "box nAP, published protocol in percent" in leading.title and leading.foreign
    assert "box nAP, standard protocol in percent" in other.title and not other.foreign
    assert shown(other) == [["41.0"]]


def test_older_settings_have_today_s_names():
    assert renamed({"evaluation.box_end": "past", "evaluation.kinds": 1}) == {"evaluation.kinds": 1}
    assert renamed({"evaluation.box_end": "last"}) == {"evaluation.protocol": "published"}
    assert renamed({"evaluation.protocol": "foreground"}) == {"evaluation.average": "foreground"}
    assert renamed({"evaluation.protocol": "published"}) == {"evaluation.protocol": "published"}


def test_what_is_published_for_a_data_set_is_shown(runs):
    path = runs.add(0.4, shots=1, dataset="voc_split1", protocol="published") / "metrics.json"
    path.write_text(path.read_text().replace('"bbox/nAP/cat"', '"bbox/nAP50": 0.7, "bbox/nAP/cat"'))
    tables = tables_of(runs, Wanted())
    assert [table.metric for table in tables] == ["bbox/nAP", "bbox/nAP50"]
    assert [len(table.foreign) > 0 for table in tables] == [False, True]


def test_a_class_has_tables_too_whatever_its_name(runs):
    path = runs.add(0.4) / "metrics.json"
    path.write_text(path.read_text().replace('"bbox/nAP/cat": 0.4', '"bbox/nAP/cat/tabby": 0.7'))
    found = find_runs([runs.folder])
    assert (found.metrics, found.class_metrics) == (["bbox/nAP"], ["bbox/nAP/cat/tabby"])
    (table,) = tables_of(runs, Wanted(metric="bbox/nAP/cat/tabby"))
    assert table.headings == ["shots", "box nAP, cat, tabby"] and shown(table) == [["70.0"]]


def test_a_job_that_never_began_is_guessed_from_its_overrides():
    base = {"seed": "0", "shots": "5", "shots.n": "5", "matcher": "prototype", "matcher.k": "1", "store.dir": "s"}
    overrides = ["matcher.k='7'", "matcher=shuffled", "+seed=3", "shots=5", "new=[1,2]", "~store.dir"]
    expected = {"seed": "3", "shots": "5", "shots.n": "5", "matcher": "shuffled", "matcher.k": "7", "new": "[1, 2]"}
    assert guessed_settings(base, overrides) == expected


def test_runs_without_a_note_have_a_file_for_it(runs):
    """Runs of older versions: their numbers must not stand there as if their weights were the published ones."""
    path = runs.add(0.5) / "metrics.json"
    content = json.loads(path.read_text())
    del content["note"]
    path.write_text(json.dumps(content))
    assert list(find_runs([runs.folder]).frame["note"]) == [""]
    runs.write("0/WEIGHTS.txt", RANDOM + "\n")
    assert list(find_runs([runs.folder]).frame["note"]) == [RANDOM]


def test_two_variants_are_paired_by_seed(runs):
    for seed, (one, other) in enumerate([(0.1, 0.3), (0.5, 0.6), (0.9, 0.9)]):
        runs.add(one, matcher="a", seed=seed)
        runs.add(other, matcher="b", seed=seed)
    runs.add(0.0, matcher="b", seed=7)  # no partner
    table = lay_out(find_runs([runs.folder]), "shots", "matcher", "bbox/nAP")
    (found,) = compare(table, "a", "b")
    page = write_sweep_report(runs.folder, summarise([runs.folder], Wanted(rows="shots", cols="matcher")))
    assert f"<li>{found}</li>" in page.read_text()
    assert (found.mean, found.seeds) == (pytest.approx(0.1), ("0", "1", "2"))
    # All three the lowest (or the highest): 1 of 27 means, more than the 2.5 % beyond the interval.
    assert (found.low, found.high) == (pytest.approx(0.0), pytest.approx(0.2))
    assert str(found).startswith("shots=5: b against a, +10.0 points, 95% interval 0.0 to 20.0 (3 seeds; with so few")
    (same,) = compare(table, "a", "a")
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    # Of many draws the interval is that of the normal distribution.
    low, high = bootstrap([math.sin(i) for i in range(2000)])
    assert (low, high) == (pytest.approx(-0.031, abs=0.002), pytest.approx(0.031, abs=0.002))
    assert bootstrap([0.0, 1.0, 2.0]) == bootstrap([0.0, 1.0, 2.0])


def test_the_command_writes_a_row_a_run_and_says_where(runs, capsys):
    for seed in (0, 1):
        for topk in (50, 100):
            runs.add(0.25 + topk / 1000, seed=seed, topk=topk)
    runs.add(None, seed=2, topk=50, state="failed", message="broken")
    assert refexp("summary", runs.folder) == 0
    out = runs.folder / "summary"
    said = capsys.readouterr().out
    assert "5 runs: 4 completed, 1 failed" in said and "#4 failed (seed=2 topk=50): broken" in said and str(out) in said
    rows = pd.read_csv(out / "runs.csv")
    assert list(rows["job"]) == [0, 1, 2, 3, 4] and list(rows["postprocess.topk.k"]) == [50, 100, 50, 100, 50]
    assert list(rows["bbox/nAP"])[:2] == [0.3, 0.35] and "bbox/nAP/cat" not in rows and "store.dir" in rows
    assert "| 50 | 30.0 ± 0.0 |" in (out / "table.md").read_text()
    assert (out / "bbox_nAP.png").stat().st_size and "</svg>" in (out / "bbox_nAP.svg").read_text()
    parquet = pytest.importorskip("pyarrow.parquet")
    assert parquet.read_table(out / "runs.parquet").column_names == list(rows)
    table = (out / "table.md").read_text()
    assert refexp("summary", runs.folder, "--rows", "seed", "--cols", "postprocess.topk.k", "--compare", "50,100") == 0
    other = out / "rows=seed_cols=postprocess.topk.k_compare=50,100/table.md"
    assert "seed=0: 100 against 50, +5.0 points (1 seed: no interval)" in other.read_text()
    assert (out / "table.md").read_text() == table


def test_the_plots_of_a_summary_belong_to_its_table(runs, caplog, monkeypatch):
    def save(figure, path: Path) -> list[Path]:  # drawing takes long
        files = [path.with_name(path.name + ending) for ending in (".png", ".svg")]
        return [file for file in files if not file.write_text("")]

    monkeypatch.setattr("refexp.show.tables.write.save_figure", save)
    monkeypatch.setattr("refexp.show.tables.write.draw_metric", lambda table: None)
    for shots in (1, 5):
        runs.add(0.5, shots=shots)
    out = runs.folder / "summary"
    summarise([runs.folder], Wanted())
    assert {path.name for path in out.glob("*.svg")} == {"bbox_nAP.svg"}
    assert "![](bbox_nAP.png)" in (out / "table.md").read_text()
    (out / "own.png").touch()
    for topk in (50, 100):  # a third setting that differs: a table for each of its values
        for matcher in ("a", "b"):
            runs.add(0.5, matcher=matcher, topk=topk)
    summarise([runs.folder], Wanted())
    assert not (out / "bbox_nAP.png").exists() and (out / "own.png").exists()
    shown = re.findall(r"!\[\]\((.+)\)", (out / "table.md").read_text())
    assert shown and {path.name for path in out.glob("*.png")} == {*shown, "own.png"}
    assert not caplog.text
    summarise([runs.folder], Wanted(out=out))
    assert "the tables that were in" in caplog.text
    for path in runs.folder.glob("*/metrics.json"):
        path.unlink()
    summarise([runs.folder], Wanted())
    assert [path.name for path in out.glob("*.png")] == ["own.png"] and not (out / "table.md").exists()


def test_tables_of_other_folders_have_files_of_their_own(tmp_path):
    assert Wanted().layout([tmp_path]) == ""
    assert Wanted(metric="segm/nAP,segm/nAP50").layout([tmp_path]) == "metric=segm_nAP,segm_nAP50"
    assert Wanted(cols="matcher").layout([tmp_path / "b", tmp_path / "a"]) == "a+b_cols=matcher"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument"),
        (["FOLDER", "--row", "shots"], "Did you mean one of: '--out', '--rows'?"),
        (["FOLDER", "--cols", "matchr"], "Did you mean 'matcher'"),
        (["FOLDER", "--metric", "bbox/nap"], "Did you mean 'bbox/nAP'"),
        (["FOLDER", "--cols", "matcher", "--compare", "prototype,other"], "no run has matcher=other"),
        (["FOLDER/none"], "does not exist"),
        (["FOLDER", "--out", "FOLDER/sweep.json"], "cannot write"),
    ],
)
def test_a_mistake_is_one_line(runs, capsys, arguments, message):
    runs.add(0.5)
    assert refexp("summary", *(argument.replace("FOLDER", str(runs.folder)) for argument in arguments)) in (1, 2)
    assert message in capsys.readouterr().err


def test_nothing_a_summary_does_ends_a_sweep(runs, caplog, capsys):
    runs.add(0.5)
    runs.write("0/metrics.json", "{half")
    summarise_sweep(runs.folder)
    assert "no summary: " in caplog.text and "metrics.json is damaged" in caplog.text
    runs.add(None, state="failed", message="broken")
    shutil.rmtree(runs.folder / "0")
    summarise_sweep(runs.folder)
    assert "no tables: none of these runs has metrics" in capsys.readouterr().out


def test_terminal_file_and_page_have_the_same_tables(runs, capsys):
    for i, (dataset, matcher) in enumerate([("bugs", "a"), ("bugs", "b"), ("fish", "a"), ("fish", "b")]):
        path = runs.add(0.1 * i, dataset=dataset, matcher=matcher) / "metrics.json"
        path.write_text(path.read_text().replace('"bbox/nAP/cat"', '"bbox/nAP50": 0.7, "bbox/nAP/cat"'))
    summarise_sweep(runs.folder)
    expected = [["matcher / dataset", "bugs", "fish"], ["a", "0.0", "20.0"], ["b", "10.0", "30.0"]]
    lines = [line.strip("| ") for line in (runs.folder / "summary/table.md").read_text().splitlines() if "|" in line]
    written = [line.replace("**", "").split(" | ") for line in lines]
    (shown,) = re.findall("<table class=.wide.>.*?</table>", (runs.folder / "report.html").read_text(), re.DOTALL)
    page = [re.findall("<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall("<tr>.*?</tr>", shown)]
    said = [line.strip("┃│ ") for line in capsys.readouterr().out.splitlines() if line.startswith(("┃", "│"))]
    terminal = [re.split(" *[┃│] *", line) for line in said]
    assert page == terminal == written[:1] + written[2:] == expected


def test_a_plot_has_numbers_along_its_axis_and_the_table_keeps_its_order(runs):
    for i, shots in enumerate((1, 10)):
        for matcher in ("a", "b"):
            runs.add(0.1 + 0.2 * i, shots=shots, matcher=matcher, dataset="coco_fsod", protocol="published")
    (table,) = tables_of(runs, Wanted(rows="matcher", cols="shots"))
    assert table.headings[:3] == ["matcher / shots", "1", "10"] and [row for row, _ in table.lines] == ["a", "b"]
    figure = draw_metric(as_drawn(table))
    lines = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines}
    assert lines["a"] == lines["b"] == pytest.approx([10, 30])
    assert (figure.axes[0].get_xlabel(), figure.legends[0].get_title().get_text()) == ("shots", "matcher")
    # The same for both columns, so one line; in the table it is a column for each number of shots.
    assert "published, arXiv 2507.02798 (shots)" in as_drawn(table).foreign
    assert "published, arXiv 2507.02798 (shots), shots=10" in table.foreign


def test_a_plot_shows_what_the_table_says(runs):
    found = grid(runs, {(1, "a"): [0.1, 0.3], (10, "a"): [0.6, 0.6], (1, "b"): [0.2]})
    found.frame["note"] = RANDOM
    found.frame[["protocol", "evaluation.protocol"]] = "published"
    figures = as_figures(pd.DataFrame([["t", "synthetic", "10", "bbox/nAP", "70", "10", "arXiv 1"]], columns=COLUMNS))
    figure = draw_metric(beside(lay_out(found, "shots", "matcher", "bbox/nAP"), figures))
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert list(lines["a"].get_xdata()) == [1, 10] and list(lines["a"].get_ydata()) == pytest.approx([20, 60])
    assert list(lines["b"].get_xdata()) == [1]  # 10 shots of b are missing: no point, no zero
    band = figure.axes[0].collections[0].get_datalim(figure.axes[0].transData)
    assert (band.y0, band.y1) == (pytest.approx(20 - 14.142, abs=1e-3), 60)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "published, arXiv 1 (t)"]
    assert figure.get_suptitle() == RANDOM
    bars = draw_metric(lay_out(found, "matcher", "shots", "bbox/nAP")).axes[0]
    assert [bar.get_height() for bar in bars.patches] == pytest.approx([20, 20, 60, 0])
    assert [text.get_text() for text in bars.texts] == ["no run"]


def test_without_the_scheduler_a_job_that_did_not_end_is_not_called_dead(runs, monkeypatch):
    runs.add(0.5)
    runs.add(None, state="running")
    content = json.loads((runs.folder / "sweep.json").read_text())
    runs.write("sweep.json", json.dumps(content | {"launcher": "slurm"}))
    monkeypatch.setenv("PATH", "")
    assert list(find_runs([runs.folder]).frame["state"]) == ["completed", "waiting"]


def test_folders_of_real_runs_are_understood(folder, tmp_path):
    command = [sys.executable, str(ROOT / "main.py"), "-m", *folder.overrides(), f"store.dir={tmp_path / 'store'}"]
    command += [f"hydra.sweep.dir={tmp_path / 'sweep'}", "vis.limit=0", "runtime.threads=1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    more = ["matcher=prototype,shuffled", "postprocess.topk.k=10,none"]
    subprocess.run([*command, *more], cwd=tmp_path, env=environment, capture_output=True, timeout=300, check=False)
    found = find_runs([tmp_path])
    assert list(found.frame["state"]) == ["completed", "failed"] * 2
    assert list(found.frame["matcher"]) == ["prototype", "prototype", "shuffled", "shuffled"]
    assert varying(found) == ["matcher", "postprocess.topk.k"]
    table = lay_out(found, "postprocess.topk.k", "matcher", "segm/nAP50")
    assert shown(table)[1] == ["failed", "failed"] and list(table.cells["n"]) == [1, 1, 0, 0]
    assert table.cells["mean"].iloc[0] == found.frame["segm/nAP50"].iloc[0]


def test_jobs_in_a_row_are_a_range():
    assert listed(["#0", "#2", "#3", "#5", "#6", "#7", "a/run"]) == "#0, #2, #3, #5 to #7, a/run"
    assert listed([]) == ""
