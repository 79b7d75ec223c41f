"""What every network of the table keeps, whoever wrote it: one test per promise, run over the whole table.

A new row is tested as soon as it has an entry in `TINY`.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import safetensors.torch
import torch
from pydantic import TypeAdapter
from torch import Tensor

from medunet.config.network_options import NetworkOptions
from medunet.config.networks import NetworkConfig, UNetConfig
from medunet.config.schema import Config
from medunet.errors import DataError
from medunet.model import load_model, save_model
from medunet.networks.contract import Network
from medunet.networks.forecast import Work, forecast
from medunet.networks.recompute import recompute_stages
from medunet.networks.registry import NETWORKS, build_network

TINY: dict[str, dict[str, Any]] = {
    "unet": {"channels": (4, 8, 8)},
    "unet2015": {"channels": (4, 8)},
    "attention_unet": {"channels": (4, 8, 8)},
    "residual_unet": {"channels": (4, 8, 8)},
    "unetpp": {"channels": (4, 4, 8, 8, 8)},
    "efficient_unet": {"backbone": "b0", "decoder_channels": (8, 8, 8, 4, 4)},
    "segresnet": {"filters": 4, "blocks": (1, 1, 1)},
    "dynunet": {"channels": (4, 8, 8)},
    "vnet": {},
    "swin_unetr": {"feature_size": 12},
    "mednext": {},
}
"""Options that make each network small; the rest is as by default."""

IN, OUT = 2, 3
CHANNELS = {2: ((1, 2), (2, 3), (3, 4), (4, 2), (5, 3)), 3: ((5, 4),)}
"""Image channels and labels that are tried, by rank."""


def ranks(name: str) -> tuple[int, ...]:
    return get_args(NETWORKS[name].options.model_fields["dims"].annotation)


def config_of(name: str, dims: int, **options: Any) -> NetworkOptions:
    return NETWORKS[name].options.model_validate({"name": name, "dims": dims, **TINY[name], **options})


def build(config: Any, in_channels: int = IN, out_channels: int = OUT, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return build_network(config, in_channels, out_channels)


def image_of(config: NetworkOptions, batch: int = 1, channels: int = IN, size: tuple[int, ...] = ()) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, *(size or config.minimum_size), generator=generator)


def infer(network: torch.nn.Module, image: Tensor) -> Tensor:
    network.eval()
    with torch.no_grad():
        logits = network(image)
    assert isinstance(logits, Tensor)
    return logits


def loss_of(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    """A number that depends on every voxel of every output."""
    return torch.stack([(output * torch.randn_like(output)).sum() for output in as_tuple(outputs)]).sum()


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else outputs


@dataclass(frozen=True)
class Case:
    """One network, the smallest image and its logits in evaluation mode; tests leave all three as they are."""

    name: str
    config: NetworkOptions
    network: Network
    image: Tensor
    logits: Tensor


CASES = [(name, dims) for name in NETWORKS for dims in ranks(name)]
FLAT = [(name, dims) for name, dims in CASES if dims == 2]


@pytest.fixture(scope="module", params=CASES, ids=[f"{name} {dims}D" for name, dims in CASES])
def case(request: pytest.FixtureRequest) -> Case:
    name, dims = request.param
    config = config_of(name, dims)
    network = build(config)
    image = image_of(config)
    return Case(name, config, network, image, infer(network, image))


@pytest.fixture
def trained(case: Case) -> Network:
    """A copy of the network in training mode."""
    return copy.deepcopy(case.network).train()


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def ample_size(config: NetworkOptions) -> tuple[int, ...]:
    """Leaves four voxels or more at the deepest level. Two, normalised, are 1 and -1, whatever they were."""
    steps = (2, 2) if config.dims == 2 else (1, 1, 0)
    return tuple(least + k * step for least, step, k in zip(config.minimum_size, config.stride, steps, strict=True))


def odd_size(config: NetworkOptions) -> tuple[int, ...]:
    """One voxel above the smallest size on the first axis, one below on the second, a few on the last."""
    above, below, *rest = config.minimum_size
    return (above + 1, max(1, below - 1), *(5 for _ in rest))


def test_every_network_of_the_table_is_tested() -> None:
    assert set(TINY) == set(NETWORKS)
    assert len(CASES) == sum(len(ranks(name)) for name in NETWORKS) >= 2 * 11


def test_the_table_the_config_and_its_schema_name_the_same_networks() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(NetworkConfig)
    schema = adapter.json_schema()
    names = [schema["$defs"][entry["$ref"].split("/")[-1]]["properties"]["name"]["const"] for entry in schema["oneOf"]]
    assert sorted(names) == sorted(NETWORKS)
    for name, row in NETWORKS.items():
        assert type(adapter.validate_python({"name": name})) is row.options
        assert row.source


class Seen(Exception):
    """The network was given its image; that is all a test wants to know."""


def size_seen(network: Network, image: Tensor) -> tuple[int, ...]:
    """The size that `outputs` gets of an image."""

    def look(x: Tensor) -> tuple[Tensor, ...]:
        raise Seen(tuple(x.shape[2:]))

    network.outputs = look  # type: ignore[method-assign]
    with pytest.raises(Seen) as caught:
        network.interior(image)
    size: tuple[int, ...] = caught.value.args[0]
    return size


@pytest.mark.parametrize("training", [False, True])
def test_a_size_that_fits_is_computed_as_it_is(case: Case, training: bool) -> None:
    """All but a single voxel at the deepest level, where the norm needs a second one."""
    config, network = case.config, copy.deepcopy(case.network).train(training)
    assert config.fits(config.minimum_size)
    counts = []
    for steps, batch in itertools.product(itertools.product((0, 1, 2), repeat=config.dims), (1, 2)):
        sizes = zip(config.minimum_size, config.stride, steps, strict=True)
        size = tuple(least + step * k for least, step, k in sizes)
        assert config.fits(size)
        seen = size_seen(network, torch.zeros(batch, IN, *size))
        alone = config.leaves_one_value(size, batch) and (training or config.normalisation != "batch")
        assert seen == ((*size[:-1], size[-1] + config.stride[-1]) if alone else size)
        counts.append(alone)
    assert sum(counts) <= 2


def test_in_evaluation_mode_one_tensor_has_the_size_of_the_image(case: Case) -> None:
    assert case.logits.shape == (1, OUT, *case.image.shape[2:])
    size = odd_size(case.config)
    logits = infer(case.network, image_of(case.config, size=size))
    assert logits.shape == (1, OUT, *size)
    assert torch.isfinite(logits).all()


def test_in_training_mode_the_finest_output_comes_first(case: Case, trained: Network) -> None:
    size = odd_size(case.config)
    with torch.no_grad():
        result = trained(image_of(case.config, size=size))
    assert isinstance(result, Tensor) == (trained.training_outputs == 1)
    outputs = as_tuple(result)
    assert len(outputs) == trained.training_outputs
    if not any(trained.margin):
        assert outputs[0].shape[2:] == size
    for finer, coarser in itertools.pairwise(outputs):
        assert all(a >= b >= 1 for a, b in zip(finer.shape[2:], coarser.shape[2:], strict=True))
    assert all(output.shape[:2] == (1, OUT) for output in outputs)


def test_the_smallest_patch_can_be_trained_on(case: Case, trained: Network) -> None:
    with torch.no_grad():
        outputs = as_tuple(trained(image_of(case.config, batch=2)))
    margin = case.config.margin
    assert outputs[0].shape == (2, OUT, *(n - 2 * m for n, m in zip(case.config.minimum_size, margin, strict=True)))
    assert all(torch.isfinite(output).all() for output in outputs)


def test_gradients_reach_every_parameter(case: Case, trained: Network) -> None:
    """What is dropped at random in one step is reached in another. Only a bias may be without effect: a norm after it
    takes every constant away."""
    for parameter in trained.parameters():
        if parameter.ndim == 1:  # a norm that starts at zero lets nothing through
            parameter.data += 0.1 * torch.randn_like(parameter)
    image = image_of(case.config, size=ample_size(case.config))
    for _ in range(5):
        loss_of(trained(image)).backward()
        idle = idle_parameters(trained)
        if not idle:
            break
    assert idle == []
    copy.deepcopy(trained)  # as for a moving average of the weights: no result of the step is left in the network


def idle_parameters(network: torch.nn.Module) -> list[str]:
    """Names of those without gradient; of biases only those that are in no result at all."""
    slopes: dict[str, float] = {}
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        slopes[name] = parameter.grad.abs().max().item()
    least = 1e-6 * max(slopes.values())
    return [name for name, slope in slopes.items() if slope < least and not name.endswith("bias")]


def test_any_number_of_channels_goes_in_and_out(case: Case) -> None:
    for in_channels, out_channels in CHANNELS[case.config.dims]:
        network = build(case.config, in_channels, out_channels)
        logits = infer(network, image_of(case.config, channels=in_channels))
        assert logits.shape == (1, out_channels, *case.image.shape[2:])


def test_bfloat16_gives_nearly_the_same_logits(case: Case) -> None:
    """Each rounding to bfloat16 is off by up to 2^-9. In some 50 of them in a row, as here, independent ones add up to
    sqrt(50) * 2^-9 = 1.4 %, of which three times is allowed."""
    image = image_of(case.config, size=ample_size(case.config))
    exact = infer(case.network, image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = infer(case.network, image).float()
    error = (logits - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert 0 < error < 0.042


def test_the_memory_order_changes_nothing(case: Case) -> None:
    """The engines keep image and weights in the order channels last."""
    order = torch.channels_last if case.config.dims == 2 else torch.channels_last_3d
    network = copy.deepcopy(case.network).to(memory_format=order)
    logits = infer(network, case.image.to(memory_format=order))
    torch.testing.assert_close(logits, case.logits, atol=1e-4, rtol=1e-4)


def test_saved_weights_give_the_same_logits_in_another_network(case: Case) -> None:
    data = safetensors.torch.save(case.network.state_dict())
    other = build(case.config, seed=1)
    assert not torch.equal(infer(other, case.image), case.logits)
    other.load_state_dict(safetensors.torch.load(data))
    assert torch.equal(infer(other, case.image), case.logits)


@pytest.mark.parametrize(("name", "dims"), FLAT, ids=[name for name, _ in FLAT])
def test_a_model_folder_gives_the_same_logits(name: str, dims: int, tmp_path: Path) -> None:
    options = config_of(name, dims)
    config = Config.model_validate(
        {
            "name": name,
            "labels": {"background": 0, "liver": 1, "lesion": 2},
            "data": {"modality": ("T1", "T2")},
            "network": options.model_dump(),
            "train": {"patch_size": options.minimum_size},
        }
    )
    network = build(config.network)
    folder = save_model(tmp_path / "model", config, network.state_dict(), {})
    image = image_of(options)
    assert torch.equal(infer(load_model(folder).build(), image), infer(network, image))


@pytest.mark.parametrize(
    "case",
    [
        pytest.param((name, dims), id=f"{name} {dims}D", marks=[pytest.mark.slow] * (dims == 3))
        for name, dims in CASES
        if NETWORKS[name].export
    ],
    indirect=True,
)
def test_an_exported_network_gives_the_same_logits(case: Case) -> None:
    """Tracing takes seconds; in 3D it goes through the same lines as in 2D."""
    with torch.no_grad():
        program = torch.export.export(case.network.eval(), (case.image,), strict=False)
        logits = program.module()(case.image)
    torch.testing.assert_close(logits, case.logits, atol=1e-4, rtol=1e-4)


def test_equal_seeds_give_equal_weights_and_equal_steps(case: Case, deterministic: None) -> None:
    def step() -> dict[str, Tensor]:
        network = build(case.config).train()
        outputs = as_tuple(network(case.image))
        loss_of(outputs).backward()
        torch.optim.SGD(network.parameters(), lr=1e-3).step()
        return {**network.state_dict(), **{f"output {index}": output for index, output in enumerate(outputs)}}

    first, second = step(), step()
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_activations_that_are_computed_again_change_no_number(case: Case) -> None:
    """Outputs and random numbers are the same; sums of gradients may be added up in another order."""
    image = image_of(case.config, batch=2)

    def step(recompute: bool) -> tuple[Any, ...]:
        network = copy.deepcopy(case.network)
        if recompute:
            recompute_stages(network)
        torch.manual_seed(1)
        outputs = as_tuple(network.train()(image))
        loss_of(outputs).backward()
        gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
        return outputs, gradients, dict(network.named_buffers()), torch.rand(1), network.state_dict().keys()

    expected, found = step(recompute=False), step(recompute=True)
    assert all(torch.equal(one, two) for one, two in zip(expected[0], found[0], strict=True))
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[2], expected[2], rtol=0, atol=0)
    assert torch.equal(expected[3], found[3])
    assert expected[4] == found[4]


@pytest.mark.parametrize("name", NETWORKS)
def test_activations_that_are_computed_again_need_no_memory(name: str) -> None:
    config = config_of(name, 2)
    size = config.padded((128, 128))
    plain, again = (
        forecast(config, 1, 3, Work(size=size, batch=4, training=True, recompute=wish)).tensor_bytes
        for wish in (False, True)
    )
    assert again < 0.9 * plain


def test_other_channels_or_axes_are_refused(case: Case) -> None:
    size = case.image.shape[2:]
    wrong = {
        "channels": torch.zeros(1, IN + 1, *size),
        "no batch": torch.zeros(IN, *size),
        "one axis more": torch.zeros(1, IN, *size, 1),
    }
    for image in wrong.values():
        with pytest.raises(DataError) as caught:
            case.network(image)
        assert f"{IN} channels" in caught.value.message
        assert str(tuple(image.shape)) in caught.value.message
        assert caught.value.hint


@pytest.mark.parametrize("dims", [2, 3])
def test_an_odd_size_is_padded_with_its_edge_at_the_end_and_cropped_back(dims: int) -> None:
    network = build(UNetConfig(dims=dims, channels=(4, 8, 8)))
    image = image_of(UNetConfig(dims=dims), size=(5, 6, 7)[:dims])
    padded = image
    for axis, missing in zip(range(2, dims + 2), (3, 2, 1), strict=False):
        edge = padded.narrow(axis, padded.shape[axis] - 1, 1)
        padded = torch.cat((padded, *[edge] * missing), dim=axis)
    kept = tuple(slice(n) for n in image.shape[2:])
    torch.testing.assert_close(infer(network, image), infer(network, padded)[(slice(None), slice(None), *kept)])
