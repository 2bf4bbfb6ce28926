"""The page as a whole."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.compute as pc
import pytest

from affinity_service.affinity.matrix import AffinityMatrix
from affinity_service.artifacts import StudyFolder
from affinity_service.errors import UserError
from affinity_service.report import write_report
from affinity_service.report.wording import decimals_for, signed
from affinity_service.tables import read_table, write_table

WriteStudy = Callable[..., StudyFolder]
Complete = tuple[StudyFolder, str]
SECTIONS = ("groups", "heatmap", "pairs", "fidelity", "outcomes", "base_model", "cost", "data", "making")


def page_of(folder: StudyFolder) -> str:
    write_report(folder)
    return folder.read_bytes("report/index.html").decode()


def text_of(page: str) -> str:
    """What a reader sees, on one line."""
    body = page[page.index("<body") :]
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def section(page: str, key: str) -> str:
    found = re.search(rf'<section id="{key}".*?</section>', page, flags=re.DOTALL)
    assert found is not None
    return found[0]


def test_complete_study_has_every_section_and_the_right_numbers(complete: Complete) -> None:
    folder, page = complete
    text = text_of(page)
    assert [key for key in SECTIONS if f'<section id="{key}"' in page] == list(SECTIONS)
    assert "makes this section" not in text
    assert "6 tasks" in text
    assert "81 subsets" in text
    assert "2 groups" in text
    assert "(1 more left out" in text
    assert "too rare : 3 positives and 197 negatives" in text
    assert "better than joint training, single-task training and random groups" in text
    # The largest gain in the matrix stands in its heatmap and heads the pairs.
    matrix = AffinityMatrix.from_table(
        read_table(folder, "affinity/matrix.parquet"), ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
    )
    largest = matrix.gains().max()
    assert f">{signed(largest, decimals_for([abs(matrix.gains()).max()], 2))}</text>" in section(page, "heatmap")
    assert "best epoch was 11 of 15" in text
    assert "commit abc123" in text
    assert "group_models" in section(page, "cost")


def test_wording_flips_with_the_sign(study: WriteStudy) -> None:
    text = text_of(page_of(study(lead=-0.02)))
    assert "worse than joint training, single-task training and random groups" in text
    assert "better than joint" not in text
    assert "0 better in the groups, 6 worse" in text
    assert "For 2 groups the training contradicts the estimated gain" in text


def test_no_claim_where_the_interval_includes_zero(study: WriteStudy) -> None:
    text = text_of(page_of(study(lead=0.0)))
    assert "not clearly different from joint training and random groups" in text
    assert "No clear difference from joint training" in text


def test_one_seed_gives_no_interval(study: WriteStudy) -> None:
    page = page_of(study(seeds=1))
    assert "one seed gives no interval" in text_of(page)
    assert "nan" not in text_of(page).lower()


def test_hostile_names_are_escaped(study: WriteStudy) -> None:
    names = ["<script>alert(1)</script>", 'a & "b"', "it's $\\frac{1}$", "任务 🎉", "\u202eright", "x" * 3000]
    page = page_of(study(names=names))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "a &amp; &#34;b&#34;" in page
    assert "任务 🎉" in page
    assert "$\\frac{1}$" in section(page, "heatmap")
    assert page.count("x" * 3000) == page.count(f'title="{"x" * 3000}"')


def test_nothing_is_fetched_and_nothing_runs(complete: Complete) -> None:
    page = complete[1]
    assert not re.search(r"https?:|url\((?!#)|@import|<script|<link|<iframe", page)
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'\bsrc="([^"]*)', page))
    links = re.findall(r'\bhref="([^"]*)', page)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert "default-src 'none'" in page


def test_ids_are_unique_and_references_resolve(complete: Complete) -> None:
    page = complete[1]
    ids = re.findall(r'\sid="([^"]+)"', page)
    used = set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
    assert used <= set(ids)
    anchors = [key for key in ids if key in SECTIONS or key.endswith("-title")]
    assert len(anchors) == len(set(anchors))


def test_the_same_study_gives_the_same_bytes(complete: Complete) -> None:
    folder, page = complete
    assert page_of(folder) == page


@pytest.mark.parametrize(
    ("until", "missing"),
    [
        ("nothing", {"groups", "heatmap", "pairs", "fidelity", "outcomes", "base_model", "cost"}),
        ("base_model", {"groups", "heatmap", "pairs", "fidelity", "outcomes"}),
        ("affinity", {"groups", "outcomes"}),
        ("groups", {"outcomes"}),
    ],
)
def test_missing_stages_leave_the_rest_standing(study: WriteStudy, until: str, missing: set[str]) -> None:
    page = page_of(study(until=until))
    assert {key for key in SECTIONS if "makes this section" in section(page, key)} == missing
    assert "affinity train-groups STUDY" in section(page, "outcomes")


def test_results_of_earlier_groups_are_not_shown(study: WriteStudy) -> None:
    folder = study()
    stored = folder.read_json("groups.json")
    folder.write_json("groups.json", {**stored, "groups": [["alpha", "zeta"], ["beta", "gamma", "delta", "epsilon"]]})
    text = text_of(page_of(folder))
    assert "The trained models belong to an earlier grouping." in text
    assert "better than joint" not in text


def test_an_unfinished_stage_is_announced(study: WriteStudy) -> None:
    folder = study()
    folder.begin("fits", "other", [])
    folder.begin("report", "f", [])
    text = text_of(page_of(folder))
    assert "Not finished. The stage fits has begun and not ended" in text


def test_without_test_labels_the_validation_loss_is_judged(study: WriteStudy) -> None:
    folder = study()
    table = read_table(folder, "group_models/results.parquet")
    index = table.column_names.index("test_loss")
    nothing = pc.if_else(True, None, table["test_loss"])
    write_table(folder, "group_models/results.parquet", table.set_column(index, "test_loss", nothing))
    text = text_of(page_of(folder))
    assert "judged on validation loss" in text
    assert "Test loss of every task" not in text


@pytest.mark.parametrize("names", [["only"], ["one", "two"], ["one", "two", "three"]])
def test_few_tasks(study: WriteStudy, names: list[str]) -> None:
    text = text_of(page_of(study(names=names, k=1)))
    assert ("A single task has no partners." in text) == (len(names) == 1)


def test_two_hundred_tasks(study: WriteStudy) -> None:
    names = [f"task {i}" for i in range(200)]
    page = page_of(study(names=names, k=10, single_tasks=20, seeds=2))
    assert "Compared on the 20 tasks that were trained alone." in text_of(page)
    assert "There are too many tasks to name" in page
    assert len(page) < 1_000_000


def test_thirteen_tasks_stay_small(study: WriteStudy) -> None:
    assert len(page_of(study(names=[f"label_{i}" for i in range(13)], k=4))) < 300_000


def test_no_study_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.yaml is missing"):
        write_report(StudyFolder.at(tmp_path))


def test_the_report_needs_no_cluster_and_no_torch() -> None:
    code = "import sys, affinity_service.report; print(sorted({'ray', 'deepspeed', 'torch'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_fidelity_of_other_estimates_is_not_shown(study: WriteStudy) -> None:
    folder = study()
    shown = text_of("<body" + section(page_of(folder), "fidelity"))
    for words in ("6 subsets were truly fine-tuned", "0.0030 off", "Spearman", "91.0 %"):
        assert words in shown
    folder.write_json("fidelity.json", {**folder.read_json("fidelity.json"), "fits": "of another run"})
    shown = text_of("<body" + section(page_of(folder), "fidelity"))
    assert "affinity validate STUDY" in shown
    assert "Spearman" not in shown


def test_probes_that_mislead_are_said_in_bold(study: WriteStudy) -> None:
    folder = study()
    content = folder.read_json("fits/calibration.json")
    folder.write_json("fits/calibration.json", {**content, "residual": 0.02})
    assert "do not act on these affinities" in section(page_of(folder), "fidelity")


def test_a_correction_of_predictions_is_said(study: WriteStudy) -> None:
    folder = study()
    assert "is taken off all predictions" not in section(page_of(folder), "fidelity")
    content = folder.read_json("fits/calibration.json")
    correction = {"offsets": [0.1] * 5, "of_share": 0.0, "shares": [0.2, 0.3, 0.5]}
    folder.write_json("fits/calibration.json", {**content, "correction": correction})
    assert "is taken off all predictions" in section(page_of(folder), "fidelity")


def test_the_answer_says_whether_subsets_were_estimated_or_trained(study: WriteStudy) -> None:
    folder = study()
    assert "6 more were truly fine-tuned to check" in text_of(page_of(folder))
    config = folder.read_bytes("config.yaml").decode().replace("estimator: linearized", "estimator: auto")
    folder.write_bytes("config.yaml", config.encode())
    folder.write_json("fits/estimator.json", {"estimator": "trained"})
    assert "One base model was fine-tuned on each of" in text_of(page_of(folder))
