"""How files are named and what colours mean, as the configuration says it."""

from __future__ import annotations

import pytest

from medunet.config.load import parse_config
from medunet.errors import ConfigError

HEAD = "name: t\nlabels: {background: 0, road: 1, car: 2}\n"


def told(text: str, head: str = HEAD) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(head + text)
    return [str(problem).partition(": ")[2] for problem in caught.value.problems]


def test_names_of_files_are_one_text_or_one_per_channel() -> None:
    pairs = parse_config(HEAD + 'data: {pairs: {images: "i/{case}.*", labels: "m/{case}_{label}.png"}}').data.pairs
    assert pairs is not None
    assert pairs.images == ("i/{case}.*",)
    both = parse_config(HEAD + 'data: {pairs: {images: ["r/{case}.png", "g/{case}.png"], labels: "m/{case}.png"}}')
    assert both.data.pairs is not None
    assert both.data.pairs.images == ("r/{case}.png", "g/{case}.png")


def test_runs_are_counted_in_one_of_two_orders() -> None:
    rle = parse_config(HEAD + "data: {rle: {order: rows, unlisted: empty}}").data.rle
    assert (rle.order, rle.unlisted) == ("rows", "empty")
    (problem,) = told("data: {rle: {order: diagonal}}")
    assert problem.startswith("data.rle.order is 'diagonal': must be auto, columns or rows")


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        ("i/*.png", "m/{case}.png", "data.pairs.images is i/*.png: must hold {case} once"),
        ("i/{case}/{case}.png", "m/{case}.png", "must hold {case} once"),
        ("i/{case}.png", "m/x.png", "data.pairs.labels is m/x.png: must hold {case} once"),
        ("i/{case}_{label}.png", "m/{case}.png", "may hold {label} once, in data.pairs.labels only"),
        ("../i/{case}.png", "m/{case}.png", "must stay inside data.root"),
        ("i/{case}.png", "/m/{case}.png", "must stay inside data.root"),
    ],
)
def test_a_name_has_a_place_for_the_case_and_stays_inside(images: str, labels: str, words: str) -> None:
    (problem,) = told(f'data: {{pairs: {{images: "{images}", labels: "{labels}"}}}}')
    assert words in problem.replace("'", "")


def test_a_pattern_of_groups_has_a_place_for_the_group() -> None:
    assert parse_config(HEAD + 'data: {group: "{group}_*"}').data.group == "{group}_*"
    for pattern in ("car_*", "{group}_{group}", ""):
        (problem,) = told(f'data: {{group: "{pattern}"}}')
        assert "must hold {group} once" in problem


def test_the_layout_and_the_names_need_each_other() -> None:
    assert "needs data.pairs, which says how the files are named" in told("data: {format: pairs}")[0]
    both = 'data: {format: csv, pairs: {images: "{case}.png", labels: "{case}_m.png"}}'
    assert "is for data.format: pairs, and the format is csv" in told(both)[0]


@pytest.mark.parametrize("pairs", ["{images: 'i/{case}.png'}", "{labels: 'i/{case}.png'}", "{images: 3, labels: 'a'}"])
def test_half_of_the_names_is_one_problem(pairs: str) -> None:
    (problem,) = told(f"data: {{format: pairs, pairs: {pairs}}}")
    assert problem.startswith("data.pairs.")


def test_a_region_needs_a_label_for_what_is_outside() -> None:
    text = 'data: {pairs: {images: "i/{case}.*", labels: "m/{case}.*", region: "r/{case}.*"}}'
    assert "needs a label for the pixels outside of it" in told(text)[0]
    assert parse_config(HEAD.replace("car: 2", "car: 2, ignore: 9") + text).data.pairs is not None


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("[128, 64, 128]", ("#804080",)),
        ('"#8040FF"', ("#8040ff",)),
        ('["#000001", [0, 0, 2]]', ("#000001", "#000002")),
        ("[[1, 2, 3], [4, 5, 6]]", ("#010203", "#040506")),
    ],
)
def test_colours_are_numbers_or_words(written: str, expected: tuple[str, ...]) -> None:
    assert parse_config(f"{HEAD}data: {{colours: {{road: {written}}}}}").data.colours == {"road": expected}


@pytest.mark.parametrize("written", ["[128, 64]", "[1, 2, 256]", '"#80408"', "red", "7", "[]"])
def test_what_is_no_colour_is_one_problem(written: str) -> None:
    (problem,) = told(f"data: {{colours: {{road: {written}}}}}")
    assert problem.startswith("data.colours.road")


def test_colours_belong_to_one_label_that_exists() -> None:
    found = told('data: {colours: {road: "#010203", car: [1, 2, 3], tree: "#000000"}}')
    assert any("data.colours.car" in line and "is the colour of road too" in line for line in found)
    assert any(
        "data.colours.tree" in line and "is no label; the labels are background, road, car" in line for line in found
    )
