"""Read the pages unattended and see that the demo keeps its word.

What is asserted, over HTTP: a miss waits for the source; a stale value is answered in milliseconds
while the source takes seconds; the worker, and no request, fetched the new value; what the clock
keeps warm is never stale; a failing source costs no reader anything; a group of calls fills in call
order, with its failures told apart; the result of a Celery task is a row of the database; worker
and tasks are in the admin; the other pages answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .browser import Browser, CheckFailed, expect
from .check_group import check_group
from .check_monitor import check_monitor
from .check_warm import Warm
from .processes import DemoError, Supervisor
from .stage import Stage, control

SLOW = 3.0  # seconds the source takes
MOMENT = 0.5  # seconds that a read from the cache may take, on a busy machine too
PAGES = (
    "/",
    "/weather/AKL/",
    "/countries/",
    "/countries/NZ/",
    "/airports/AKL/",
    "/board/",
    "/report/",
    "/warm/",
    "/live/",
    "/statistics/",
    "/groups/",
)


@dataclass(frozen=True)
class Step:
    """One line of the table."""

    what: str
    state: str
    seconds: float | None
    note: str


class Check:
    """The steps of the check, in order; each asserts and leaves a line in the table."""

    def __init__(self, stage: Stage, supervisor: Supervisor) -> None:
        self.stage = stage
        self.supervisor = supervisor
        self.browser = Browser(stage.url)
        self.steps: list[Step] = []
        self.warm = Warm(self)

    def run(self) -> None:
        """Do every step.

        Raises:
            CheckFailed: A promise was not kept.
        """
        control(self.stage.upstream, delay=SLOW, failing=False)
        first = self.miss("weather/KEF")
        self.fresh("weather/KEF", first["value"], "second read", "from the cache")
        check_group(self)  # meanwhile the value turns stale
        self.goes_stale("weather/KEF", first["value"])
        self.refreshed("weather/KEF", first["value"])
        self.board()
        self.warm.finish()
        self.source_fails("weather/KEF")
        self.database_list()
        check_monitor(self)
        self.pages()

    def read(self, address: str) -> tuple[dict[str, Any], float]:
        """Do a read over HTTP and return how it went, and the seconds the whole request took."""
        started = time.monotonic()
        answer = self.browser.json(f"/read/{address}/")
        return answer, time.monotonic() - started

    def state(self, address: str) -> dict[str, Any]:
        """Look at the state of a read without doing it."""
        return self.browser.json(f"/state/{address}/")

    def miss(self, address: str) -> dict[str, Any]:
        """The first read: nothing is stored, so it waits for the source."""
        answer, seconds = self.read(address)
        expect(answer["state"] == "miss", f"the first read is a {answer['state']}, not a miss")
        expect(seconds >= SLOW * 0.9, f"a miss took {seconds:.3f} s, less than the source needs")
        expect(answer["value"] is not None, f"the first read returned nothing: {answer['error']}")
        self.step("first read", "miss", seconds, "waits for the source")
        return answer

    def fresh(self, address: str, value: dict[str, Any], what: str, note: str) -> None:
        """A read within the ttl: the same value, at once."""
        answer, seconds = self.read(address)
        expect(answer["state"] == "fresh", f"the {what} is {answer['state']}, not fresh")
        expect(answer["value"] == value, f"the {what} returned another value")
        expect(seconds < MOMENT, f"a fresh read took {seconds:.3f} s")
        self.step(what, "fresh", seconds, note)

    def goes_stale(self, address: str, value: dict[str, Any]) -> None:
        """Past the ttl: the old value, at once, while the source would take seconds."""
        self.wait("the value to turn stale", 20, lambda: self.state(address)["state"] == "stale")
        self.stale(address, value, "read after the ttl", f"the source takes {SLOW:g} s")

    def stale(self, address: str, value: dict[str, Any], what: str, note: str) -> None:
        """A stale read: the old value, at once."""
        answer, seconds = self.read(address)
        expect(answer["state"] == "stale", f"the {what} is {answer['state']}, not stale")
        expect(answer["value"] == value, f"the {what} did not return the stored value")
        expect(seconds < MOMENT, f"a stale read took {seconds:.3f} s")
        self.step(what, "stale", seconds, note)

    def refreshed(self, address: str, old: dict[str, Any]) -> None:
        """The worker brings a new value; no request waits for it."""
        started = time.monotonic()
        self.wait("the worker to refresh", 25, lambda: self.state(address)["state"] == "fresh")
        took = time.monotonic() - started
        answer, seconds = self.read(address)
        value = answer["value"]
        expect(value["reading"] != old["reading"], "the value is fresh, but it is the old one")
        expect(
            value["fetched_by"] != self.supervisor.pid_of("web server"),
            "the new value was fetched by the web server, not by the worker",
        )
        expect(seconds < MOMENT, f"a read after the refresh took {seconds:.3f} s")
        self.step("behind the requests", "", took, "the worker fetched a new value")
        self.step("read after the refresh", "fresh", seconds, "the new value")

    def board(self) -> None:
        """The async view: nothing stored, six airports, one request to the source."""
        control(self.stage.upstream, delay=1.0)
        asked = self.asked()
        for what, state, least, most in (
            ("async view", "miss", 0.9, 1.0 + MOMENT * 2),
            ("async view again", "fresh", 0.0, MOMENT),
        ):
            started = time.monotonic()
            self.browser.get("/board/")
            seconds = time.monotonic() - started
            expect(least <= seconds < most, f"the {what} took {seconds:.3f} s")
            self.step(what, state, seconds, "six airports")
        times = self.asked() - asked
        expect(times == 1, f"the source was asked {times} times for six airports, not once")

    def asked(self) -> int:
        """How often the source was asked for anything but what the clock keeps warm."""
        asked = control(self.stage.upstream)["asked"]
        return sum(n for codes, n in asked.items() if not set(codes.split(",")) <= self.warm.hubs)

    def source_fails(self, address: str) -> None:
        """A source that fails: readers keep the stored value, and the error can be seen."""
        control(self.stage.upstream, delay=0.2, failing=True)
        value = self.read(address)[0]["value"]
        self.browser.get("/weather/AKL/")  # for the CSRF cookie; a page shows an error as well
        self.browser.post(f"/act/invalidate/{address}/")
        self.stale(address, value, "read after invalidate", "the source fails now")
        self.wait("the failure to be noted", 20, lambda: bool(self.state(address)["error"]))
        self.stale(address, value, "read after the failure", self.state(address)["error"][:60])
        control(self.stage.upstream, delay=0.2, failing=False)
        self.again(address, "the source to be asked again after its failure")
        self.step("the source works again", "fresh", None, "the worker tried again")

    def again(self, address: str, what: str) -> None:
        """Read, as visitors would, until the state is fresh."""
        self.wait(what, 25, lambda: self.read(address)[0]["state"] == "fresh", pause=0.5)

    def database_list(self) -> None:
        """A list of the ORM: invalidated, served, refreshed by the worker."""
        address = "country/NZ"
        self.read(address)
        answer, seconds = self.read(address)
        expect(answer["state"] == "fresh", f"a cached list is {answer['state']}, not fresh")
        self.step("list from the database", "fresh", seconds, "QuerySetFilterJob")
        self.browser.post(f"/act/invalidate/{address}/")
        answer, seconds = self.read(address)
        expect(answer["state"] == "stale", f"an invalidated list is {answer['state']}")
        expect(seconds < MOMENT, f"a stale list took {seconds:.3f} s")
        self.step("list after invalidate", "stale", seconds, "QuerySetFilterJob")
        self.wait("the list's refresh", 25, lambda: self.state(address)["state"] == "fresh")
        self.step("list after the refresh", "fresh", None, "by the worker")

    def pages(self) -> None:
        """Every page answers, the async one too."""
        started = time.monotonic()
        for path in PAGES:
            body = self.browser.get(path)
            expect(b"</html>" in body, f"{path} is not a whole page")
        self.step(f"{len(PAGES)} pages", "", time.monotonic() - started, "all answer")

    def wait(
        self, what: str, timeout: float, ready: Callable[[], bool], pause: float = 0.1
    ) -> None:
        """Wait for something that can be seen from outside; a bound makes it a failure."""
        try:
            self.supervisor.wait(what, _paced(self._looked(ready), pause), timeout)
        except DemoError as error:
            # The logs follow in any case: the first line says what was waited for.
            raise CheckFailed(str(error).splitlines()[0]) from error

    def _looked(self, ready: Callable[[], bool]) -> Callable[[], bool]:
        """Look at what is kept warm, too, while something else is waited for."""

        def looked() -> bool:
            self.warm.look()
            return ready()

        return looked

    def step(self, what: str, state: str, seconds: float | None, note: str) -> None:
        """Add a line to the table."""
        self.steps.append(Step(what, state, seconds, note))


def _paced(ready: Callable[[], bool], pause: float) -> Callable[[], bool]:
    """Ask at most once in `pause` seconds."""
    due = 0.0

    def asked() -> bool:
        nonlocal due
        if time.monotonic() < due:
            return False
        answer = ready()
        due = time.monotonic() + pause
        return answer

    return asked


def duration(seconds: float | None) -> str:
    """Return a duration for the table."""
    return "" if seconds is None else f"{seconds * 1000:.0f} ms"


def table(steps: list[Step]) -> str:
    """Return the steps as a table of plain text."""
    rows = [("what", "state", "took", "")]
    rows += [(step.what, step.state, duration(step.seconds), step.note) for step in steps]
    first = max(len(row[0]) for row in rows)
    return "\n".join(
        f"  {what:<{first}}  {state:<5}  {took:>8}  {note}".rstrip()
        for what, state, took, note in rows
    )


@contextmanager
def _timed(say: Callable[[str], None]) -> Iterator[None]:
    started = time.monotonic()
    yield
    say(f"checked in {time.monotonic() - started:.1f} s")


def run_check(stage: Stage, supervisor: Supervisor) -> int:
    """Run the check, print its table and return the exit status."""
    check = Check(stage, supervisor)
    try:
        with _timed(lambda text: print(f"  {text}", flush=True)):
            check.run()
    except CheckFailed as error:
        print(f"\n{table(check.steps)}\n\nFAILED: {error}\n", flush=True)
        for service in supervisor.services:
            print(f"--- {service.name}\n{service.tail()}", flush=True)
        return 1
    print(f"\n{table(check.steps)}\n\nOK: every promise held.\n", flush=True)
    return 0
