"""The graph of a pipeline: what cannot work in it, what is odd, and how it looks; pure."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from typing import Any

from beamstream.worker.pipelines.plan import Plan, PlannedStep
from beamstream.worker.pipelines.yaml_text import Problem

_INDENT = "      "


class Graph:
    """Who writes what others read.

    Parameters
    ----------
    known : sources that exist on the node; None: nobody has asked.
    """

    def __init__(self, plan: Plan, known: Collection[str] | None = None) -> None:
        self.plan = plan
        self._known = known
        self._writers: dict[str, list[PlannedStep]] = {}
        self._readers: dict[str, list[PlannedStep]] = {}
        for step in plan.steps:
            if step.writes is not None:
                self._writers.setdefault(step.writes, []).append(step)
            for source in dict.fromkeys(read.source for read in step.reads):
                self._readers.setdefault(source, []).append(step)

    # ------------------------------------------------------------------ checking

    def problems(self) -> list[Problem]:
        """What cannot work."""
        return sorted([*self._written_twice(), *self._cycles()])

    def warnings(self) -> list[Problem]:
        """What may be meant so, and seldom is."""
        found = [*self._unwritten(), *self._written_inputs()]
        for step in self.plan.steps:
            found += self._idle_replicas(step)
            found += self._holes(step)
        return sorted(found)

    def _written_twice(self) -> Iterator[Problem]:
        for source, steps in self._writers.items():
            for step in steps[1:]:
                yield Problem(
                    step.entry.line,
                    f"step {step.name!r} writes {source!r}, as {steps[0].name!r} does: "
                    "their ids would collide",
                )

    def _cycles(self) -> Iterator[Problem]:
        seen: set[str] = set()
        for first in self.plan.steps:
            if first.name in seen:
                continue
            cycle = self._cycle_from(first, seen)
            if cycle:
                way = " -> ".join(f"{step.name} -> {step.writes}" for step in cycle)
                line = cycle[0].entry.line
                yield Problem(line, f"a cycle: {cycle[-1].writes} -> {way}")

    def _cycle_from(self, first: PlannedStep, seen: set[str]) -> list[PlannedStep]:
        """A cycle that can be reached from a step; the steps that were looked at join `seen`."""
        way: list[PlannedStep] = []
        turns: list[Iterator[PlannedStep]] = [iter([first])]
        while turns:
            step = next(turns[-1], None)
            if step is None:
                turns.pop()
                if way:
                    way.pop()
            elif step in way:
                return way[way.index(step) :]
            elif step.name not in seen:
                seen.add(step.name)
                way.append(step)
                turns.append(iter(self.after(step)))
        return []

    def _unwritten(self) -> Iterator[Problem]:
        inputs = self.plan.file.inputs
        for source, steps in self._readers.items():
            if source in self._writers or source in inputs:
                continue
            if self._known is not None and source in self._known:
                continue
            there = sorted({*self._writers, *inputs, *(self._known or ())} - {source})
            near = difflib.get_close_matches(source, there, n=1)
            meant = f"is {near[0]!r} meant?" if near else "if it comes later, name it in 'inputs:'"
            yield Problem(
                steps[0].entry.line,
                f"step {steps[0].name!r} reads {source!r}, which nobody writes; {meant}",
            )

    def _written_inputs(self) -> Iterator[Problem]:
        for source in self.plan.file.inputs:
            for step in self._writers.get(source, ()):
                yield Problem(
                    step.entry.line,
                    f"step {step.name!r} writes {source!r}, which 'inputs:' says others write",
                )

    def _idle_replicas(self, step: PlannedStep) -> Iterator[Problem]:
        most = step.entry.replicas.max
        if not step.exclusive or most < 2:
            return
        pattern = step.reads[0].pattern
        if not set(pattern) & set("*?["):
            text = f"one worker at a time reads stream {pattern!r}: the other {most - 1} stand by"
        else:
            text = f"one worker at a time reads a stream: {most} help when so many streams are read"
        yield Problem(step.entry.line, f"step {step.name!r} goes by order or state; {text}")

    def _holes(self, step: PlannedStep) -> Iterator[Problem]:
        if not step.ordered:
            return
        for before in self.before_all(step):
            if before.entry.on_error.then == "dead":
                yield Problem(
                    step.entry.line,
                    f"step {step.name!r} goes by order, and waits for each id that {before.name!r} "
                    "gives up (then: dead) until its stream is finished; 'then: skip' there lets "
                    "it pass over",
                )

    # ------------------------------------------------------------------ walking

    def after(self, step: PlannedStep) -> list[PlannedStep]:
        """Steps that read what a step writes."""
        return [] if step.writes is None else self._readers.get(step.writes, [])

    def before_all(self, step: PlannedStep) -> list[PlannedStep]:
        """Steps whose results a step depends on, also through others; the nearest first."""
        found: list[PlannedStep] = []
        sources = [read.source for read in step.reads]
        for source in sources:
            for writer in self._writers.get(source, ()):
                if writer not in found and writer is not step:
                    found.append(writer)
                    sources += [read.source for read in writer.reads]
        return found

    def roots(self) -> list[str]:
        """Sources that no step writes, in the order in which they are read."""
        return [source for source in self._readers if source not in self._writers]

    # ------------------------------------------------------------------ showing

    def draw(self) -> str:
        """The graph from its inputs down, as text."""
        lines: list[str] = []
        shown: set[str] = set()
        for source in self.roots():
            lines += [source, *self._below(source, "", shown)]
        # Whatever goes around in a circle has no beginning.
        for step in self.plan.steps:
            if step.name not in shown:
                source = step.reads[0].source
                lines += [source, *self._below(source, "", shown)]
        return "\n".join(lines)

    def _below(self, source: str, before: str, shown: set[str]) -> Iterator[str]:
        readers = self._readers.get(source, [])
        for number, step in enumerate(readers):
            again = step.name in shown
            shown.add(step.name)
            yield f"{before}  |"
            yield f"{before}  +-> {_box(step, source, again=again)}"
            if step.writes is None or again:
                continue
            line = "  |   " if number + 1 < len(readers) else _INDENT
            yield f"{before}{line}  |"
            yield f"{before}{line}  +-> {step.writes}"
            yield from self._below(step.writes, f"{before}{line}{_INDENT}", shown)

    def document(self) -> dict[str, Any]:
        """The plan, and where each source comes from, as JSON has it."""
        sources = dict.fromkeys([*self._readers, *self._writers])
        return {
            **self.plan.document(),
            "sources": [
                {
                    "source": source,
                    "written_by": [step.name for step in self._writers.get(source, ())],
                    "read_by": [step.name for step in self._readers.get(source, ())],
                }
                for source in sources
            ],
        }


def _box(step: PlannedStep, source: str, *, again: bool) -> str:
    if again:
        return f"[ {step.name} ] (above)"
    replicas = step.entry.replicas
    words = [f"[ {step.name} ]"]
    if not replicas.fixed:
        words.append(f"x {replicas.min}..{replicas.max}")
    elif replicas.min > 1:
        words.append(f"x {replicas.min}")
    own = next(read for read in step.reads if read.source == source)
    if own.pattern != "*":
        words.append(f"of {own.pattern}")
    others = [str(read) for read in step.reads if read.source != source]
    if others:
        words.append(f"joined with {', '.join(others)}")
    words += [f"{name}={value}" for name, value in step.parameters.items()]
    return " ".join(words)
