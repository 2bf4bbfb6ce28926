"""The plan for readers: human units, one row per stage, and what was assumed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Column, Table

if TYPE_CHECKING:
    from affinity_service.planning.plan import Plan


def size(count: float) -> str:
    """Bytes, decimal."""
    return _scaled(count, "B")


def operations(count: float) -> str:
    return _scaled(count, "FLOP") if count else "–"


def duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes / 60:.1f} h" if minutes < 60 * 48 else f"{minutes / 60 / 24:.1f} days"


def plan_table(plan: Plan) -> Table:
    gpu = bool(plan.machine.gpus)
    columns = ["time", "computation", "memory", "disk", *(["GPU memory"] if gpu else []), "workers"]
    table = Table("stage", *(Column(name, justify="right") for name in columns))
    table.add_row("(start of Ray)", duration(plan.start_seconds), *[""] * (len(columns) - 1))
    for stage in plan.stages:
        cells = [duration(stage.seconds), operations(stage.flops), size(stage.bytes), size(stage.disk_bytes)]
        cells += [size(stage.gpu_bytes) if stage.gpu_bytes else "–"] if gpu else []
        table.add_row(stage.name.replace("_", " "), *cells, str(stage.workers))
    total = plan.to_dict()["total"]
    cells = [duration(total["seconds"]), operations(total["flops"]), size(total["bytes"]), size(total["disk_bytes"])]
    cells += [size(total["gpu_bytes"])] if gpu else []
    table.add_section()
    table.add_row("total (memory: largest)", *cells, "", style="bold")
    return table


def assumptions(plan: Plan) -> str:
    """What the numbers rest on, in a few sentences."""
    fewest, expected, most = plan.epochs
    epochs = (
        f"{most} epoch{'s' if most > 1 else ''} per training"
        if fewest == most
        else (
            f"about {expected:.0f} epochs per training (early stopping ends between {fewest} and {most}; "
            f"with all {most} it takes {duration(plan.most_seconds)})"
        )
    )
    groups = "" if plan.config.groups.k != "auto" else f" and {plan.groups} groups"
    machine = plan.machine
    gpus = f", {len(machine.gpus)} GPU" if machine.gpus else ""
    text = (
        f"Assumes {epochs}{groups}, on this machine: {machine.cores} cores, {size(machine.memory)} memory "
        f"({size(machine.free_memory)} free){gpus}, {size(machine.free_disk)} free disk. "
        "Memory is summed over all processes, Ray's own included. Expect numbers within a factor of two."
    )
    if machine.gpus:
        text += " Times are those of the processor; a GPU needs less."
    if machine.rates.share < 0.7:
        text += f" The machine is busy: a process gets {machine.rates.share:.0%} of a core, so times are longer now."
    if max(stage.bytes for stage in plan.stages) > machine.free_memory:
        text += " Other programs hold memory that the run will need."
    return text


def _scaled(count: float, unit: str) -> str:
    prefixes = ["", "k", "M", "G", "T", "P"]
    while count >= 999.5 and len(prefixes) > 1:
        count /= 1000
        del prefixes[0]
    prefix = prefixes[0]
    digits = 0 if count >= 99.5 or not prefix else 1
    return f"{count:.{digits}f} {prefix}{unit}"
