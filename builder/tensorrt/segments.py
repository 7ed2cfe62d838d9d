"""Cuts the decoder's graph at its attention nodes, for runtimes that have no plugins: segment, attention, segment, ...

Segment s holds what can run once attention s - 1 has: its inputs are graph inputs, attention's output and what earlier
segments hand on; constants go to whoever uses them. Names inside are the same in every layer, so equal segments are equal.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.convenience import extract

LAYER = re.compile(r"^layers\.\d+\.")
NUMBER = re.compile(r"[._]\d+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One piece of the graph. `names` leads from the names inside (qkv.weight) to the engine's (layers.3.qkv.weight)."""

    index: int
    model: ir.Model
    names: dict[str, str]

    @property
    def inputs(self) -> list[str]:
        return [str(value.name) for value in self.model.graph.inputs]

    @property
    def outputs(self) -> list[str]:
        return [str(value.name) for value in self.model.graph.outputs]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What is built once: a model and the segments it serves. `weights` are those of its inputs that are weights."""

    name: str
    model: ir.Model
    segments: tuple[Segment, ...]
    weights: tuple[str, ...] = ()


def cut(model: ir.Model) -> list[Segment]:
    """The segments in the order they run; there is one more than there are attention nodes."""
    graph = model.graph
    levels = value_levels(graph)
    count = 1 + sum(map(is_attention, graph))
    return [segment(model, levels, index) for index in range(count)]


def is_attention(node: ir.Node) -> bool:
    return node.op_type == "PagedAttention"


def value_levels(graph: ir.Graph) -> dict[ir.Value, int]:
    """How many attentions have run when a value is computed: as many as it needs, or as its first reader needs if that is
    more, so that what a segment hands on is what the decoder calls its own. Constants have none and are left out."""
    levels = dict.fromkeys(graph.inputs, 0)
    for node in graph:
        found = [levels[value] for value in node.inputs if value in levels]
        if found:
            levels.update(dict.fromkeys(node.outputs, max(found) + is_attention(node)))
    for node in reversed(graph):
        readers = [reader for value in node.outputs for reader, _ in value.uses()]
        if readers and node.outputs[0] in levels and not is_attention(node):
            first = min(levels[reader.outputs[0]] - is_attention(reader) for reader in readers)
            levels.update(dict.fromkeys(node.outputs, max(first, levels[node.outputs[0]])))
    return levels


def segment(model: ir.Model, levels: dict[ir.Value, int], index: int) -> Segment:
    nodes = [node for node in model.graph if not is_attention(node) and levels.get(node.outputs[0]) == index]
    inside = {value for node in nodes for value in node.outputs}
    inputs = unique(value for node in nodes for value in node.inputs if value in levels and value not in inside)
    outputs = [value for node in nodes for value in node.outputs if leaves(value, inside)]
    piece = extract(model.graph, inputs, outputs)
    piece.name = f"segment_{index}"
    names = rename(piece)
    return Segment(index=index, model=ir.Model(piece, ir_version=model.ir_version, producer_name="ingot"), names=names)


def leaves(value: ir.Value, inside: set[ir.Value]) -> bool:
    return value.is_graph_output() or any(
        is_attention(node) or node.outputs[0] not in inside for node, _ in value.uses()
    )


def unique(values: Iterator[ir.Value | None]) -> list[ir.Value]:
    return list(dict.fromkeys(value for value in values if value is not None))


def rename(graph: ir.Graph) -> dict[str, str]:
    """Gives inputs, outputs, nodes and initializers names that do not tell the layer; returns new -> old of initializers."""
    boundary = {str(value.name): NUMBER.sub("", str(value.name)) for value in (*graph.inputs, *graph.outputs)}
    taken = {boundary[str(value.name)] for value in graph.inputs}
    for value in graph.inputs:
        value.name = boundary[str(value.name)]
    for value in graph.outputs:
        name = boundary[str(value.name)]
        value.name = f"{name}_out" if name in taken else name
    return rename_inside(graph)


def rename_inside(graph: ir.Graph) -> dict[str, str]:
    old = {
        value: str(value.name)
        for value in unique(value for node in graph for value in node.inputs)
        if value.is_initializer()
    }
    graph.initializers.clear()
    counts: Counter[str] = Counter()
    for node in graph:
        stem = NUMBER.sub("", LAYER.sub("", str(node.name)))
        counts[stem] += 1
        node.name = stem if counts[stem] == 1 else f"{stem}_{counts[stem]}"
        for place, value in enumerate(node.outputs):
            if not value.is_graph_output():
                value.name = f"{node.name}:{place}"
    names = {}
    for value, name in old.items():
        stem = NUMBER.sub("", name)
        counts[stem] += stem == "constant"
        value.name = f"constant.{counts[stem]}" if stem == "constant" else LAYER.sub("", name)
        names[str(value.name)] = name
        graph.register_initializer(value)
    return names


def pieces(segments: Sequence[Segment], *, share: bool) -> list[Piece]:
    """What to build. `share`: middle segments take their weights as inputs, and equal ones are built once.

    Only float weights may be shared: a quantized weight that is no constant is not fused into its product.
    """
    first, *middle, last = segments
    if not share or len(middle) < 2:
        return [Piece(name=f"segment_{s.index}", model=s.model, segments=(s,)) for s in segments]
    groups: dict[str, list[Segment]] = {}
    for each in middle:
        hoist(each)
        groups.setdefault(fingerprint(each.model), []).append(each)
    shared = [
        Piece(
            name=f"segment_{group[0].index}",
            model=group[0].model,
            segments=tuple(group),
            weights=weight_inputs(group[0]),
        )
        for group in groups.values()
    ]
    ends = [Piece(name=f"segment_{end.index}", model=end.model, segments=(end,)) for end in (first, last)]
    return [ends[0], *shared, ends[1]]


def hoist(each: Segment) -> None:
    """Makes inputs of the initializers that differ from layer to layer."""
    graph = each.model.graph
    for name in weight_names(each):
        value = graph.initializers.pop(name)
        value.const_value = None
        graph.inputs.append(value)


def weight_names(each: Segment) -> list[str]:
    return sorted(name for name, source in each.names.items() if LAYER.match(source))


def weight_inputs(each: Segment) -> tuple[str, ...]:
    return tuple(name for name in each.inputs if name in each.names)


def fingerprint(model: ir.Model) -> str:
    """Of everything but the bytes that were made inputs, and the graph's own name."""
    name, model.graph.name = model.graph.name, "segment"
    digest = hashlib.sha256(ir.to_proto(model).SerializeToString(deterministic=True)).hexdigest()
    model.graph.name = name
    return digest
