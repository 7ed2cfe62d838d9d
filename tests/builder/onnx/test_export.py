"""The exported graph, executed, says what the cpu target says: every family, every scheme, ragged and chunked."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import onnx
import onnx_ir as ir
import pytest
import torch
from tests.builder.onnx.evaluate import evaluator
from tests.builder.onnx.random_engine import config, write_engine
from tests.builder.onnx.steps import PAGE_SIZE, Array, graph_logits, reference_logits, runner

from ingot.builder.onnx import EngineWeights, build_graph, weight_files, write_model
from ingot.errors import EngineError, RecipeError
from ingot.network.config import ModelConfig
from ingot.network.weights import Scheme

EXACT = 2e-5  # float32 summed in another order
FLIPPED = 0.1  # and now and then an input rounded to the neighbouring FP8 or INT8 number for it


def build(engine: Path, model: ModelConfig, dtype: str = "float32", kv_dtype: str = "float32") -> ir.Model:
    weights = EngineWeights(weight_files(engine / "weights"))
    return build_graph(weights, model, dtype=dtype, kv_dtype=kv_dtype, page_size=PAGE_SIZE, max_positions=32)


def exported(engine: Path, model: ModelConfig, kv: str | None = None, dtype: str = "float32") -> list[Array]:
    kv = kv or dtype
    run = runner(evaluator(build(engine, model, dtype, kv), engine / "onnx"))
    return graph_logits(run, model, ml_dtypes.float8_e4m3fn if kv == "float8_e4m3fn" else kv)


def worst(found: list[Array], truth: list[torch.Tensor]) -> float:
    """Largest difference over both steps, relative to the logits' spread."""
    return max(float((torch.from_numpy(a) - b).abs().max() / b.std()) for a, b in zip(found, truth, strict=True))


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_every_family(family: str, tmp_path: Path) -> None:
    engine = write_engine(tmp_path, config(family))
    assert worst(exported(engine, config(family)), reference_logits(engine, config(family))) < EXACT


@pytest.mark.parametrize("static", [False, True], ids=["per-token", "static"])
@pytest.mark.parametrize("scheme", list(Scheme)[1:])
def test_every_scheme(scheme: Scheme, static: bool, tmp_path: Path) -> None:
    model = config("qwen2")  # with biases
    engine = write_engine(tmp_path, model, scheme, static_inputs=static, pre_scales=static)
    bound = FLIPPED if scheme in (Scheme.FP8, Scheme.INT8) else EXACT
    assert worst(exported(engine, model), reference_logits(engine, model)) < bound


def test_fp8_cache(tmp_path: Path) -> None:
    engine = write_engine(tmp_path, config(), kv_scales=True)
    truth = reference_logits(engine, config(), torch.float8_e4m3fn)
    assert worst(exported(engine, config(), "float8_e4m3fn"), truth) < FLIPPED


def test_half_precision_is_as_exact_as_torch(tmp_path: Path) -> None:
    engine = write_engine(tmp_path, config())
    truth = reference_logits(engine, config())
    torchs = worst([x.numpy() for x in reference_logits(engine, config(), dtype=torch.float16)], truth)
    assert worst(exported(engine, config(), dtype="float16"), truth) < 2 * torchs


def test_bfloat16_is_valid_onnx_and_keeps_every_byte(tmp_path: Path) -> None:
    engine = write_engine(tmp_path, config(), dtype=torch.bfloat16)
    graph = build(engine, config(), "bfloat16", "bfloat16")
    write_model(graph, tmp_path / "model.onnx")
    onnx.checker.check_model(tmp_path / "model.onnx")
    (tmp_path / "model.onnx.data").read_bytes().index((engine / "weights" / "model.safetensors").read_bytes()[-4096:])


def test_one_attention_per_layer_tells_the_plugin_everything(tmp_path: Path) -> None:
    engine = write_engine(tmp_path, config("mistral"), kv_scales=True)
    nodes = [node for node in build(engine, config("mistral")).graph if node.op_type == "PagedAttention"]
    assert [node.attributes["window"].as_int() for node in nodes] == [6, 6]
    assert nodes[0].attributes["v_scale"].as_float() == pytest.approx(0.03)
    assert [str(value.name) for value in nodes[1].inputs if value] == [
        *("q.1", "k.1", "v.1", "kv_cache.1", "slots", "page_table", "query_starts", "kv_lengths")
    ]


def test_writing_needs_no_memory(tmp_path: Path) -> None:
    model = replace(config(), vocab_size=1 << 17)  # 2 x 64 MiB of embeddings in float32
    write_engine(tmp_path, model)
    for dtype in ("float32", "float16"):
        out = subprocess.run(
            [sys.executable, "-c", GROWTH, str(tmp_path), dtype, repr(model)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert 0 < int(out.stdout) < 48 << 20


GROWTH = """
import sys
from pathlib import Path
from ingot.builder.onnx import EngineWeights, build_graph, weight_files, write_model
from ingot.builder.tensorrt.worker import peak_rss
from ingot.network.config import Llama3Rope, ModelConfig
engine, before = Path(sys.argv[1]), peak_rss()
weights = EngineWeights(weight_files(engine / "weights"))
graph = build_graph(weights, eval(sys.argv[3]), dtype=sys.argv[2], kv_dtype="float32", page_size=4, max_positions=32)
write_model(graph, engine / "onnx" / "model.onnx")
print(peak_rss() - before)
"""


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    engine = write_engine(tmp_path, config())
    with pytest.raises(RecipeError, match="Use one of float32, float16, bfloat16"):
        build(engine, config(), "float8_e4m3fn")
    with pytest.raises(EngineError, match=r"lack layers\.2\.input_norm"):
        build(engine, config(layers=3))
    with pytest.raises(EngineError, match="has no "):
        weight_files(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x02\0\0\0\0\0\0\0{}x", b"\xff" * 64])
def test_damaged_weights_are_an_error_of_ours(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").write_bytes(content)
    with pytest.raises(EngineError):
        build(tmp_path, config())
