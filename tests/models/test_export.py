"""Official checkpoints in, verified ONNX files out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.needs import needs
from tests.sam.references import exported, mobile, sam, segment_anything

from labeling_ground.errors import BackendFailed, BadInput
from labeling_ground.networks.layout import copies, rename, rename_all
from labeling_ground.sam.preprocess import PREPROCESSING_VERSION


def test_names_follow_the_table() -> None:
    assert rename("image_encoder.blocks.3.norm1.weight") == "vision_encoder.layers.3.layer_norm1.weight"
    assert rename("image_encoder.neck.3.bias") == "vision_encoder.neck.layer_norm2.bias"
    assert rename("mask_decoder.output_upscaling.3.weight") == "mask_decoder.upscale_conv2.weight"
    assert rename("prompt_encoder.mask_downscaling.6.bias") == "prompt_encoder.mask_embed.conv3.bias"
    assert rename("mask_decoder.iou_prediction_head.layers.2.bias") == "mask_decoder.iou_prediction_head.proj_out.bias"
    hyper = "mask_decoder.output_hypernetworks_mlps"
    assert rename(f"{hyper}.3.layers.1.weight") == f"{hyper}.3.layers.0.weight"
    assert rename("mask_decoder.transformer.norm_final_attn.bias").endswith("layer_norm_final_attn.bias")
    assert rename("mask_decoder.transformer.layers.1.norm4.bias").endswith("layers.1.layer_norm4.bias")
    assert rename("mask_decoder.iou_token.weight") == "mask_decoder.iou_token.weight"


def test_two_weights_never_get_one_name() -> None:
    with pytest.raises(ValueError, match="same name"):
        rename_all(["image_encoder.patch_embed.proj.bias", "vision_encoder.patch_embed.projection.bias"])


def test_all_314_names_of_vit_b_are_all_that_transformers_needs() -> None:
    torch, transformers = needs("torch"), needs("transformers")
    with torch.device("meta"):
        official = segment_anything().sam_model_registry["vit_b"]().state_dict()
        wanted = transformers.SamModel(transformers.SamConfig()).state_dict()
    assert len(official) == 314
    table = rename_all(official)
    assert set(table.values()) | set(copies(table.values())) == set(wanted)
    assert all(official[name].shape == wanted[renamed].shape for name, renamed in table.items())


def test_the_decoders_of_a_whole_vit_b_compute_the_same() -> None:
    torch = needs("torch")
    needs("transformers")
    from labeling_ground.networks.checkpoint import from_weights
    from labeling_ground.networks.decoders import FastDecoder, PlainDecoder

    loaded = from_weights(sam(12).state_dict())
    assert loaded.architecture == "vit_b"
    plain, fast = PlainDecoder(loaded.sam).eval(), FastDecoder(loaded.sam).eval()
    generator = torch.Generator().manual_seed(0)
    for masks in ([0.0, 0.0], [1.0, 0.0], [1.0, 1.0]):
        given = (
            torch.randn(1, 256, 64, 64, generator=generator),
            torch.rand(2, 3, 2, generator=generator) * 1024,
            torch.tensor([[1.0, 0, -1], [2, 3, 1]]),
            torch.randn(2, 1, 256, 256, generator=generator) * 5,
            torch.tensor(masks),
        )
        with torch.inference_mode():
            for a, b in zip(plain(*given), fast(*given), strict=True):
                assert (a - b).abs().max() < 1e-5


def test_an_export_is_three_verified_files_that_say_what_they_are() -> None:
    folder, report = exported()
    from labeling_ground.models.export.graphs import read_metadata

    assert report.max_abs_error < 1e-4
    assert sorted(path.name for path in folder.glob("*.onnx")) == ["decoder-fast.onnx", "decoder.onnx", "encoder.onnx"]
    assert not list(folder.glob(".*"))
    digests = set()
    for path in folder.glob("*.onnx"):
        metadata = read_metadata(path)
        assert metadata["family"] == "sam"
        assert metadata["model"] == "sam-small"
        assert metadata["graph"] == path.stem
        assert metadata["preprocessing_version"] == PREPROCESSING_VERSION
        assert float(metadata["max_abs_error"]) < 1e-4
        digests.add(metadata["source_sha256"])
    assert len(digests) == 1
    assert len(digests.pop()) == 64


def test_decoders_take_batches_and_any_number_of_points() -> None:
    runtime = needs("onnxruntime")
    folder, _ = exported()
    rng = np.random.default_rng(0)
    for graph in ("decoder", "decoder-fast"):
        session = runtime.InferenceSession(str(folder / f"{graph}.onnx"), providers=["CPUExecutionProvider"])
        given = {
            "image_embeddings": rng.standard_normal((1, 256, 64, 64), np.float32),
            "point_coords": rng.uniform(0, 1024, (3, 5, 2)).astype(np.float32),
            "point_labels": rng.integers(-1, 4, (3, 5)).astype(np.float32),
            "mask_input": rng.standard_normal((3, 1, 256, 256), np.float32),
            "has_mask_input": np.array([0, 1, 0], np.float32),
        }
        together = session.run(None, given)
        assert together[0].shape == (3, 4, 256, 256)
        assert together[1].shape == (3, 4)
        for i in range(3):
            one = {name: x if name == "image_embeddings" else x[i : i + 1] for name, x in given.items()}
            alone = session.run(None, one)
            assert np.abs(alone[0][0] - together[0][i]).max() < 1e-4


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)], ids=str)
def test_one_row_serves_all_prompts_whatever_the_order_of_inputs(tmp_path: Path, order: tuple[int, ...]) -> None:
    torch = needs("torch")
    for name in ("onnx", "onnxscript", "onnxruntime"):
        needs(name)
    from labeling_ground.models.export import graphs

    class Decoder(torch.nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
        """Reads the number of prompts, as the mask decoders do."""

        def forward(self, *given: Any) -> Any:
            image, finer, labels = (given[order.index(number)] for number in range(3))
            tokens = torch.cat([torch.ones(1, 2).expand((image + labels).shape[0], -1), labels], 1)
            return tokens.sum(1, keepdim=True) * image + finer

    names = ("image", "finer", "labels")

    def given(images: int, prompts: int) -> dict[str, Any]:
        rows = (torch.randn(images, 1), torch.randn(images, 1), torch.randn(prompts, 1))
        return {names[number]: rows[number] for number in order}

    graph = graphs.GraphPlan(
        "decoder",
        Decoder(),
        given(2, 2),
        ["y"],
        {name: {0: "prompts"} for name in names},
        [given(1, 5), given(3, 3), given(1, 1)],
        dict.fromkeys(names[:2], "labels"),
    )
    assert graphs.write(graph, tmp_path, {}).max_abs_error < 1e-5


def test_a_file_that_computes_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = needs("torch")
    for name in ("onnx", "onnxscript", "onnxruntime"):
        needs(name)
    from labeling_ground.models.export import graphs

    class Twice(torch.nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
        def forward(self, x: Any) -> Any:
            return x * 2

    x = torch.ones(2, 3)
    graph = graphs.GraphPlan("twice", Twice(), {"x": x}, ("y",), {"x": {0: "rows"}}, [{"x": torch.zeros(5, 3)}])
    made = graphs.write(graph, tmp_path, {"family": "sam"})
    assert made.max_abs_error == 0
    made.path.unlink()
    monkeypatch.setattr(graphs, "compare", lambda graph, path: float("nan"))
    with pytest.raises(BackendFailed, match="not kept"):
        graphs.write(graph, tmp_path, {})
    assert not list(tmp_path.iterdir())


def test_what_is_no_checkpoint_is_refused_in_words(tmp_path: Path) -> None:
    torch = needs("torch")
    needs("transformers")
    from labeling_ground.networks.checkpoint import from_weights, load

    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(b"no checkpoint")
    with pytest.raises(BadInput, match=r"damaged\.pth"):
        load(damaged)
    with pytest.raises(BadInput, match="SAM ViT-B"):
        from_weights({"some.weight": torch.zeros(1)})
    lacking = dict(sam().state_dict())
    del lacking["mask_decoder.iou_token.weight"]
    with pytest.raises(BadInput, match="iou_token"):
        from_weights(lacking)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    torch = needs("torch")
    from labeling_ground.networks.checkpoint import load

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    evil = tmp_path / "evil.pth"
    torch.save({"model": Payload()}, evil)
    with pytest.raises(BadInput, match="safely"):
        load(evil)
    assert not (tmp_path / "ran").exists()


def test_mobile_sams_checkpoint_loads_whole() -> None:
    needs("torch")
    needs("transformers")
    from labeling_ground.networks.checkpoint import from_weights

    loaded = from_weights({"model": mobile().state_dict()}, source_sha256="ab")
    assert loaded.architecture == "vit_t"
    assert loaded.source_sha256 == "ab"
