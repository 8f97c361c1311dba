"""Searches before the runs of a sweep: trials on the validation split, then the settings found.

Every combination of a command is searched on its own (its seeds share what is found), all with the
same budget. A trial is one run, or several of growing length, under ``protocol=search`` in the
study ``<study>-search``: an ordinary run with an identity, which is found again, continued and
shared between workers as any other. Optuna chooses; what it was told stands in ``search.json`` in
that folder, written after every round, so that a killed search goes on with the same trials.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import spec
from ..errors import ConfigError
from ..files import write_json
from .cli import with_aliases
from .compose import Combination, combinations
from .identity import canonical
from .lock import held
from .orders import Orders
from .plan import Plan, make_plan
from .process import say, together
from .search import Search
from .states import SEARCH as FILE
from .states import state_of
from .store import find_finished
from .work import Policy

SCHEMA = 1
SUFFIX = "-search"
FAILED, STOPPED, DONE = "failed", "stopped", "done"


class Cell:
    """The search of one combination: what was tried, and what is tried next.

    A trial is ``{number, params, runs, state, value}``; ``runs`` lists, per length, the epochs, the
    run ids, the score on val and the seconds. Scores are kept as the task has them; Optuna sees
    them turned so that larger is better.
    """

    def __init__(self, search: Search, base: Combination, folder: Path, stored: Mapping) -> None:
        """Take up a search where ``stored`` leaves it."""
        import optuna

        self.search, self.base, self.folder = search, base, folder
        self.method = base.names["method"]
        settings = base.settings()
        if settings.protocol.name == "paper":
            raise ConfigError("search: it judges on val; protocol=paper chooses on test")
        self.rungs = search.rungs(settings.trainer.epochs)
        self.label = f"{self.method} on {base.names['data']}"
        plan = make_plan([self.trial_of({}, self.rungs[-1])])
        for _, error in plan.refused:
            raise error
        about = {k: v for k, v in spec.to_spec(search).items() if k not in ("trials", "seconds")}
        about |= {"own": search.own.get(self.method)}
        runs = [run.run_id for run in plan.runs if not run.source]
        self.key = hashlib.sha256(canonical([about, runs]).encode()).hexdigest()[:12]
        self.trials: list[dict[str, Any]] = list(stored.get(self.key, {}).get("trials", []))
        self.distributions = search.distributions(self.method)
        reduction = search.halving or 2
        self.study = optuna.create_study(
            direction="maximize",
            pruner=optuna.pruners.SuccessiveHalvingPruner(
                min_resource=self.rungs[0], reduction_factor=reduction
            ),
        )
        self.waiting = [t for t in self.trials if t["state"] is None]
        self.higher = True
        for trial in self.trials:
            if trial["state"] is not None:
                self.study.add_trial(self._frozen(trial))

    def trial_of(self, params: Mapping[str, Any], epochs: int) -> Combination:
        """Compose the run of a trial."""
        words = [w for w in self.base.words if not re.match(r"\+{0,2}protocol(\.final_fit)?=", w)]
        if epochs != self.rungs[-1]:
            words.append(f"trainer.epochs={epochs}")
        study = f"study={self.base.config['study']}{SUFFIX}"
        words = [*words, *self.words(params), "protocol=search", study]
        (made,) = combinations(words, self.folder, multirun=False)
        return made

    def words(self, params: Mapping[str, Any]) -> list[str]:
        """Return the words of a command that stand for parameters of a trial."""
        return with_aliases([f"{key}={value}" for key, value in params.items()])

    @property
    def spent(self) -> float:
        """Seconds that all trials trained and evaluated."""
        return float(sum(run["seconds"] for t in self.trials for run in t["runs"]))

    @property
    def best(self) -> dict[str, Any] | None:
        """The best trial of those that went to the full length."""
        done = [t for t in self.trials if t["state"] == DONE]
        sign = 1 if all(t["higher_is_better"] for t in done) else -1
        return max(done, key=lambda t: sign * t["value"], default=None)

    def ask(self) -> dict[str, Any] | None:
        """Return a trial to be done; None when the budget is spent."""
        import optuna

        number = len(self.trials) - len(self.waiting)
        if self.waiting:
            trial = self.waiting.pop(0)
            self.study.enqueue_trial(trial["params"])
        else:
            limit = self.search.seconds
            if number >= self.search.count(self.method) or (limit and self.spent >= limit):
                return None
            trial = {"number": number, "params": {}, "runs": [], "state": None, "value": None}
            self.trials.append(trial)
            if self.search.sampler == "grid":
                self.study.enqueue_trial(self.search.grid(self.method)[number])
        seed = (self.search.seed * 1_000_003 + number) % 2**32  # the same after a restart
        kinds = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
        self.study.sampler = kinds.get(self.search.sampler, kinds["random"])(seed=seed)
        asked = self.study.ask(self.distributions)
        trial["params"] = dict(asked.params)
        trial["runs"] = []
        self._asked = {**getattr(self, "_asked", {}), number: asked}
        return trial

    def told(self, trial: dict[str, Any], plan: Plan) -> bool:
        """Take the results of a trial's runs; tell whether a longer run follows.

        Raises:
            ConfigError: a run was left undone.

        """
        import optuna

        asked = self._asked[trial["number"]]
        epochs = self.rungs[len(trial["runs"])]
        failure = next((str(error) for _, error in plan.refused), None)
        results = []
        for run in [] if failure else plan.runs:
            result = find_finished(run.run_dir)
            if result is None:
                state, note = state_of(run.run_dir)
                if state != "failed":
                    raise ConfigError(
                        f"search: {run.label} was left undone; the same command goes on"
                    )
                failure = note
            elif not run.source:
                results.append(result)
        if failure is not None:
            trial |= {"state": FAILED, "error": failure}
            self.study.tell(asked, state=optuna.trial.TrialState.FAIL)
            return False
        scores = [result["primary"]["value"] for result in results]
        seconds = sum(r["cost"]["train_s"] + r["cost"]["eval_s"] for r in results)
        higher = all(result["primary"]["higher_is_better"] for result in results)
        value = sum(scores) / len(scores)
        ids = [result["run_id"] for result in results]
        trial["runs"].append({"epochs": epochs, "ids": ids, "value": value, "seconds": seconds})
        trial["higher_is_better"] = higher
        sign = 1 if higher else -1
        if epochs == self.rungs[-1]:
            trial |= {"state": DONE, "value": value}
            self.study.tell(asked, sign * value)
            return False
        asked.report(sign * value, epochs)
        if asked.should_prune():
            trial["state"] = STOPPED
            self.study.tell(asked, state=optuna.trial.TrialState.PRUNED)
            return False
        return True

    def record(self) -> dict[str, Any]:
        """Return what ``search.json`` says of this search."""
        best = self.best
        return {
            "label": self.label,
            "words": list(self.base.words),
            "space": {k: list(v) for k, v in self.search.dimensions(self.method).items()},
            "sampler": self.search.sampler,
            "seed": self.search.seed,
            "rungs": self.rungs,
            "budget": {"trials": self.search.trials, "seconds": self.search.seconds},
            "spent": {"trials": len(self.trials), "seconds": self.spent},
            "best": None if best is None else {k: best[k] for k in ("number", "params", "value")},
            "split": "val",
            "trials": self.trials,
        }

    def note(self) -> dict[str, Any]:
        """Return what a run with the settings found says of its search."""
        record = self.record()
        kept = ("space", "sampler", "seed", "rungs", "budget", "spent", "best", "split")
        study = f"{self.base.config['study']}{SUFFIX}"
        return {"schema_version": SCHEMA, "search": self.key, "study": study} | {
            key: record[key] for key in kept
        }

    def _frozen(self, trial: Mapping[str, Any]) -> Any:
        """Return a trial that ended as Optuna knows it."""
        import optuna

        kinds = optuna.trial.TrialState
        state = {DONE: kinds.COMPLETE, STOPPED: kinds.PRUNED, FAILED: kinds.FAIL}[trial["state"]]
        sign = 1 if trial.get("higher_is_better", True) else -1
        steps = {run["epochs"]: sign * run["value"] for run in trial["runs"]}
        steps.pop(self.rungs[-1], None)
        return optuna.trial.create_trial(
            state=state,
            value=sign * trial["value"] if trial["state"] == DONE else None,
            params=trial["params"],
            distributions=self.distributions,
            intermediate_values=steps,
        )


class Searches:
    """All searches of a command, done round by round."""

    def __init__(self, found: Sequence[Combination], orders: Orders, folder: Path) -> None:
        """Make one search for the combinations that differ in nothing but their seeds.

        Raises:
            ConfigError: a space that does not fit, or several processes.

        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if together():
            raise ConfigError("search: start it with one process; launcher=parallel makes more")
        self.orders, self.folder = orders, folder
        config = found[0].config
        self.place = Path(config["output"]) / f"{config['study']}{SUFFIX}"
        self.groups: dict[tuple[str, ...], list[Combination]] = {}
        for combination in found:
            rest = tuple(w for w in combination.words if not re.match(r"\+{0,2}seed=", w))
            self.groups.setdefault(rest, []).append(combination)
        methods = {group[0].names["method"] for group in self.groups.values()}
        for method in set(orders.search.own) - methods:
            raise ConfigError(
                f"search.own.{method}: the command has only {', '.join(sorted(methods))}"
            )
        stored = self._stored()
        self.cells = {
            rest: Cell(orders.search, group[0], folder, stored)
            for rest, group in self.groups.items()
        }

    def settled(self, since: float) -> list[Combination]:
        """Do what is left of all searches, and return the combinations with what was found.

        Raises:
            ConfigError: no trial of a search ended well.
            RunLockedError: another process does this study's search.
            SystemExit: told to stop; the same command goes on.

        """
        self.place.mkdir(parents=True, exist_ok=True)
        with self._held():
            while self._round(since):
                pass
        out = []
        for rest, group in self.groups.items():
            cell = self.cells[rest]
            if cell.best is None:
                raise ConfigError(
                    f"search: none of {len(cell.trials)} trials of {cell.label} went to its end; "
                    f"the first says: {cell.trials[0].get('error', 'stopped')}"
                )
            for combination in group:
                study = f"study={combination.config['study']}"
                words = [*combination.words, *cell.words(cell.best["params"]), study]
                out += combinations(words, self.folder, multirun=False)
        return out

    def leave_notes(self, found: Sequence[Combination]) -> None:
        """Put what was searched beside the results of the runs that use it."""
        left = list(found)
        for rest, group in self.groups.items():
            mine, left = left[: len(group)], left[len(group) :]
            for run in make_plan(mine).runs:
                if not run.source and run.run_dir.result.exists():
                    write_json(run.run_dir.path / FILE, self.cells[rest].note())

    def show(self) -> None:
        """Say how far the searches are."""
        for cell in self.cells.values():
            say(self._line(cell))

    def _line(self, cell: Cell) -> str:
        ended = sum(t["state"] is not None for t in cell.trials)
        head = f"search, {cell.label}: {ended} of {cell.search.count(cell.method)} trials"
        if cell.best is None:
            return head
        words = " ".join(_short(word) for word in cell.words(cell.best["params"]))
        return f"{head}, {cell.spent:.1f} s; best on val {cell.best['value']:.4f} with {words}"

    def _round(self, since: float) -> bool:
        """Do some trials of every search side by side; tell whether there were any."""
        width = math.ceil(self.orders.launcher.hands / len(self.cells))
        asked = [
            (cell, trial)
            for cell in self.cells.values()
            for _ in range(width)
            if (trial := cell.ask()) is not None
        ]
        going = asked
        while going:
            self._write()
            plans = {
                id(trial): make_plan(
                    [cell.trial_of(trial["params"], cell.rungs[len(trial["runs"])])]
                )
                for cell, trial in going
            }
            runs = {run.run_id: run for plan in plans.values() for run in plan.runs}
            if any(find_finished(run.run_dir) is None for run in runs.values()):
                self.orders.launcher.check()
                policy = Policy(since, self.orders.attempts, stop=False, wait=True)
                self.orders.launcher.run(Plan(tuple(runs.values())), policy)
            going = [(c, t) for c, t in going if c.told(t, plans[id(t)])]
        if asked:
            self._write()
            self.show()
        return bool(asked)

    def _stored(self) -> dict[str, Any]:
        try:
            content = json.loads((self.place / FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise ConfigError(f"{self.place / FILE} cannot be read: {error}") from error
        return dict(content["searches"])

    def _write(self) -> None:
        mine = {cell.key: cell.record() for cell in self.cells.values()}
        content = {"schema_version": SCHEMA, "searches": {**self._stored(), **mine}}
        write_json(self.place / FILE, content)

    @contextmanager
    def _held(self) -> Iterator[None]:
        with held(self.place / ".search.lock"):
            yield


def _short(word: str) -> str:
    key, _, value = word.partition("=")
    try:
        return f"{key}={float(value):.3g}"
    except ValueError:
        return word
