"""Hands the pictures to workers of Ray (https://docs.ray.io): several GPUs, or several machines.

Each worker is an actor with one model. It sends a picture back as the bytes of its file, so workers need no folder in
common; what they need is this package and the model's files. A worker that is lost (a machine that is switched off, a
process that is killed) is replaced, and what it was at is made again.
"""

from __future__ import annotations

import enum
import logging
import os
import signal
import socket
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from dit360_core.batching.items import Item
from dit360_core.batching.painting import Job, Painted, Painter, job_of, largest
from dit360_core.errors import Dit360Error, InputError, Sentence, first_line, named, setting
from dit360_core.options import LoadOptions
from dit360_core.panorama.formats import Saving
from dit360_core.system.installed import installed_version

log = logging.getLogger("dit360")

TRIES = 3
"""How often one picture may cost a worker its life before it is given up: it is probably the picture then."""

PATIENCE = 120.0
"""Seconds in which a worker's process must have started. Not in which its model is loaded, which may take as it may."""

OBJECT_STORE = 512 * 2**20
"""Bytes for what travels, of a Ray that is started here: the files of pictures, of a few MiB each."""


class Worker:
    """What runs in an actor. Errors are told as text: an exception would have to be unpickled by another Python."""

    def __init__(self) -> None:
        self._painter: Painter | None = None

    def where(self) -> tuple[str, str]:
        """(the machine and the process, for people; the version of this package there)."""
        return f"{socket.gethostname()} ({os.getpid()})", installed_version("dit360-core") or ""

    def prepare(self, loading: LoadOptions, planned_for: Item) -> tuple[str | None, dict[str, Any]]:
        """Looks for the model and checks it: (what is wrong, what of its plan decides what pictures show)."""
        try:
            self._painter = Painter(loading, planned_for)
        except Dit360Error as error:
            return error.sentence, {}
        return None, self._painter.identity

    def wrong(self, items: Sequence[Item]) -> list[tuple[Item, str]]:
        """What is wrong with which pictures."""
        return [(item, why) for item in items if (why := self._at_hand.wrong(item))]

    def load(self) -> str | None:
        """Reads the weights; what is wrong, if anything is."""
        try:
            self._at_hand.load()
        except Dit360Error as error:
            return error.sentence
        return None

    def start(self, loading: LoadOptions, planned_for: Item, like: dict[str, Any]) -> str | None:
        """All of it, for a worker that takes another's place and must make the same pictures; what is wrong."""
        wrong, mine = self.prepare(loading, planned_for)
        if wrong is None:
            wrong = self._at_hand.wrong(planned_for)
        if wrong is None and mine != like:
            wrong = f"it would make other pictures: {mine} instead of {like}"
        return wrong or self.load()

    def paint(self, job: Job) -> Painted:
        """Makes one picture."""
        return self._at_hand.paint(job)

    @property
    def _at_hand(self) -> Painter:
        assert self._painter is not None
        return self._painter


class _Stage(enum.Enum):
    """What a worker is at that takes another's place, before it gets a picture."""

    STARTING = enum.auto()
    LOADING = enum.auto()


@attrs.define(kw_only=True, eq=False)
class _Hired:
    actor: Any  # Ray's handle of a Worker: the same methods, each with .remote()
    where: str
    identity: dict[str, Any]


