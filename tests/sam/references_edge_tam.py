"""EdgeTAM to compare ours with: ``transformers``' model with seeded random weights, written as an official checkpoint.

Its trunk, RepViT-M1, is written down here a second time, from the paper and the structure that ``timm`` published,
which itself needs torchvision: functions of the checkpoint's tensors, with batch norms and branches as they were
trained. Pyramid, prompt encoder and mask decoder are those of ``transformers.EdgeTamModel``.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.made_once import made_once
from tests.needs import needs
from tests.sam.references_sam2 import as_official as sam2_as_official

OFFICIAL = "c0b1062a889e1882d6498aaf2744cf01af604b5be022fdaa07dfdeb39eeb521d"
"""SHA-256 of names and shapes that the authors' model, over timm 1.0.31's ``repvit_m1.dist_in1k``, has of what an image
needs (sorted lines of «name [shape]»)."""
TRUNK = "image_encoder.trunk.body."
_WIDTHS, _DEPTHS = (48, 96, 192, 384), (2, 2, 14, 2)


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the trunk's weights, as the authors' checkpoint has them."""
    found: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, out: int, each: int, kernel: int) -> None:
        found[f"{name}.c.weight"] = (out, each, kernel, kernel)
        found.update({f"{name}.bn.{part}": (out,) for part in ("weight", "bias", "running_mean", "running_var")})
        found[f"{name}.bn.num_batches_tracked"] = ()

    def channels(name: str, width: int) -> None:
        convolution(f"{name}.conv1", 2 * width, width, 1)
        convolution(f"{name}.conv2", width, 2 * width, 1)

    def block(name: str, width: int, excite: bool) -> None:
        convolution(f"{name}.token_mixer.conv", width, 1, 3)
        convolution(f"{name}.token_mixer.conv1", width, 1, 1)
        channels(f"{name}.channel_mixer", width)
        if excite:
            inner = {48: 16, 96: 24, 192: 48, 384: 96}[width]
            found.update({f"{name}.se.fc1.weight": (inner, width, 1, 1), f"{name}.se.fc1.bias": (inner,)})
            found.update({f"{name}.se.fc2.weight": (width, inner, 1, 1), f"{name}.se.fc2.bias": (width,)})

    convolution(f"{TRUNK}stem.conv1", 24, 3, 3)
    convolution(f"{TRUNK}stem.conv2", 48, 24, 3)
    for stage, (width, depth) in enumerate(zip(_WIDTHS, _DEPTHS, strict=True)):
        name = f"{TRUNK}stages_{stage}"
        if stage:
            before = _WIDTHS[stage - 1]
            block(f"{name}.downsample.pre_block", before, excite=False)
            convolution(f"{name}.downsample.spatial_downsample", before, 1, 3)
            convolution(f"{name}.downsample.channel_downsample", width, before, 1)
            channels(f"{name}.downsample.ffn", width)
        for i in range(depth):
            block(f"{name}.blocks.{i}", width, excite=i % 2 == 0)
    return found


