"""FLAN 2021: hold-outs and split rules."""

from __future__ import annotations

import json

import pytest

from ul2tune.instructions.flan import flan2021

CLUSTERS = {
    "paraphrase": ("p1", "p2"),
    "entailment": ("anli_r1", "anli_r2", "rte"),
    "reading_comprehension": ("squad_v1", "shared"),
    "read_comp_and_common_sense": ("record",),
    "common_sense": ("copa", "shared"),
    "math": ("sums",),
}


def test_a_cluster_is_held_out_with_its_relatives_left_out():
    split = flan2021.inter_cluster_split(CLUSTERS, "entailment")
    assert split.test == ("anli_r1", "anli_r2", "rte")
    assert split.train == ("copa", "record", "shared", "squad_v1", "sums")
    assert split.name == "flan_inter_cluster_split_1"
    # A task of two clusters is tested, so it is not trained on.
    common = flan2021.inter_cluster_split(CLUSTERS, "common_sense")
    assert common.train == ("anli_r1", "anli_r2", "p1", "p2", "rte", "squad_v1", "sums")
    both = flan2021.inter_cluster_split(CLUSTERS, "read_comp_and_common_sense")
    assert both.train == ("anli_r1", "anli_r2", "p1", "p2", "rte", "sums")
    with pytest.raises(ValueError, match="no cluster 'poetry'"):
        flan2021.inter_cluster_split(CLUSTERS, "poetry")


def test_one_task_of_every_cluster_is_held_out():
    splits = flan2021.intra_cluster_splits(CLUSTERS)
    assert len(splits) == 10
    assert splits == flan2021.intra_cluster_splits(CLUSTERS)
    for split in splits:
        assert not set(split.train) & set(split.test)
        assert {"sums", "record"} <= set(split.train)  # alone in their clusters
        assert ("anli_r1" in split.test) == ("anli_r2" in split.test)
        assert len({"p1", "p2"} & set(split.test)) == 1
    assert {"p1", "p2"} <= {task for split in splits for task in split.test}


def test_split_rules():
    assert flan2021.split_rules("rte") == {
        "train": "train[:-200]",
        "validation": "train[-200:]",
        "test": "validation",
    }
    assert flan2021.split_rules("wsc")["validation"] == "train[-50:]"
    assert flan2021.split_rules("xsum")["train"] == "train[:30000]"
    assert flan2021.split_rules("my_own")["train"] == "train"


@pytest.mark.parametrize(
    ("task", "train", "validation"),
    [
        ("rte", "train[:-200]", "train[-200:]"),
        ("xsum", "train", "validation"),
        ("squad_v1", "train[:-200]", "train[-200:]"),
        ("story_cloze", "validation[:-200]", "validation[-200:]"),
        ("winogrande", "train_xl[:-200]", "train_xl[-200:]"),
        ("true_case", "train[:30000]", "train[30000:30200]"),
        ("aeslc", "train", "validation[-200:]"),
    ],
)
def test_flan_2022_lifts_the_limit_of_training_rows(task, train, validation):
    rules = flan2021.split_rules(task, capped=False)
    assert (rules["train"], rules["validation"]) == (train, validation)


def test_tasks_share_patterns():
    names = (
        "wmt16_translate_deen",
        "para_crawl_enes",
        "arc_easy",
        "anli_r2",
        "mnli_matched",
        "rte",
    )
    groups = [flan2021.pattern_group(name) for name in names]
    assert groups == ["wmt16_translate", "para_crawl", "arc", "anli", "mnli", "rte"]


def test_a_wrong_file_of_clusters_is_named(tmp_path):
    path = tmp_path / "clusters.json"
    for data, message in (
        ([], "expected a JSON object, got list"),
        ({}, "object of clusters"),
        ({"a": "b"}, "cluster 'a' must be a list"),
    ):
        path.write_text(json.dumps(data))
        with pytest.raises(ValueError, match=message):
            flan2021.load_clusters(path)


def test_the_authors_clusters_and_splits(shared):
    clusters = flan2021.load_clusters(shared / "data" / "flan" / "v1_task_clusters.json")
    assert len(clusters) == 17
    tasks = {task for members in clusters.values() for task in members}
    assert len(tasks) == 69
    assert all("train" in flan2021.split_rules(task) for task in tasks)
    splits = flan2021.intra_cluster_splits(clusters)
    # As computed by the authors' own code.
    assert splits[0].test == (
        "dart", "gigaword", "glue_mrpc", "imdb_reviews", "natural_questions", "openbookqa", "qnli",
        "quac", "record", "story_cloze", "true_case", "winogrande", "wmt16_translate_ruen",
    )  # fmt: skip
    assert {"squad_v1", "squad_v2", "mnli_matched", "mnli_mismatched"} <= set(splits[1].test)
    nli = flan2021.inter_cluster_split(clusters, "entailment")
    assert (len(nli.train), len(nli.test)) == (55, 10)
    reading = flan2021.inter_cluster_split(clusters, "reading_comprehension")
    assert (len(reading.train), len(reading.test)) == (61, 6)
