"""Segments and attention in turn, through a fake of TensorRT's runtime that computes: the logits are the cpu target's."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tensorrt_rtx
import torch
from safetensors.torch import load_file
from tests.builder.onnx.random_engine import config, write_engine
from tests.builder.onnx.steps import NUM_PAGES, PAGE_SIZE, reference_logits, steps
from tests.runtime import fake_tensorrt

from ingot.builder.onnx import EngineWeights, build_graph, weight_files, write_model
from ingot.builder.tensorrt.rtx import in_order
from ingot.builder.tensorrt.segments import cut, pieces
from ingot.errors import EngineError
from ingot.network.config import ModelConfig
from ingot.plans import PlanRecord, Plans, read_plans
from ingot.plugins.attention.cache import allocate_caches
from ingot.plugins.load import read_weights
from ingot.plugins.reference_ops import ReferenceOps
from ingot.runtime.programs.plan_forward import PlanForward, check_gpu

CPU = torch.device("cpu")


def engine_of_paths(folder: Path, model: ModelConfig, *, share: bool) -> Path:
    """An engine whose plans are paths of ONNX files, which is what the fake loads."""
    write_engine(folder, model)
    weights = EngineWeights(weight_files(folder / "weights"))
    graph = build_graph(weights, model, dtype="float32", kv_dtype="float32", page_size=PAGE_SIZE, max_positions=32)
    todo = pieces(cut(graph), share=share)
    (folder / "plan").mkdir()
    records = []
    for piece in todo:
        write_model(piece.model, folder / "onnx" / f"{piece.name}.onnx")
        (folder / "plan" / f"{piece.name}.plan").write_text(str(folder / "onnx" / f"{piece.name}.onnx"))
        sizes = {"size": 1, "seconds": 0, "peak_rss": 0, "activation_bytes": 0}
        records.append(PlanRecord(plan=f"{piece.name}.plan", serves=len(piece.segments), linears={}, **sizes))
    Plans(library="1.7", sm=[89, 120], segments=in_order(todo), plans=records).write(folder)
    return folder


def loaded(engine: Path, model: ModelConfig) -> PlanForward:
    tensors = load_file(engine / "weights" / "model.safetensors")
    caches = allocate_caches(model, NUM_PAGES, PAGE_SIZE, torch.float32)
    ops = ReferenceOps(model, read_weights(tensors, model), caches, dtype=torch.float32)
    return PlanForward(fake_tensorrt, engine, weights=tensors, attention=ops.attention, device=CPU)


@pytest.mark.parametrize("share", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_logits_are_the_cpu_targets(family: str, share: bool, tmp_path: Path) -> None:
    """Three sequences in the second step where a plan gives two rows: the last segment runs twice."""
    model = config(family, layers=4)
    engine = engine_of_paths(tmp_path, model, share=share)
    forward = loaded(engine, model)
    assert (forward.max_tokens, forward.max_rows) == (16, 2)
    for step, truth in zip(steps(model.vocab_size), reference_logits(engine, model), strict=True):
        assert (forward(step) - truth).abs().max() < 2e-5 * truth.std()


def test_a_step_that_wants_no_logits_still_extends_the_cache(tmp_path: Path) -> None:
    engine = engine_of_paths(tmp_path, config(), share=False)
    forward = loaded(engine, config())
    first, second = steps(config().vocab_size)
    silent = replace(first, logit_rows=first.logit_rows[:0])
    assert forward(silent).shape == (0, config().vocab_size)
    truth = reference_logits(engine, config())[1]
    assert (forward(second) - truth).abs().max() < 2e-5 * truth.std()


def test_contexts_share_one_scratch_block_and_nothing_is_allocated_twice(tmp_path: Path) -> None:
    forward = loaded(engine_of_paths(tmp_path, config(layers=3), share=False), config(layers=3))
    contexts: list[Any] = list(forward._contexts.values())
    assert len({context.memory for context in contexts}) == 1
    assert {name: len(found) for name, found in forward._buffers.items() if len(found) > 1} == {"residual": 2}
    addresses = []
    for step in steps(config().vocab_size):
        forward(step)
        inner = contexts[1].addresses
        addresses.append([inner[name] for name in ("q", "k", "v", "cos", "sin", "residual", "residual_out")])
    assert addresses[0] == addresses[1], "so that a captured graph stays valid"


def test_a_plan_the_library_does_not_take_is_named(tmp_path: Path) -> None:
    engine = engine_of_paths(tmp_path, config(), share=False)
    (engine / "plan" / "segment_1.plan").write_bytes(b"vtrt")
    with pytest.raises(EngineError, match=r"does not load .*segment_1\.plan; it was built by version 1\.7"):
        loaded(engine, config())


def test_other_gpus_are_refused_by_name(tmp_path: Path) -> None:
    plans = read_plans(engine_of_paths(tmp_path, config(), share=False))
    check_gpu(plans, 120, "NVIDIA GeForce RTX 5090")
    with pytest.raises(EngineError, match=r"NVIDIA H200 is SM 9\.0; .* for SM 8\.9, 12\.0"):
        check_gpu(plans, 90, "NVIDIA H200")


@pytest.mark.parametrize("name", ["Runtime", "ICudaEngine", "IExecutionContext"])
def test_the_fake_has_the_real_signatures(name: str) -> None:
    """Every public method of the fake is one of the real class, with the same argument names."""
    fake, real = getattr(fake_tensorrt, name), getattr(tensorrt_rtx, name)
    methods = [method for method in vars(fake) if not method.startswith("_") and method not in {"shape", "view"}]
    for method in methods:
        assert hasattr(real, method), f"{name}.{method}"
        if not callable(getattr(fake, method)):
            continue
        ours = getattr(fake, method).__code__
        wanted = list(ours.co_varnames[1 : ours.co_argcount])
        signatures = re.findall(rf"{method}\(self[^)]*\)", getattr(real, method).__doc__ or "")
        assert any(re.findall(r", (\w+):", signature) == wanted for signature in signatures), (
            method,
            wanted,
            signatures,
        )
