"""What the searches of one study leave in its folder: finished pools, unfinished ones, their table and pictures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from utils import checkpoint, heat_maps, pool_tables, schemas, tickets
from utils.claims import refuse_other_run
from utils.errors import UserError
from utils.folders import check_space
from utils.plain_data import Schema, misfit
from utils.pool_tables import Entry, by_level
from utils.pools import Pool, Step
from utils.pruning import State, apply_mask, largest_magnitudes
from utils.schemas import is_recipe
from utils.studies import Study
from utils.tickets import Ticket, TicketFile


class PoolFiles:
    """The files of the pools of a study. Of several processes that share each start one writes, and all may read."""

    def __init__(self, study: Study):
        self.study, self.folder, self.writes = study, study.folder, study.evaluator.processes.is_main

    def check_space(self, pools: int) -> None:
        """UserError where so many more pools will surely not fit on the disk."""
        if self.study.processes.is_main:
            network = sum(value.nbytes for value in self.study.evaluator.net.state_dict().values())
            check_space(self.folder, pools * network, f"{pools} more pools")

    def read_entries(self, levels: Sequence[int]) -> dict[int, Entry]:
        """The entries of all starts whose pools are there, by level; those of `levels` will be searched if missing."""
        entries = {}
        for file in self.study.files:
            path = tickets.pool_path(self.folder, file.level)
            verdict = "searching again" if file.level in levels else "left out until --levels names it"
            recipe = self._read_own(path, file, "recipe", is_recipe, verdict)
            if recipe is not None:
                if recipe["level"] != file.level:
                    raise _damaged(path, "recipe.level", file)
                entries[file.level] = recipe
        return entries

    def read_unfinished(self, start: TicketFile, ticket: Ticket, plan: Sequence[int]) -> Pool | None:
        """The pool, on the device, that an interrupted search by the candidates of `plan` had come to, if any."""
        path = tickets.unfinished_pool_path(self.folder, start.level)
        evaluator = self.study.evaluator
        found = evaluator.processes.from_main(lambda: self._read_own(path, start, "pool", schemas.UNFINISHED_POOL))
        if found is None:
            return None
        steps = [Step(**{name: step[name] for name in schemas.STEP}) for step in found["steps"]]
        pool = Pool(found["state"], found["score"], found["shares"], steps)
        tried = [step.candidate for step in pool.steps]
        fits = tickets.alike(pool.state, ticket.state) and {*pool.shares} <= {start.level, *tried}
        if not fits or not Counter(tried) <= Counter(plan):
            raise _damaged(path, "pool", start)
        if tried != [*plan[: len(tried)]]:  # with --order best, where another device has other scores
            self.study.say("  the candidates come in another order now: searching again")
            return None
        pool.state = evaluator.to_device(pool.state)
        self.study.say(f"  going on after {len(pool.steps)} of {len(plan)} candidates")
        return pool

    def _read_own(
        self, path: Path, start: TicketFile, name: str, shape: Schema, verdict: str = "searching again"
    ) -> Any:
        """What an earlier search from this start left in `path` under `name`.

        None if there is no such file, or if it was made of other tickets, which the log tells, with the `verdict` on
        what follows. UserError where it is not of that `shape`, or of a run with other flags.
        """
        if not path.exists():
            return None
        content = checkpoint.load(path)
        if odd := misfit(content, schemas.POOL_FILE):
            raise _damaged(path, odd, start)
        refuse_other_run(content["settings"], self.study.description["settings"], path)
        if content["tickets"] == self._sources(start):
            if odd := misfit(content, {name: shape}):
                raise _damaged(path, odd, start)
            return content[name]
        self.study.say(f"level {start.level}: {path.name} is of other tickets, {verdict}")
        return None

    def save(self, start: TicketFile, ticket: Ticket, pool: Pool, entry: Entry) -> None:
        """Write a finished pool with true zeros, its mask and its recipe, `entry`."""
        if not self.writes:
            return
        grown = not (pool.is_ticket(ticket.level) or ticket.is_dense)
        mask = largest_magnitudes(pool.state, ticket.mask, ticket.kept) if grown else ticket.mask
        content = {
            "state_dict": _on_cpu(apply_mask(pool.state, mask)),
            "mask": _on_cpu(mask),
            "recipe": entry,
            **self.study.description,
            "tickets": self._sources(start),
        }
        checkpoint.save(content, tickets.pool_path(self.folder, ticket.level))

    def save_unfinished(self, start: TicketFile, pool: Pool) -> None:
        """Write what a search has come to, for `read_unfinished`."""
        if not self.writes:
            return
        steps = [asdict(step) for step in pool.steps]
        plain = {"state": _on_cpu(pool.state), "score": pool.score, "shares": pool.shares, "steps": steps}
        content = {"settings": self.study.description["settings"], "tickets": self._sources(start), "pool": plain}
        checkpoint.save(content, tickets.unfinished_pool_path(self.folder, start.level))

    def remove_unfinished(self, start: TicketFile) -> None:
        if self.writes:
            tickets.unfinished_pool_path(self.folder, start.level).unlink(missing_ok=True)

    def draw_search(self, entry: Entry, select_by: str) -> None:
        """Draw the scores of all candidates and coefficients, if there were coefficients to choose from."""
        if self.writes and any(len(step["coefficients"]) > 1 for step in entry["steps"]):
            heat_maps.plot_search(entry, tickets.search_plot(self.folder, entry["level"]), select_by)

    def save_table(self, entries: Mapping[int, Entry]) -> None:
        """Write `pools.json` and `pools.csv` with the starts that are done, whose `entries` are given by level."""
        if self.study.processes.is_main:
            pool_tables.save_table(by_level(entries), self.study.description, self.study.digests, self.folder)

    def draw(self, entries: Mapping[int, Entry]) -> None:
        """Draw `accuracy.png` of all starts that are done."""
        if self.study.processes.is_main:
            pool_tables.draw(by_level(entries), self.folder)

    def _sources(self, start: TicketFile) -> list[list]:
        return self.study.sources(start, *self.study.candidates(start))


def _damaged(path: Path, part: str, start: TicketFile) -> UserError:
    return UserError(f"{path} is damaged ({part}): remove it to search from level {start.level} again")


def _on_cpu(state: State) -> State:
    return {name: value.detach().cpu() for name, value in state.items()}
