"""Combinations of keys that cannot work, and those that can."""

from __future__ import annotations

import pytest

from medunet.config.load import parse_config
from medunet.config.rules import findings

LABELS = "{background: 0, liver: 1, spleen: 2}"


@pytest.mark.parametrize(
    ("text", "what", "words"),
    [
        ("name: a/b", "name", "slashes"),
        ("name: ' a'", "name", "spaces"),
        ('name: "a\\nb"', "name", "line breaks"),
        ("data: {fold: 5}", "data.fold", "less than data.folds, which is 5"),
        ("data: {folds: 2, fold: 3}", "data.fold", "counted from 0"),
        ("preprocess: {orientation: RLS}", "preprocess.orientation", "each axis once"),
        ("preprocess: {orientation: RA}", "preprocess.orientation", "network.dims is 3"),
        (
            "preprocess: {orientation: RS}\nnetwork: {dims: 2}\ntrain: {patch_size: [64, 64]}",
            "preprocess.orientation",
            "each axis once",
        ),
        ("preprocess: {spacing: [1, 1]}", "preprocess.spacing", "needs 3"),
        (
            "preprocess: {spacing: [1]}\nnetwork: {dims: 2}\ntrain: {patch_size: [64, 64]}",
            "preprocess.spacing",
            "needs 2 or 3",
        ),
        ("preprocess: {intensity: [{name: zscore}, {name: none}]}", "preprocess.intensity", "one per channel"),
        ("preprocess: {intensity: {name: ct_window, low: 5, high: 5}}", "preprocess.intensity.low", "less than high"),
        ("preprocess: {intensity: [{name: percentile, low: 99.9}]}", "preprocess.intensity.0.low", "less than high"),
        ("data: {modality: [MRI]}\npreprocess: {intensity: {name: ct_window}}", "preprocess.intensity", "for CT"),
        ("preprocess: {intensity: {name: imagenet}}", "preprocess.intensity", "for pictures"),
        ("preprocess: {intensity: [{name: fixed, scale: 0}]}", "preprocess.intensity.0.scale", "greater than 0"),
        ("network: {strides: [1, 2]}", "network.strides", "needs 5"),
        ("network: {kernel_size: [3, 3]}", "network.kernel_size", "needs 5"),
        ("network: {blocks: [1, 2, 3]}", "network.blocks", "needs 5"),
        ("network: {decoder_blocks: [1, 1, 1, 1, 1]}", "network.decoder_blocks", "needs 4: one fewer"),
        ("network: {strides: [1, [2, 2], 2, 2, 2]}", "network.strides.1", "network.dims is 3"),
        ("network: {kernel_size: [3, [3, 3], 3, 3, 3]}", "network.kernel_size.1", "network.dims is 3"),
        ("network: {strides: [2, 2, 2, 2, 2]}", "network.strides.0", "must be 1"),
        ("network: {kernel_size: 4}", "network.kernel_size", "odd"),
        ("network: {kernel_size: [[3, 3, 2], 3, 3, 3, 3]}", "network.kernel_size", "odd"),
        ("network: {norm: group, channels: [12, 24, 48]}", "network.channels", "multiples of 8"),
        ("train: {patch_size: [64, 64]}", "train.patch_size", "network.dims is 3"),
        ("network: {dims: 2}", "train.patch_size", "network.dims is 2"),
        ("train: {patch_size: [100, 128, 96]}", "train.patch_size", "Nearest is [96, 128, 96]"),
        ("train: {patch_size: [3, 128, 96]}", "train.patch_size", "Nearest is [16, 128, 96]"),
        ("train: {patch_size: [16, 16, 16]}", "train.patch_size", "single voxel"),
        (
            "network: {norm: batch}\ntrain: {patch_size: [16, 16, 16], batch_size: 1}",
            "train.patch_size",
            "single voxel",
        ),
        (
            "augment: {mirror_axes: [2]}\nnetwork: {dims: 2}\ntrain: {patch_size: [64, 64]}",
            "augment.mirror_axes",
            "from 0 to 1",
        ),
        ("augment: {mirror_axes: [1, 1]}", "augment.mirror_axes", "twice"),
        ("augment: {scale_range: [1.4, 0.7]}", "augment.scale_range", "Write [0.7, 1.4]"),
        (
            "preprocess: {size: [64, 64], spacing: [1, 1]}\nnetwork: {dims: 2}\ntrain: {patch_size: [64, 64]}",
            "preprocess.size",
            "cannot stand beside preprocess.spacing",
        ),
        ("preprocess: {size: [64, 64]}", "preprocess.size", "for a network with dims: 2"),
        ("preprocess: {neighbours: 1}", "preprocess.neighbours", "slice by slice"),
        ("augment: {preset: none}\ninference: {tta: true}", "inference.tta", "mirrors no axis"),
        ("augment: {mirror_axes: []}\ninference: {tta: true}", "inference.tta", "mirrors no axis"),
        ("train: {budget: 0.0h}", "train.budget", "more than no time"),
        ("train: {optimizer: {name: sgd, momentum: 0}}", "train.optimizer.nesterov", "momentum greater than 0"),
        ("train: {save_every: 0 s}", "train.save_every", "more than no time"),
        ("logging: {monitor: 0.0min}", "logging.monitor", "more than no time"),
        ("train: {accumulate: 3}", "train.accumulate", "cannot be more than train.batch_size, which is 2"),
        ("validate: {metric: dise}", "validate.metric", "Did you mean"),
        ("validate: {metric: dice/background}", "validate.metric", "dice/liver, dice/spleen"),
        ("train: {early_stop: {metric: dice/livr}}", "train.early_stop.metric", 'Did you mean "dice/liver"?'),
        ("train: {schedule: {name: plateau, metric: val_loss}}", "train.schedule.metric", "validation_loss"),
        (
            "network: {norm: batch}\ntrain: {patch_size: [16, 16, 16], batch_size: 3, accumulate: 2}",
            "train.patch_size",
            "single voxel",
        ),
        (
            "network: {name: efficient_unet, dims: 2, encoder_weights: w.pt}\n"
            "train: {patch_size: [64, 64], start_from: runs/other}",
            "train.start_from",
            "network.encoder_weights",
        ),
        ("loss: {name: tversky, alpha: 0, beta: 0}", "loss.beta", "cannot both be 0"),
        ("loss: [{name: tversky, alpha: 0, beta: 0}]", "loss.0.beta", "cannot both be 0"),
    ],
)
def test_a_combination_that_cannot_work_is_one_problem(problems, text, what, words):
    ((found, message),) = problems(text)
    assert found == what
    assert words in message


