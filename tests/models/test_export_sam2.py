"""Official checkpoints of SAM 2 in, verified ONNX files out."""

from pathlib import Path

import numpy as np
import pytest
from tests.needs import needs
from tests.sam.references import TOLERANCE
from tests.sam.references_sam2 import OFFICIAL, as_official, config, digest, exported_sam2, loaded, sam2

from labeling_ground.errors import BadInput
from labeling_ground.networks import layout_sam2
from labeling_ground.networks.layout import copies, rename_all
from labeling_ground.sam.family import Family
from labeling_ground.sam.preprocess import PREPROCESSING_VERSION


def test_names_follow_the_table() -> None:
    rename = layout_sam2.rename
    block, there = "image_encoder.trunk.blocks.3", "vision_encoder.backbone.blocks.3"
    assert rename(f"{block}.norm1.weight") == f"{there}.layer_norm1.weight"
    assert rename(f"{block}.mlp.layers.1.bias") == f"{there}.mlp.proj_out.bias"
    assert rename(f"{block}.attn.proj.bias") == f"{there}.attn.proj.bias"
    assert rename("image_encoder.neck.convs.2.conv.bias") == "vision_encoder.neck.convs.2.bias"
    assert rename("no_mem_embed") == "no_memory_embedding"
    layer, there = "sam_mask_decoder.transformer.layers.0", "mask_decoder.transformer.layers.0"
    assert rename(f"{layer}.mlp.layers.0.weight") == f"{there}.mlp.proj_in.weight"
    assert rename(f"{layer}.self_attn.out_proj.weight") == f"{there}.self_attn.o_proj.weight"
    assert rename("sam_mask_decoder.conv_s0.bias") == "mask_decoder.conv_s0.bias"
    head = "mask_decoder.pred_obj_score_head"
    assert rename(f"sam_{head}.layers.1.bias") == f"{head}.layers.0.bias"


@pytest.mark.parametrize("size", OFFICIAL)
def test_the_names_of_all_four_sizes_are_all_that_transformers_needs(size: str) -> None:
    torch, transformers = needs("torch"), needs("transformers")
    from labeling_ground.networks.hiera import SIZES

    width, blocks, background, expected = OFFICIAL[size]
    known = SIZES[width, blocks]
    assert known.name == size
    with torch.device("meta"):
        wanted = transformers.Sam2Model(config(width, blocks, background, known.whole, known.heads)).state_dict()
    official = as_official(wanted)
    assert digest(official) == expected, "these are not the names and shapes of the package sam2"
    table = rename_all(layout_sam2.of_images(official), layout_sam2.rename)
    renamed = set(table.values()) | {layout_sam2.POINT_TABLE}
    assert renamed | set(copies(renamed)) == set(wanted)
    assert all(official[name].shape == wanted[there].shape for name, there in table.items())


def test_the_size_is_recognised_by_the_shapes() -> None:
    torch = needs("torch")
    needs("transformers")
    from labeling_ground.networks.checkpoint import from_weights
    from labeling_ground.networks.hiera import SIZES

    width, blocks, background, _ = OFFICIAL["hiera_b+"]
    size = SIZES[width, blocks]
    with torch.device("meta"):
        weights = (
            needs("transformers").Sam2Model(config(width, blocks, background, size.whole, size.heads)).state_dict()
        )
    made = from_weights({name: torch.zeros(x.shape) for name, x in as_official(weights).items()})
    assert (made.family, made.architecture) == (Family.SAM2, "hiera_b+")
    backbone = made.sam.vision_encoder.backbone
    assert [block.window_size for block in backbone.blocks[:6]] == [8, 8, 8, 4, 4, 4]
    assert [i for i, block in enumerate(backbone.blocks) if block.window_size == 0] == [12, 16, 20]
    assert [block.attn.num_attention_heads for block in backbone.blocks[::8]] == [2, 8, 8]


def test_the_encoder_computes_what_transformers_does() -> None:
    torch = needs("torch")
    image = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        coarse, fine, middle = loaded().encoder(image)
        theirs = sam2().get_image_embeddings(image)
    for ours, expected in zip((fine, middle, coarse), theirs, strict=True):
        assert ours.shape == expected.shape
        assert (ours - expected).abs().max() < 1e-4


def test_the_decoders_compute_the_same() -> None:
    torch = needs("torch")
    from labeling_ground.networks.decoders import FastDecoder, PlainDecoder

    sam = loaded().sam
    plain, fast = PlainDecoder(sam).eval(), FastDecoder(sam).eval()
    generator = torch.Generator().manual_seed(0)
    for masks in ([0.0, 0.0], [1.0, 0.0], [1.0, 1.0]):
        given = (
            torch.randn(1, 256, 64, 64, generator=generator),
            torch.randn(1, 32, 256, 256, generator=generator) * 0.3,
            torch.randn(1, 64, 128, 128, generator=generator) * 0.3,
            torch.rand(2, 3, 2, generator=generator) * 1024,
            torch.tensor([[1.0, 0, -1], [2, 3, 1]]),
            torch.randn(2, 1, 256, 256, generator=generator) * 5,
            torch.tensor(masks),
        )
        with torch.inference_mode():
            for a, b in zip(plain(*given), fast(*given), strict=True):
                assert (a - b).abs().max() < 1e-5


