"""What the plans of an engine are, as a rich table: segments, sizes, seconds and what their GEMMs compute in."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rich.table import Table

from ingot.builder.memory import human
from ingot.plans import Plans


def plans_table(plans: Plans) -> Table:
    targets = ", ".join(f"{sm / 10}" for sm in plans.sm)
    found = Table(
        title=f"{plans.product} {plans.library} plans for SM {targets}", title_justify="left", title_style="bold"
    )
    for column in ("plan", "segments", "size", "built in", "RAM", "context"):
        found.add_column(column, justify="left" if column == "plan" else "right")
    found.add_column("fused GEMMs", overflow="fold")
    for plan in plans.plans:
        sizes = (human(plan.size), f"{plan.seconds:.1f} s", human(plan.peak_rss), human(plan.activation_bytes))
        kinds = Counter(plan.linears.values())
        found.add_row(
            Path(plan.plan).stem, str(plan.serves), *sizes, ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        )
    found.add_section()
    size, seconds = sum(plan.size for plan in plans.plans), sum(plan.seconds for plan in plans.plans)
    found.add_row("total", str(len(plans.segments)), human(size), f"{seconds:.1f} s", "", "", "")
    found.caption = "Which GEMM computes in what: plan/segments.json. What the library said: plan/*.log."
    return found
