"""What runs took and what they were made from: cost, alarms, provenance."""

from __future__ import annotations

from collections.abc import Sequence

from swamp_dist.costs.table import binary, operations
from swamp_dist.evaluate.render import MISSING, Grid
from swamp_dist.progress import duration
from swamp_dist.report.facts import RunFacts
from swamp_dist.report.parts import Section, folded, notes, table, words


def alarms_part(runs: Sequence[RunFacts]) -> Section:
    """Every alarm that fired, standing ones first."""
    fired = [(run, alarm) for run in runs for alarm in run.alarms]
    fired.sort(key=lambda each: each[1].cleared is not None)
    if not fired:
        return Section("alarms", "Alarms", notes(["None fired."]))
    rows = [
        (
            run.key,
            str(alarm.raised),
            "stands" if alarm.cleared is None else f"cleared at step {alarm.cleared}",
            alarm.message,
        )
        for run, alarm in fired
    ]
    return Section("alarms", "Alarms", words("", ("run", "at step", "state", "what it says"), rows))


def cost_part(runs: Sequence[RunFacts], may_read_data: bool) -> Section:
    """Seconds, pairs and memory of every run, and of one run what its memory is for."""
    header = (
        "run", "state", "steps", "pairs", "time", "pairs per second", "starts", "ranks", "memory of a rank"
    )  # fmt: skip
    rows = tuple(_row(run) for run in runs)
    told = ["Memory is counted from the settings, as swamp show --cost does."]
    if any(run.cost.step is not None and run.cost.step.model is None for run in runs):
        without = "the encoders are not counted: " + (
            "their inputs do not fit" if may_read_data else "the width of their inputs stands in the data"
        )
        told.append(f"Memory marked with * is that of the objective alone; {without}.")
    body = table(Grid("", header, rows, tuple(told)))
    if len(runs) == 1:
        body += _step(runs[0])
    return Section("cost", "Cost", body)


def _row(run: RunFacts) -> tuple[str, ...]:
    cost, step = run.cost, run.cost.step
    memory = MISSING
    if step is not None:
        memory = binary(sum(step.memory.values())) + ("*" if step.model is None else "")
    speed = f"{cost.pairs / cost.seconds:,.0f}" if cost.pairs and cost.seconds > 0 else MISSING
    return (
        run.key,
        "done" if run.result is not None else "not done",
        MISSING if cost.steps is None else f"{cost.steps:,}",
        MISSING if cost.pairs is None else f"{cost.pairs:,}",
        duration(cost.seconds) if cost.seconds else MISSING,
        speed,
        str(cost.starts),
        MISSING if cost.ranks is None else str(cost.ranks),
        memory,
    )


def _step(run: RunFacts) -> str:
    step = run.cost.step
    if step is None:
        return ""
    rows = [(f"memory: {part}", binary(size)) for part, size in step.memory.items()]
    rows += [(f"compute: {part}", operations(count)) for part, count in step.flops.items()]
    rows += [(f"sent: {part}", binary(size)) for part, size in step.sent.items()]
    grid = Grid("A warm step on a rank", ("part", "size"), tuple(rows), ())
    return folded("What a step holds, computes and sends", table(grid))


def provenance_part(runs: Sequence[RunFacts]) -> Section:
    """Facts that all runs share once, the others run by run; of the runs that have written them."""
    count = len(runs)
    runs = [run for run in runs if run.provenance]
    names = dict.fromkeys(name for run in runs for name in run.provenance)
    if not runs:
        return Section("provenance", "Provenance", notes(["No run has ended, so none has written it."]))
    values = {name: [run.provenance.get(name, MISSING) for run in runs] for name in names}
    same = [name for name in names if len(set(values[name])) == 1]
    other = [name for name in names if name not in same]
    body = words("The same in all runs" if len(runs) > 1 else "", ("fact", "value"), (
        (name, values[name][0]) for name in same
    ))  # fmt: skip
    told = notes([f"{len(runs)} of {count} runs have written it."] if len(runs) < count else [])
    rows = [(run.key, *(values[name][i] for name in other)) for i, run in enumerate(runs)] if other else []
    return Section(
        "provenance", "Provenance", words("Different between runs", ("run", *other), rows) + body + told
    )