class OnRay:
    """An engine.

    workers: how many, or None for as many as there are GPUs, or machines if there are none.

    address: of a Ray that runs already ("auto": the one of this machine's cluster); None starts one here for the while.
    One that the caller has initialized is used, and left as it is.
    """

    def __init__(
        self, loading: LoadOptions, *, saving: Saving, workers: int | None = None, address: str | None = None
    ) -> None:
        self._loading = loading
        self._saving = saving
        self._wanted = workers
        self._address = address
        self._hired: list[_Hired] = []
        self._planned_for: Item | None = None
        self._share: dict[str, float] = {}
        self._failed_starts = 0
        self._callers = False
        # Not at the top: it is an extra, and takes a second.
        try:
            import ray
        except ImportError as error:
            raise InputError(
                f"{setting('engine', 'ray')} needs Ray, which is not installed; "
                f'pip install "dit360-core[ray]", or use {setting("engine", "local")}.'
            ) from error
        self._ray = ray

    def check(self, items: Sequence[Item]) -> list[tuple[Item, str]]:
        """What is wrong with which pictures, before weights are read. Raises Dit360Error if workers cannot be had."""
        self._planned_for = largest(items)
        self._connect()
        self._hire(self._count())
        # All of them: what one machine can make may be too much for another.
        told = self._get([hired.actor.wrong.remote(list(items)) for hired in self._hired])
        return next((wrong for wrong in told if wrong), [])

    def identities(self) -> dict[str, dict[str, object]]:
        """Worker → what of its plan decides what pictures show."""
        return {hired.where: hired.identity for hired in self._hired}

    def load(self) -> None:
        """Reads the weights, in all workers at once."""
        for told in self._get([hired.actor.load.remote() for hired in self._hired]):
            if told is not None:
                raise Dit360Error(told)

    def paint(self, items: Sequence[Item]) -> Iterator[Painted]:
        """The pictures as they are made, in any order."""
        queue, cost = deque(items), Counter[str]()
        idle = deque(self._hired)
        busy: dict[Any, tuple[_Hired, Item | _Stage]] = {}
        while queue or any(isinstance(task, Item) for _, task in busy.values()):
            while queue and idle:
                hired, item = idle.popleft(), queue.popleft()
                try:
                    busy[hired.actor.paint.remote(job_of(item, self._saving))] = (hired, item)
                except InputError as error:
                    idle.append(hired)
                    yield Painted(item=item, error=Sentence(error.sentence))
            if not busy:
                continue
            done = self._next(busy)
            hired, task = busy.pop(done)
            answer, why = self._answer(done, task)
            if why is not None:
                if isinstance(task, Item):
                    cost[task.name] += 1
                    if cost[task.name] < TRIES:
                        queue.appendleft(task)
                    else:
                        yield Painted(item=task, error=f"it cost {TRIES} workers their life, the last with: {why}")
                newcomer = self._replace(hired, why, started=isinstance(task, Item))
                if newcomer is not None:
                    busy[newcomer.actor.where.remote()] = (newcomer, _Stage.STARTING)
            elif task is _Stage.STARTING:
                hired.where = answer[0]
                loading = hired.actor.start.remote(self._loading, self._planned_for, hired.identity)
                busy[loading] = (hired, _Stage.LOADING)
            else:
                idle.append(hired)
                if isinstance(task, Item):
                    yield attrs.evolve(answer, worker=hired.where)

    def _next(self, busy: Mapping[Any, tuple[_Hired, Item | _Stage]]) -> Any:
        """The first that is done. Raises Dit360Error if all that is waited for is a place for a worker."""
        only_starting = all(task is _Stage.STARTING for _, task in busy.values())
        done, _ = self._ray.wait(list(busy), num_returns=1, timeout=PATIENCE if only_starting else None)
        if not done:
            raise Dit360Error(f"No worker is left, and none could be started within {PATIENCE:g} s; see 'ray status'.")
        return done[0]

    def _answer(self, done: Any, task: Item | _Stage) -> tuple[Any, str | None]:
        """(what a worker answered, None), or (None, why it is of no use any more)."""
        try:
            answer = self._ray.get(done)
        except self._ray.exceptions.RayError as error:
            return None, _why(error)
        if task is _Stage.LOADING:
            return None, answer
        if task is _Stage.STARTING:
            return answer, _other_version(answer)
        return answer, None

    def _replace(self, lost: _Hired, why: str, *, started: bool) -> _Hired | None:
        """Another worker for one that is lost; None if there are others, and new ones have failed too often."""
        self._hired.remove(lost)
        self._ray.kill(lost.actor)
        self._failed_starts += not started
        if self._failed_starts >= TRIES:
            if not self._hired:
                raise Dit360Error(f"No worker is left, and none could be started: {why}.")
            log.warning("The worker %s cannot be replaced (%s); the others go on.", lost.where or "anew", why)
            return None
        log.warning("The worker %s was lost (%s); another takes its place.", lost.where or "anew", why)
        return self._start(lost.identity)

    def close(self) -> None:
        """Ends the workers, and Ray if it was started here."""
        for hired in self._hired:
            self._ray.kill(hired.actor)
        self._hired = []
        if not self._callers:
            self._ray.shutdown()

    # ---------------------------------------------------------------------------------------------------- inner parts

    def _connect(self) -> None:
        ray = self._ray
        self._callers = ray.is_initialized()
        if self._callers:
            return
        # Nobody who makes pictures has asked for statistics to be sent.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        here: dict[str, Any] = (
            {} if self._address else {"object_store_memory": OBJECT_STORE, "include_dashboard": False}
        )
        self._check_address()
        # Ray takes the signal for itself, and would end without a word.
        before = signal.getsignal(signal.SIGTERM)
        try:
            self._init(**here)
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)

    def _init(self, **here: Any) -> None:
        """Raises Dit360Error. A Ray of its own may take three times as long to start as Ray itself would wait."""
        where = f"at {self._address}" if self._address else "on this machine"
        for tries_left in reversed(range(1 if self._address else TRIES)):
            try:
                self._ray.init(self._address or "local", log_to_driver=False, logging_level=logging.ERROR, **here)
                return
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise Dit360Error(
                    f"Ray cannot be reached {where} ({first_line(error)}); start it with 'ray start --head', or check "
                    "the address."
                ) from error
            except Exception as error:
                # Of no other kind: what Ray raises where its first process is not there after half a minute.
                if not tries_left:
                    raise Dit360Error(
                        f"Ray cannot be started {where} ({first_line(error)}); try again when there is less to do, or "
                        f"use {setting('engine', 'local')}."
                    ) from error
                log.warning("Ray did not start in time (%s); it is started again.", first_line(error))

    def _check_address(self) -> None:
        """Raises Dit360Error if nobody listens there. Ray itself would try again for ten minutes and more."""
        host, colon, port = (self._address or "").rpartition(":")
        if not colon or not port.isdigit() or "/" in host:
            return  # "auto", or Ray's own kinds of addresses
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except (OSError, OverflowError, UnicodeError) as error:
            raise Dit360Error(
                f"Ray cannot be reached at {self._address} ({first_line(error)}); start it with 'ray start --head', or "
                "check the address."
            ) from error

    def _count(self) -> int:
        """How many workers, with an equal share of what is free. An actor that asks for more would wait for ever."""
        ray = self._ray
        free = ray.available_resources()
        gpus, cpus = int(free.get("GPU", 0)), int(free.get("CPU", 0))
        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
        on_gpus = gpus > 0 and self._loading.device in ("auto", "cuda")
        if self._loading.device == "cuda" and not gpus:
            raise InputError(
                f"{setting('device', 'cuda')} was asked for, and Ray has no GPU that is free; wait, or leave the "
                f"{named('device')} out."
            )
        count = self._wanted or (gpus if on_gpus else max(1, min(len(nodes), cpus)))
        most, what = (gpus, "GPUs") if on_gpus else (cpus, "CPUs")
        if not most:
            raise InputError(
                f"Ray has no CPU that is free; wait for what it is at, or use another {named('ray_address')}."
            )
        if count > most:
            raise InputError(f"{count} workers were asked for, and Ray has {most} {what} that are free; ask for fewer.")
        if on_gpus:
            self._share = {"num_gpus": 1}
        else:
            smallest = min(int(node["Resources"]["CPU"]) for node in nodes)
            on_each = -(-count // len(nodes))
            self._share = {"num_cpus": max(1, min(smallest // on_each, cpus // count))}
        return count

    def _hire(self, count: int) -> None:
        """Starts workers and lets each look for the model."""
        ray = self._ray
        hired = [self._start({}) for _ in range(count)]
        try:
            places = ray.get([each.actor.where.remote() for each in hired], timeout=PATIENCE)
        except ray.exceptions.GetTimeoutError as error:
            share = ", ".join(f"{name}={value:g}" for name, value in self._share.items())
            raise Dit360Error(
                f"{count} workers with {share} did not start within {PATIENCE:g} s; see 'ray status' for what is free."
            ) from error
        except ray.exceptions.RayError as error:
            raise Dit360Error(
                f"A worker did not start ({_why(error)}); is dit360-core installed on each machine?"
            ) from error
        for wrong in filter(None, map(_other_version, places)):
            raise Dit360Error(wrong)
        answers = self._get([each.actor.prepare.remote(self._loading, self._planned_for) for each in hired])
        for each, (where, _), (wrong, identity) in zip(hired, places, answers, strict=True):
            if wrong is not None:
                raise Dit360Error(wrong)
            each.where, each.identity = where, identity

    def _start(self, identity: dict[str, Any]) -> _Hired:
        """A worker that may still have to wait for a place.

        identity: what it must be like.
        """
        options = {**self._share, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        hired = _Hired(actor=self._ray.remote(Worker).options(**options).remote(), where="", identity=identity)
        self._hired.append(hired)
        return hired

    def _get(self, refs: Any) -> Any:
        try:
            return self._ray.get(refs)
        except self._ray.exceptions.RayError as error:
            raise Dit360Error(f"A worker failed: {_why(error)}; see Ray's log of it.") from error


def _other_version(told: tuple[str, str]) -> str | None:
    """Why a worker is of no use that runs another version of this package."""
    where, version = told
    mine = installed_version("dit360-core") or ""
    if version == mine:
        return None
    return f"{where} has dit360-core {version} and this machine {mine}; install the same on all."


def _why(error: BaseException) -> str:
    """What went wrong in a worker: Ray wraps it into an exception whose first line is an address."""
    return first_line(getattr(error, "cause", None) or error)
