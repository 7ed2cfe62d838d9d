"""What a build and `ingot inspect` show, as rich tables. Knows how figures read best; computes none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from ingot.builder.memory import Needs, human
from ingot.builder.quality import worst_layers
from ingot.manifest import Manifest


def table(title: str, *columns: str) -> Table:
    found = Table(title=title, title_justify="left", title_style="bold", header_style="")
    for index, column in enumerate(columns):
        found.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    return found


def pairs(title: str, rows: dict[str, Any]) -> Table:
    found = Table(title=title, title_justify="left", title_style="bold", show_header=False)
    found.add_column()
    found.add_column(overflow="fold")
    for key, value in rows.items():
        found.add_row(key, str(value))
    return found


def needs_table(needs: Needs, cache: Path, out: Path) -> Table:
    found = table("The build needs about", "what", "size")
    found.add_row(f"disk for the cache, {cache}", human(needs.disk))
    found.add_row(f"disk for the engine, {out}", human(needs.out))
    found.add_row("RAM", human(needs.ram))
    return found


def memory_table(manifest: Manifest) -> Table:
    limits = manifest.limits
    found = table("Memory plan", "purpose", "size", "what for")
    what = {
        "weights": f"{manifest.recipe['quant']} weights, {manifest.dtype} activations",
        "kv_pool": f"{limits.num_pages} pages of {limits.page_size} tokens, {manifest.kv_dtype}",
        "activations": f"a step of {limits.max_num_batched_tokens} tokens",
        "logits": f"{limits.max_num_seqs} sequences",
        "contexts": "what compiled plans compute in",
    }
    for purpose, size in manifest.memory.items():
        found.add_row(purpose, human(size), what.get(purpose, ""))
    found.add_section()
    found.add_row("total", human(sum(manifest.memory.values())), "")
    return found


def quality_table(quality: dict[str, Any]) -> Table:
    bounds = quality["bounds"]
    found = table("Quality", "figure", "engine", "bound")
    if "cosine" in quality:
        found.add_row(
            "least cosine of a vector with the original's", f"{quality['cosine']:.7f}", f">= {bounds['cosine']}"
        )
        found.add_row("mean cosine", f"{quality['cosine_mean']:.7f}", "")
    else:
        add_token_rows(found, quality, bounds)
    found.add_row("largest layer error", f"{max(quality['layer_errors']):.2%}", "")
    verdict = "within its bounds" if quality["within_bounds"] else "PAST ITS BOUNDS, kept by --allow-quality-loss"
    found.caption = f"{quality['tokens']} tokens of {quality['corpus']}, against {quality['reference']}: {verdict}"
    if not quality["within_bounds"]:
        found.caption += f". {worst_layers(quality)}"
    return found


def add_token_rows(found: Table, quality: dict[str, Any], bounds: dict[str, float]) -> None:
    """Figures of an engine that generates."""
    found.add_row("perplexity", f"{quality['ppl']:.4f}", f"original {quality['ppl_reference']:.4f}")
    found.add_row("perplexity ratio", f"{quality['ppl_ratio']:.4f}", f"<= {bounds['ppl_ratio']}")
    found.add_row("mean KL divergence, nats", f"{quality['kl']:.5f}", f"<= {bounds['kl']}")
    found.add_row("greedy agreement", f"{quality['agreement']:.2%}", f">= {bounds['agreement']:.2%}")


def inspect_tables(manifest: Manifest) -> list[Table]:
    limits = manifest.limits
    engine = {
        "name": manifest.name,
        "target": manifest.target + "".join(f" sm_{sm}" for sm in manifest.sm),
        "source": f"{manifest.source.get('model')} {manifest.source.get('commit') or ''}".strip(),
        "dtype": f"{manifest.dtype}, KV {manifest.kv_dtype}" if manifest.limits.num_pages != 0 else manifest.dtype,
        "tasks": ", ".join(manifest.tasks),
        "built": manifest.built_at,
        "rebuild": manifest.rebuild,
    }
    if (made := manifest.embedding) is not None:
        length = ", of length 1" if made.normalize else ""
        engine["vectors"] = f"{made.size} floats{length}, from {made.pooling} pooling"
    files = table("Files", "name", "size", "sha256")
    for name, record in manifest.files.items():
        files.add_row(name, human(record.size), record.sha256[:16])
    tables = [
        pairs("Engine", engine),
        pairs("Recipe", {key: value for key, value in manifest.recipe.items() if value is not None}),
        pairs(
            "Limits",
            {name: getattr(limits, name) for name in limits.__struct_fields__ if getattr(limits, name) is not None},
        ),
        memory_table(manifest),
    ]
    if manifest.quality is not None:
        tables.append(quality_table(manifest.quality))
    return [*tables, files, pairs("Versions", dict(manifest.versions))]
