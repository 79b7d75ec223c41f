"""Which `loss:` sections work."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("text", "what", "words"),
    [
        ("loss: {name: tversky, alpha: 0, beta: 0}", "loss.beta", "no error would count"),
        ("loss: [{name: dice}, {name: focal_tversky, alpha: 0, beta: 0}]", "loss.1.beta", "no error would count"),
        (
            "loss: [{name: boundary_weighted_ce}, {name: dice}, {name: boundary_weighted_ce, sigma: 3}]",
            "loss.2.name",
            "one weight map",
        ),
    ],
)
def test_a_combination_that_cannot_work_is_refused(problems, text, what, words):
    ((found, message),) = problems(text)
    assert found == what
    assert words in message


@pytest.mark.parametrize(
    "text",
    [
        "loss: {name: tversky, alpha: 0}",
        "loss: {name: focal_tversky, beta: 0}",
        "loss: [{name: dice, background: true}, {name: boundary_weighted_ce}, {name: topk_ce, percent: 5}]",
        "loss: [{name: cross_entropy, class_weights: {background: 0.5, liver: 2}, label_smoothing: 0.1}]",
        "labels: {background: 0, whole: [1, 2], core: 2}\n"
        "loss: [{name: dice, batch: true}, {name: bce, class_weights: {core: 2}}]",
        "loss: [{name: dice}, {name: cldice, iterations: 3}, {name: surface}, {name: hausdorff, alpha: 1}]",
    ],
)
def test_what_works_is_taken(problems, text):
    assert problems(text) == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("loss: {name: focal, gamma: -1}", "loss.gamma"),
        ("loss: {name: focal_tversky, gamma: 0.5}", "loss.gamma"),
        ("loss: {name: topk_ce, percent: 0}", "loss.percent"),
        ("loss: {name: topk_ce, percent: 101}", "loss.percent"),
        ("loss: {name: cross_entropy, label_smoothing: 1}", "loss.label_smoothing"),
        ("loss: {name: cross_entropy, class_weights: {liver: 0}}", "loss.class_weights.liver"),
        ("loss: {name: cldice, iterations: 0}", "loss.iterations"),
        ("loss: {name: hausdorff, alpha: 0}", "loss.alpha"),
        ("loss: {name: hausdorff, alpha: 17}", "loss.alpha"),  # no number in float32
        ("loss: {name: bce, positive_weight: 0}", "loss.positive_weight"),
        ("loss: {name: bce, positive_weight: 1.0e+30}", "loss.positive_weight"),
        ("loss: {name: boundary_weighted_ce, sigma: 0}", "loss.sigma"),
        ("loss: {name: dice, weight: 0}", "loss.weight"),
        ("loss: {name: dice, alpha: 0.3}", "loss.alpha"),
        ("loss: {name: lovasz}", "loss.name"),
    ],
)
def test_a_value_out_of_range_is_refused_where_it_stands(problems, text, what):
    assert [found for found, _ in problems(text)] == [what]
