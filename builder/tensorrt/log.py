"""What TensorRT's verbose log says a plan is made of: its fused layers, in which types they compute, and what they need.

The engine inspector says the same, but only where there is a GPU; the log's "Layers:" block is there on any machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ingot.network.weights import Scheme

LAYER = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: (?P<inputs>\[.*?\]), Constants: (?P<constants>\[.*?\]), "
    r"Outputs: (?P<outputs>\[.*?\]), TacticName: .*?, Metadata: (?P<metadata>.*)$"
)
DATATYPE = re.compile(r"Datatype: (\w+)")
NODE = re.compile(r"\[ONNX Layer: (.*?)\]")
ACTIVATIONS = re.compile(r"^Total Activation Memory: (\d+) bytes", re.MULTILINE)
# What a GEMM's input and weight must be for it to compute in a scheme; INT4 weights are widened inside the kernel.
OPERANDS = {
    Scheme.FP8: ("FP8", "FP8"),
    Scheme.INT8: ("Int8", "Int8"),
    Scheme.INT4: (None, "Int4"),
    Scheme.NVFP4: ("FP4E2M1", "FP4E2M1"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One kernel of the plan."""

    name: str
    kind: str  # gemm, kgen (pointwise and reductions), runtime_fusion, ...
    inputs: tuple[str, ...]  # dtypes as TensorRT spells them: Half, BFloat16, FP8, Int8, Int4, FP4E2M1, ...
    constants: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]  # the ONNX nodes it stands for


def layers(log: str) -> Iterator[Layer]:
    for line in log.splitlines():
        if found := LAYER.match(line):
            types = {key: tuple(DATATYPE.findall(found[key])) for key in ("inputs", "constants", "outputs")}
            yield Layer(name=found["name"], kind=found["kind"], nodes=tuple(NODE.findall(found["metadata"])), **types)


def activation_bytes(log: str) -> int:
    """Scratch memory of one execution context at the profile's largest shapes."""
    return max((int(size) for size in ACTIVATIONS.findall(log)), default=0)


def computes_in(found: Iterable[Layer], product: str, scheme: Scheme) -> str:
    """What the GEMM of ONNX node `product` computes in: the scheme where it is fused, else the types it really reads."""
    own = [layer for layer in found if product in layer.nodes]
    if scheme is Scheme.NONE:
        return "float"
    needed_input, needed_weight = OPERANDS[scheme]
    if any(needed_weight in x.constants and (needed_input is None or needed_input in x.inputs) for x in own):
        return str(scheme)
    return "/".join(sorted({dtype for x in own for dtype in (*x.inputs, *x.constants)})) or "nothing the log names"
