"""Output for people: progress bars with the remaining time, a live view of the front, tables at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Event as ThreadEvent
from threading import Thread
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column, Table
from rich.text import Text

from nas.api import Hooks
from nas.engine import Ended, Event, Recovered, TrialFinished
from nas.setup.preparation import Step
from predictors.runtimes import ONNXRUNTIME
from searchspace.spec.arch import ONNX_INT8, QuantPolicy
from studies.outlook import short_of_time
from studies.pareto import front
from studies.patience import WENT_ON
from studies.records import Objective, Study, Trial, TrialState
from studies.rungs import rung_agreements
from studies.worth import Worth

LIVE_ROWS = 6
FEW_JUDGED = 4  # finished trials from which the time of a training is estimated
SHORTEST_SECONDS, LINE_SECONDS = 2.0, 60.0  # shortest and longest time between log lines
ALIVE_SECONDS, ALIVE_SHARE = (
    5.0,
    1 / 20,
)  # a log line is due after these seconds or this share of the elapsed time


class Display:
    """Shows the progress of one search: live on a terminal, as log lines elsewhere. `quiet` shows nothing."""

    def __init__(self, quiet: bool = False, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, quiet=quiet)
        # on a narrow terminal only the text beside the bar is shortened
        whole, rest = Column(no_wrap=True), Column(no_wrap=True, overflow="ellipsis", ratio=1)
        self.progress = Progress(
            TextColumn("{task.description}", table_column=whole),
            BarColumn(bar_width=8),
            MofNCompleteColumn(table_column=whole),
            _Named("elapsed", TimeElapsedColumn(table_column=whole)),
            _Left(table_column=whole),
            TextColumn("{task.fields[text]}", table_column=rest),
            console=self.console,
            expand=True,
        )
        self.tasks: dict[str, TaskID] = {}
        self.study: Study | None = None
        self.trials: list[Trial] = []
        self.judged: list[Trial] = []
        self.goes_on = False  # whether earlier runs evaluated a part of the study
        self.logged: dict[
            str, tuple[int, float]
        ] = {}  # by task: tenths done and elapsed seconds at its last line
        self.current, self.ended = "", ThreadEvent()
        self.live = Live(get_renderable=self._render, console=self.console, refresh_per_second=4)
        self.hooks = Hooks(self.on_step, self.on_event, self.on_study, self.on_wait)

    def __enter__(self) -> Display:
        if not self.console.is_terminal:
            Thread(target=self._go_on, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        if self.live.is_started:
            self.trials = []
            self.live.stop()

    def start(self) -> None:
        """Show progress bars from now on if the console is a terminal."""
        if self.console.is_terminal and not self.live.is_started:
            self.live.start()

    def on_study(self, study: Study) -> None:
        self.study = study
        self.start()
        goals = ", ".join(o.name for o in study.objectives)
        space = study.space["name"]
        self.console.print(
            f"study {study.name}: space {space}, {study.searcher}, improving {goals}", markup=False
        )
        recipe = study.settings.recipe
        if study.quality == "train" and "alone" in recipe:
            batch, examples = recipe["alone"]["batch_size"], recipe["validation_examples"]
            steps = f"are trained for {recipe['alone']['steps']}"
            if recipe.get("model"):
                steps = f"recover for {recipe['recovery_steps']}"
            self.console.print(
                f"networks {steps} steps of at most {batch} examples and are judged on {examples} held-out ones",
                markup=False,
            )

    def on_wait(self, reason: str) -> None:
        self.console.print(reason or WENT_ON, style="yellow", markup=False)

    def on_step(self, step: Step) -> None:
        self.start()
        self._advance(step.name, step.done, step.total, step.text)

    def on_event(self, event: Event) -> None:
        assert self.study is not None
        if isinstance(event, TrialFinished):
            self._say_whether_time_is_short(event.trial)
            if event.trial.state == TrialState.COMPLETE:
                self.trials.append(event.trial)
                self.trials = front(self.trials, self.study.objectives)
            elif event.trial.error:
                self.console.print(
                    f"trial {event.trial.number} failed: {event.trial.error}", style="yellow", markup=False
                )
            counts = ", ".join(f"{n} {state}" for state, n in sorted(event.counts.items()) if n)
            self._advance("searching", sum(event.counts.values()), self.study.max_trials, counts)
        elif isinstance(event, Recovered):
            self.goes_on = True
            self.console.print(
                f"{event.num_trials} trials in the database, {event.num_unfinished} to run again"
            )
        elif isinstance(event, Ended):
            self.console.print(f"search ended: {event.reason}")

    def _say_whether_time_is_short(self, trial: Trial) -> None:
        """Warn once, after FEW_JUDGED trials, if the time limit is too short for the study's trials."""
        self.judged.append(replace(trial, finished_at=datetime.now(UTC).isoformat()))
        if self.study is None or self.goes_on or len(self.judged) != FEW_JUDGED:
            return
        if short := short_of_time(self.study, self.judged):
            self.console.print(short, style="yellow", markup=False)

    def _advance(self, name: str, done: float, total: float, text: str) -> None:
        if name not in self.tasks:
            allowed = self.study.max_seconds if self.study is not None and name == "searching" else None
            self.tasks[name] = self.progress.add_task(
                name, total=total, text=text, first=done, allowed=allowed
            )
        self.progress.update(self.tasks[name], completed=done, total=total, text=text)
        self.current = name
        if not self.console.is_terminal:
            self._log(name)

    def _go_on(self) -> None:
        """Repeat the current log line from a thread while no event arrives: one evaluation may take minutes."""
        while not self.ended.wait(1.0):
            if self.current:
                self._log(self.current)

    def _log(self, name: str) -> None:
        """Print a log line if one is due: at each tenth and at the end, and at intervals that show the run is alive."""
        task = self.progress._tasks[self.tasks[name]]
        elapsed, tenth = task.elapsed or 0.0, int(10 * task.completed / task.total) if task.total else 0
        last_tenth, last = self.logged.get(name, (0, 0.0))
        is_due = tenth > last_tenth and (tenth == 10 or elapsed - last >= SHORTEST_SECONDS or not last_tenth)
        longest = min(LINE_SECONDS, max(ALIVE_SECONDS, ALIVE_SHARE * elapsed))
        if is_due or (last_tenth < 10 and elapsed - last >= longest):
            self.logged[name] = tenth, elapsed
            times = f"elapsed {_clock(elapsed)}"
            left = _seconds_left(task)
            if left is not None and task.completed < (task.total or 0):
                times += f", left {_clock(left)}"
            line = f"{name}: {task.completed:g} of {task.total or 0:g}, {times}  {task.fields['text']}"
            self.console.print(line.rstrip(), markup=False, soft_wrap=True)

    def _render(self) -> Table:
        grid = Table.grid()
        grid.add_row(self.progress)
        if self.study is not None and self.trials:
            shown = Table(box=None, title=f"front: {len(self.trials)} networks", title_justify="left")
            for column in ("trial", *map(heading, self.study.objectives), "blocks"):
                shown.add_column(column, justify="left" if column == "blocks" else "right")
            step = max(1, len(self.trials) // LIVE_ROWS)
            for trial in self.trials[::step][:LIVE_ROWS]:
                values = (f"{trial.values[o.name]:.4g}" for o in self.study.objectives)
                shown.add_row(str(trial.number), *values, blocks(trial.arch))
            grid.add_row(shown)
        return grid


class _Named(ProgressColumn):
    """A progress column with its name in front."""

    def __init__(self, name: str, column: ProgressColumn) -> None:
        super().__init__(column.get_table_column())
        self.name, self.column = name, column

    def render(self, task: Task) -> Text:
        shown = self.column(task)
        return Text.assemble(f"{self.name} ", shown if isinstance(shown, Text) else str(shown))


class _Left(ProgressColumn):
    """A progress column with the remaining time."""

    def render(self, task: Task) -> Text:
        left = _seconds_left(task)
        return Text(f"left {'-:--:--' if left is None else _clock(left)}")


def _seconds_left(task: Task) -> float | None:
    """Remaining seconds at the pace so far, capped by the time limit; None if neither is known."""
    elapsed, allowed = task.elapsed or 0.0, task.fields["allowed"]
    here = task.completed - task.fields["first"]  # trials that a resume found done took no time in this run
    known = [] if allowed is None else [max(0.0, allowed - elapsed)]
    if task.total and here > 0:
        known.append(elapsed * (task.total - task.completed) / here)
    return min(known, default=None)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def heading(objective: Objective) -> str:
    about = ", ".join(filter(None, (objective.unit, objective.runtime)))
    return f"{objective.name} ({about})" if about else objective.name


def blocks(arch: dict[str, Any]) -> str:
    """The width and a word for each block: abbreviations of its mixer and ffn, or `-` if the block is unused."""
    words = []
    for block in arch["blocks"]:
        mixer, ffn = block["mixer"]["op"], block["ffn"]["op"]
        unused = mixer == ffn == "none"
        words.append("-" if unused else f"{_initials(mixer)}+{_initials(ffn)}{block['ffn'].get('d_ff', '')}")
    return f"d{arch['d_model']} " + " ".join(words)


def formats(arch: dict[str, Any], runtime: str) -> str:
    """The non-native number formats and their blocks, with a note if int8_onnx is simulated; "" if all are native."""
    found: dict[str, list[int]] = {}
    for i, block in enumerate(arch["blocks"]):
        policy = QuantPolicy.from_json(block.get("quant", {}))
        for name in dict.fromkeys(f.name for _, f in policy.roles):
            found.setdefault(name, []).append(i)
    used = sum(block["mixer"]["op"] != "none" or block["ffn"]["op"] != "none" for block in arch["blocks"])
    words = []
    for name, places in found.items():
        simulated = ", simulated" if name == ONNX_INT8 and runtime != ONNXRUNTIME else ""
        where = "all blocks" if len(places) == used else f"blocks {','.join(map(str, places))}"
        words.append(f"{name}{simulated}: {where}")
    return f" [{'; '.join(words)}]" if words else ""


def _initials(name: str) -> str:
    return "none" if name == "none" else "".join(w[0] for w in name.split("_")) if "_" in name else name[:4]


def front_table(study: Study, rows: Sequence[dict[str, Any]], num_trials: int, reason: str) -> None:
    """Print the front as a table, with predicted and measured latency side by side."""
    has_latency = any("latency" in row for row in rows)
    header = [
        "trial",
        *(heading(o) for o in study.objectives),
        *(["measured (ms)"] if has_latency else []),
        "blocks",
    ]
    lines = []
    for row in rows:
        values = [f"{row['values'][o.name]:.4g}" for o in study.objectives]
        if has_latency:
            measured = row["latency"]["measured"]
            over = " over the bound" if row["latency"].get("over_bound") else ""
            values.append(f"{measured:.4g}{over}" if measured is not None else "")
        mark = f" ({row['kind']})" if row["kind"] else ""
        shown = blocks(row["arch"]) + formats(row["arch"], study.runtime)
        lines.append((str(row["number"]), *values, shown + mark))
    if reason:
        print(f"{study.name}: {reason}")
    empty = f"no complete trial among {num_trials}"
    table(header, lines, empty=empty)
    print(f"{len(rows)} of {num_trials} trials are on the front")
    if study.settings.why_eager:
        print(f"latency is of eager torch: {study.settings.why_eager}")


def show_worth(found: Worth | None) -> None:
    """Print a comparison of the front with networks made by hand: a table, and a sentence with the conclusion."""
    if found is None or not found.sentence():
        return
    q, c = found.quality, found.cost
    lines = []
    for row in found.rows:
        cheaper = better = ("-", "")
        if row.cheaper is not None and row.ratio is not None:
            ratio, low, high = row.ratio
            interval = f" ({low:.2f} - {high:.2f})" if low != high else ""
            cheaper = str(row.cheaper.number), f"{row.cheaper.cost:.4g}, {ratio:.2f} times less{interval}"
        if row.better is not None:
            better = str(row.better.number), f"{row.better.quality:.4g}"
        lines.append(
            (
                row.kind,
                row.plain.number,
                f"{row.plain.quality:.4g}",
                f"{row.plain.cost:.4g}",
                *cheaper,
                *better,
            )
        )
    shown = f"{c.name} ({'measured' if found.is_measured else c.source})"
    header = ("made by hand", "trial", heading(q), shown, "as good", shown, f"in its {c.name}", q.name)
    if lines:
        table(header, lines)
    print(found.sentence())


def show_rungs(study: Study, trials: Sequence[Trial]) -> None:
    """Print how well each rung ranked the networks that were then trained to the end, as Kendall tau."""
    quality = next((o for o in study.objectives if o.source in ("trained", "inherited")), None)
    for found in rung_agreements(trials, quality) if quality else []:
        tau = found.tau
        print(
            f"rung {found.rung}: Kendall tau with the final ranking of {found.count} networks is "
            f"{tau.value:.2f} ({tau.lower:.2f} - {tau.upper:.2f})"
        )


def show_worthless(study: Study, trials: Sequence[Trial]) -> None:
    """Print how many networks are infeasible because the trivial prediction has a lower loss."""
    baseline = study.settings.baseline
    if baseline:
        count = sum(
            t.values.get("loss", 0.0) > baseline.loss for t in trials if t.state == TrialState.INFEASIBLE
        )
        if count:
            print(
                f"{count} networks are left out: their loss is higher than that of {baseline.words} "
                f"({baseline.loss:.4g} nats)"
            )


def table(header: Sequence[str], lines: Sequence[Sequence[Any]], empty: str = "nothing to show") -> None:
    """Print a table, or `empty` if there are no lines; up to 240 columns wide if standard output is no terminal."""
    if not lines:
        print(empty)
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=240)
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for name in header:
        shown.add_column(name, overflow="fold")
    for line in lines:
        shown.add_row(*(Text(str(cell)) for cell in line))  # Text, so that [ in a cell is not read as markup
    console.print(shown)