@pytest.mark.parametrize(
    "text",
    [
        "data: {folds: 2, fold: 1}",
        "preprocess: {orientation: LPI, spacing: [1, 1, 5]}",
        "preprocess: {orientation: AR, spacing: [1, 1]}\nnetwork: {dims: 2}\ntrain: {patch_size: [64, 64]}",
        "preprocess: {size: [64, 48]}\nnetwork: {dims: 2}\ntrain: {patch_size: [64, 64]}\naugment: {preset: photo}",
        "preprocess: {spacing: [1, 1]}\nnetwork: {dims: 2}\ntrain: {patch_size: [64, 64]}",
        "preprocess: {spacing: [1, 1, 3]}\nnetwork: {dims: 2}\ntrain: {patch_size: [64, 64]}",
        "data: {modality: [T1, CT]}\npreprocess: {intensity: [{name: zscore}, {name: ct_window}]}",
        "data: {modality: [T1, T2]}\npreprocess: {intensity: {name: percentile}}",
        "network: {strides: [1, [2, 2, 1], 2, 2, 2], kernel_size: [[3, 3, 1], 3, 3, 3, 3], blocks: [1, 1, 2, 2, 2]}",
        "network: {decoder_blocks: [1, 1, 1, 2]}",
        "network: {norm: group, channels: [8, 16, 24, 32, 64]}",
        "network: {norm: none, channels: [8, 16, 32]}\ntrain: {patch_size: [4, 4, 4]}",
        "network: {norm: batch, channels: [8, 16, 32]}\ntrain: {patch_size: [4, 4, 4]}",
        "augment: {preset: none, mirror_axes: [0]}\ninference: {tta: true}",
        "train: {optimizer: {name: sgd, momentum: 0, nesterov: false}, budget: 1.5 h}",
        "train: {schedule: {name: plateau, metric: dice/spleen}, early_stop: {metric: loss}, ema: 0.999}",
        "train: {schedule: {name: one_cycle}, optimizer: {name: novograd}, accumulate: 2, save_every: null}",
        "train: {freeze: {layers: encoder*, epochs: 3}, start_from: runs/other, early_stop: {}}",
        "validate: {metric: validation_loss}",
        "loss: {name: tversky, alpha: 0}",
    ],
)
def test_unusual_combinations_that_work_are_let_through(problems, text):
    assert problems(text) == []


def test_rules_hold_for_a_config_made_in_python_too():
    config = parse_config(f"name: t\nlabels: {LABELS}")
    assert findings(config) == []
    broken = config.model_copy(update={"labels": {"background": 0}})
    assert [finding.keys for finding in findings(broken)] == [(("labels",),)]
