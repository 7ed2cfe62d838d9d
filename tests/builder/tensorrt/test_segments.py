"""The graph cut at attention computes what the whole graph computes, bit for bit, and equal layers are one piece."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator
from tests.builder.onnx.evaluate import PagedAttention, evaluator
from tests.builder.onnx.random_engine import config, write_engine
from tests.builder.onnx.steps import PAGE_SIZE, Array, Feeds, graph_logits, runner

from ingot.builder.onnx import EngineWeights, build_graph, weight_files
from ingot.builder.tensorrt.segments import Piece, Segment, cut, is_attention, pieces
from ingot.network.config import ModelConfig
from ingot.network.weights import Scheme


def build(engine: Path, model: ModelConfig) -> ir.Model:
    weights = EngineWeights(weight_files(engine / "weights"))
    return build_graph(weights, model, dtype="float32", kv_dtype="float32", page_size=PAGE_SIZE, max_positions=32)


def attention_models(model: ir.Model) -> list[ReferenceEvaluator]:
    """Each attention node alone, as the runtime's kernel runs between two segments."""
    found = []
    for node in filter(is_attention, model.graph):
        inputs = [value for value in node.inputs if value is not None]
        alone = ir.convenience.extract(model.graph, inputs, list(node.outputs))
        found.append(ReferenceEvaluator(ir.to_proto(ir.Model(alone, ir_version=11)), new_ops=[PagedAttention]))
    return found


def chained(
    todo: list[Piece], attentions: list[ReferenceEvaluator], engine: Path
) -> Callable[[Feeds], Mapping[str, Array]]:
    """Runs segments and attentions in turn, binding tensors by name as the runtime does."""
    weights = EngineWeights(weight_files(engine / "weights"))
    order: list[tuple[Segment, Piece, ReferenceEvaluator]] = []
    for piece in todo:
        loaded = evaluator(piece.model, engine / "onnx")
        order += [(segment, piece, loaded) for segment in piece.segments]
    order.sort(key=lambda each: each[0].index)

    def run(feeds: Feeds) -> Mapping[str, Array]:
        values = dict(feeds)
        for segment, piece, loaded in order:
            bound = {name: weights[segment.names[name]].array() for name in piece.weights}
            bound |= {name: values[name] for name in segment.inputs if name not in bound}
            for name, value in zip(segment.outputs, loaded.run(None, bound), strict=True):
                values[name.removesuffix("_out")] = value
            if segment.index < len(attentions):
                layer = segment.index
                inputs = {f"{name}.{layer}": values[name] for name in ("q", "k", "v")} | feeds
                attention = attentions[layer]
                outputs = attention.run(None, {name: inputs[name] for name in attention.input_names})
                values["attention"], values[f"kv_cache_out.{layer}"] = outputs
        return values

    return run


@pytest.mark.parametrize("share", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_segments_in_turn_equal_the_whole_exactly(family: str, share: bool, tmp_path: Path) -> None:
    model = config(family, layers=3)
    engine = write_engine(tmp_path, model)
    whole = graph_logits(runner(evaluator(build(engine, model), engine / "onnx")), model)
    graph = build(engine, model)
    attentions = attention_models(graph)
    todo = pieces(cut(graph), share=share)
    assert [len(piece.segments) for piece in todo] == ([1, 2, 1] if share else [1, 1, 1, 1])
    for a, b in zip(graph_logits(chained(todo, attentions, engine), model), whole, strict=True):
        assert abs(a - b).max() == 0


@pytest.mark.parametrize("scheme", list(Scheme)[1:])
def test_quantized_segments_equal_the_whole_exactly(scheme: Scheme, tmp_path: Path) -> None:
    engine = write_engine(tmp_path, config(), scheme)
    whole = graph_logits(runner(evaluator(build(engine, config()), engine / "onnx")), config())
    graph = build(engine, config())
    run = chained(pieces(cut(graph), share=False), attention_models(graph), engine)
    for a, b in zip(graph_logits(run, config()), whole, strict=True):
        assert abs(a - b).max() == 0


def test_what_crosses_a_cut_is_activations_alone(tmp_path: Path) -> None:
    first, middle, last = cut(build(write_engine(tmp_path, config(), Scheme.INT4), config()))
    assert (first.inputs, sorted(first.outputs)) == (
        ["token_ids", "positions"],
        ["cos", "k", "q", "residual", "sin", "v"],
    )
    assert sorted(middle.inputs) == ["attention", "cos", "residual", "sin"]
    assert sorted(middle.outputs) == ["k", "q", "residual_out", "v"]
    assert (sorted(last.inputs), last.outputs) == (["attention", "logit_rows", "residual"], ["logits"])
    assert middle.names["down.weight"] == "layers.0.down.weight"
    assert middle.names["qkv.weight"] == "layers.1.qkv.weight"


def test_layers_that_differ_are_not_shared(tmp_path: Path) -> None:
    model = config("qwen3", layers=4)
    graph = build(write_engine(tmp_path, model), model)
    next(node for node in graph.graph if node.name == "layers.1.post_norm/RMSNormalization").attributes["epsilon"] = (
        ir.AttrFloat32("epsilon", 0.5)
    )
    assert [len(piece.segments) for piece in pieces(cut(graph), share=True)] == [1, 2, 1, 1]