def trunk(weights: Mapping[str, Any], image: Any) -> list[Any]:
    """Normalised ``[1, 3, 1024, 1024]`` → four levels, the finest first."""
    functional = needs("torch").nn.functional

    def convolved(x: Any, name: str, stride: int = 1) -> Any:
        kernel = weights[f"{name}.c.weight"]
        made = functional.conv2d(x, kernel, None, stride, kernel.shape[-1] // 2, 1, x.shape[1] // kernel.shape[1])
        scale, shift, mean, spread = (
            weights[f"{name}.bn.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (made - mean) / (spread + 1e-5).sqrt() * scale + shift

    def channels(x: Any, name: str) -> Any:
        return x + convolved(functional.gelu(convolved(x, f"{name}.conv1")), f"{name}.conv2")

    def block(x: Any, name: str) -> Any:
        x = convolved(x, f"{name}.token_mixer.conv") + convolved(x, f"{name}.token_mixer.conv1") + x
        if f"{name}.se.fc1.weight" in weights:
            inner = (
                weights[f"{name}.se.fc1.weight"].flatten(1) @ x[0].flatten(1).mean(1) + weights[f"{name}.se.fc1.bias"]
            )
            gate = weights[f"{name}.se.fc2.weight"].flatten(1) @ inner.clamp(min=0) + weights[f"{name}.se.fc2.bias"]
            x = x * (1 / (1 + (-gate).exp())).view(1, -1, 1, 1)
        return channels(x, f"{name}.channel_mixer")

    x = functional.gelu(convolved(image, f"{TRUNK}stem.conv1", 2))
    x = convolved(x, f"{TRUNK}stem.conv2", 2)
    levels = []
    for stage, depth in enumerate(_DEPTHS):
        name = f"{TRUNK}stages_{stage}"
        if stage:
            x = block(x, f"{name}.downsample.pre_block")
            x = convolved(x, f"{name}.downsample.spatial_downsample", 2)
            x = channels(convolved(x, f"{name}.downsample.channel_downsample"), f"{name}.downsample.ffn")
        for i in range(depth):
            x = block(x, f"{name}.blocks.{i}")
        levels.append(x)
    return levels


@functools.cache
def trunk_weights() -> dict[str, Any]:
    """Random weights of the trunk; batch norms with means and spreads as after training.

    What a block adds to its input is smaller than that: drawn as large, numbers would grow a millionfold to the last.
    """
    torch = needs("torch")
    generator = torch.Generator().manual_seed(11)
    drawn = {}
    for name, shape in shapes().items():
        values = torch.randn(shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            drawn[name] = torch.tensor(1000)
        elif name.endswith("running_var"):
            drawn[name] = values.abs() + 0.5
        elif len(shape) == 1:
            added = "token_mixer" in name or "mixer.conv2" in name or "ffn.conv2" in name
            usual = (0.3 if added else 1.0) if name.endswith("bn.weight") else 2.0 if name.endswith("fc2.bias") else 0.0
            drawn[name] = values * 0.1 + usual
        else:
            drawn[name] = values / values[0].numel() ** 0.5
    return drawn


@functools.cache
def edge_tam() -> Any:
    """``transformers``' EdgeTAM over the trunk above, seeded, random where weights start as zeros or ones."""
    torch, transformers = needs("torch"), needs("transformers")
    stand_in = transformers.Sam2HieraDetConfig(
        blocks_per_stage=[1, 1, 1, 1], embed_dim_per_stage=[8, 16, 32, 64], hidden_size=8
    )
    vision = transformers.EdgeTamVisionConfig(backbone_config=stand_in)  # timm's configuration would want timm
    config = transformers.EdgeTamConfig(vision_config=vision)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = transformers.EdgeTamModel(config)
        model.vision_encoder.backbone = _Trunk()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name == "no_memory_embedding" or name.endswith("embed.weight"):
                    weight.normal_(0, 0.5)
                elif weight.dim() == 1:
                    weight.add_(torch.randn_like(weight) * 0.05)
                elif ".neck." in name or ".conv_s" in name:
                    weight.normal_(0, weight[0].numel() ** -0.5)
            positions = model.shared_image_embedding.positional_embedding
            model.prompt_encoder.shared_embedding.positional_embedding.copy_(positions)
    return model.eval()


def _Trunk() -> Any:  # noqa: N802 -- a module, of a library that is imported late
    class Trunk(needs("torch").nn.Module):  # type: ignore[misc]
        def forward(self, image: Any, **_: Any) -> Any:
            return SimpleNamespace(last_hidden_state=trunk(trunk_weights(), image), hidden_states=None)

    return Trunk()


@functools.cache
def weights() -> dict[str, Any]:
    """``edge_tam()`` under the names of the authors' checkpoint, with some that only videos need."""
    torch = needs("torch")
    of_videos = {"spatial_perceiver.latents": torch.zeros(256, 64), "no_mem_pos_enc": torch.zeros(1, 1, 256)}
    return {**sam2_as_official(edge_tam().state_dict()), **trunk_weights(), **of_videos}


def checkpoint() -> Path:
    """``weights()`` as a file of the authors' layout."""
    for name in ("torch", "transformers"):
        needs(name)
    return _checkpoint_edge_tam()[0] / "edgetam_random.pt"


@made_once
def _checkpoint_edge_tam(folder: Path) -> None:
    needs("torch").save({"model": weights()}, folder / "edgetam_random.pt")


def exported_encoder() -> Path:
    """The encoder of ``weights()``, exported. The decoders' graphs are SAM 2's."""
    for name in ("torch", "transformers", "onnx", "onnxscript", "onnxruntime"):
        needs(name)
    return _exported_edge_tam()[0] / "encoder.onnx"


@made_once
def _exported_edge_tam(folder: Path) -> None:
    from labeling_ground.models.export.graphs import plan, write
    from labeling_ground.models.export.run import describe
    from labeling_ground.networks.checkpoint import load

    loaded = load(checkpoint())
    write(plan(loaded)[0], folder, describe(loaded, "edge-tam-random"))