def test_an_export_is_three_verified_files_that_say_what_they_are() -> None:
    folder, report = exported_sam2()
    from labeling_ground.models.export.graphs import read_metadata

    assert report.family is Family.SAM2
    assert report.max_abs_error < 1e-4
    assert sorted(path.name for path in folder.glob("*.onnx")) == ["decoder-fast.onnx", "decoder.onnx", "encoder.onnx"]
    for path in folder.glob("*.onnx"):
        metadata = read_metadata(path)
        assert metadata["family"] == "sam2"
        assert metadata["graph"] == path.stem
        assert metadata["source_sha256"] == "5a" * 32
        assert metadata["preprocessing_version"] == PREPROCESSING_VERSION


def test_the_encoders_positions_are_a_constant() -> None:
    """Left to the engines, enlarging them cost OpenVINO minutes at each start."""
    onnx = needs("onnx")
    folder, _ = exported_sam2()
    graph = onnx.load(str(folder / "encoder.onnx")).graph
    modes = [a.s for node in graph.node if node.op_type == "Resize" for a in node.attribute if a.name == "mode"]
    assert modes == [b"nearest"]
    assert [output.name for output in graph.output] == list(Family.SAM2.embedding_names)


def test_decoders_take_batches_and_any_number_of_points() -> None:
    runtime = needs("onnxruntime")
    folder, _ = exported_sam2()
    rng = np.random.default_rng(0)
    for graph in ("decoder", "decoder-fast"):
        session = runtime.InferenceSession(str(folder / f"{graph}.onnx"), providers=["CPUExecutionProvider"])
        embedding = {
            name: rng.standard_normal(shape, np.float32) * 0.3 for name, shape in Family.SAM2.embedding_shapes.items()
        }
        given = {
            "point_coords": rng.uniform(0, 1024, (3, 5, 2)).astype(np.float32),
            "point_labels": rng.integers(-1, 4, (3, 5)).astype(np.float32),
            "mask_input": rng.standard_normal((3, 1, 256, 256), np.float32),
            "has_mask_input": np.array([0, 1, 0], np.float32),
        }
        together = session.run(None, embedding | given)
        assert together[0].shape == (3, 4, 256, 256)
        assert together[1].shape == (3, 4)
        for i in range(3):
            alone = session.run(None, embedding | {name: x[i : i + 1] for name, x in given.items()})
            assert np.abs(alone[0][0] - together[0][i]).max() < 1e-4


def test_weights_of_no_known_size_are_refused_in_words() -> None:
    needs("torch")
    needs("transformers")
    from labeling_ground.networks.checkpoint import from_weights

    official = as_official(sam2().state_dict())
    with pytest.raises(BadInput, match=r"width 96 with \(1, 1, 2, 1\) blocks.*hiera_t, hiera_s"):
        from_weights(official)


@pytest.mark.parametrize(
    "name",
    [
        "sam_mask_decoder.conv_s0.bias",
        "sam_prompt_encoder.point_embeddings.2.weight",
        "image_encoder.trunk.blocks.3.attn.proj.weight",
    ],
)
def test_weights_that_are_missing_are_named(name: str) -> None:
    needs("torch")
    needs("transformers")
    from labeling_ground.networks.checkpoint import from_weights

    lacking = as_official(sam2((1, 2, 7, 2), (5, 7, 9)).state_dict())
    del lacking[name]
    with pytest.raises(BadInput, match=r"conv_s0\.bias|point_embeddings\.2\.weight|blocks\.3\.attn\.proj\.weight"):
        from_weights(lacking)


@pytest.mark.slow
def test_the_whole_tiny_model_is_exported_from_a_file(tmp_path: Path) -> None:
    torch = needs("torch")
    for module in ("transformers", "onnx", "onnxscript", "onnxruntime"):
        needs(module)
    from labeling_ground.models.export.run import export

    model = sam2((1, 2, 7, 2), (5, 7, 9))
    checkpoint = tmp_path / "sam2.1_hiera_tiny.pt"
    torch.save({"model": as_official(model.state_dict())}, checkpoint)
    report = export(checkpoint, tmp_path, model="sam2.1-tiny")
    assert report.architecture == "hiera_t"
    assert report.max_abs_error < 1e-4
    image = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(6))
    session = needs("onnxruntime").InferenceSession(str(report.encoder.path), providers=["CPUExecutionProvider"])
    coarse, fine, middle = session.run(list(Family.SAM2.embedding_names), {"image": image.numpy()})
    with torch.inference_mode():
        theirs = model.get_image_embeddings(image)
    for ours, expected in zip((fine, middle, coarse), theirs, strict=True):
        assert np.abs(ours - expected.numpy()).max() < TOLERANCE
