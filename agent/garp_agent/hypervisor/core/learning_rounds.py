"""When learning frames are sent: rounds after each failover, their pace, and what became of them.

A switch port that has just got its carrier can block for seconds, so one round is not enough.  Each
round is planned anew from new tables, and the later ones leave out who has spoken since.  Frames
are pulled one batch after the other, and each is sent only if its links are still there.

Does not decide what a failover is (hypervisor.core.bonds) or who gets a frame (learning_plan), and
opens no socket.  The caller reads the tables when :attr:`LearningRounds.wants_tables` says so.
"""

from __future__ import annotations

from itertools import islice
from math import inf

from garp_agent.hypervisor.core.guests import rounded
from garp_agent.hypervisor.core.learning_plan import LOST_FOR, Moment
from garp_agent.wire.model import LEVEL_INFO, LEVEL_WARNING
from garp_agent.wire.record import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from garp_agent.hypervisor.core.bonds import FollowedLink
    from garp_agent.hypervisor.core.learning_plan import LearningEntry, LearningPlan
    from garp_agent.hypervisor.core.learning_rules import LearningRules
    from garp_agent.hypervisor.core.learning_state import LearningState
    from garp_agent.hypervisor.core.links import LinkTable
    from garp_agent.wire.notices import Notices

OFFSETS = (0.0, 1.0, 3.0, 7.0)  # seconds from the failover to each round
TABLES_WITHIN = 0.5  # seconds; without new tables the memory is used
AT_ONCE = 256  # frames in a turn, without a pace
TICK = 0.001  # seconds
LATE = 4  # ticks whose frames a turn that comes late may send
ATTEMPTS = 1000  # of a frame while a queue is full; a turn makes one
HISTORY = 100  # failovers kept


class LearningRecord:
    """What became of the learning frames after one failover."""

    def __init__(self, wall: float) -> None:
        self.wall = wall  # seconds since 1970, as in the history of hints
        self.rounds = 0
        self.sent = 0
        self.failed: dict[int, int] = {}  # by errno
        self.left_out: dict[str, int] = {}  # by reason, in the first round
        self.first: float | None = None  # seconds from the failover to the first frame
        self.last: float | None = None  # to the last frame of the first round

    def values(self) -> dict[str, object]:
        """Return the record as plain values."""
        return {
            "rounds": self.rounds,
            "sent": self.sent,
            "failed": {str(number): count for number, count in self.failed.items()},
            "left_out": dict(self.left_out),
            "first_seconds": rounded(self.first),
            "last_seconds": rounded(self.last),
        }


class _Run:
    """The rounds of one failover."""

    def __init__(
        self, bonds: set[int], aggregators: frozenset[int], now: float, record: LearningRecord
    ) -> None:
        self.bonds = bonds  # without those that have failed over again since
        self.aggregators = aggregators
        self.began = now
        self.record = record
        self.due = now  # of the next round; inf: there is none
        self.waits_since = inf  # for tables; inf: it does not
        self.queue: deque[LearningEntry] = deque()
        self.attempts = 0  # of the first in the queue
        # Whether the latest frame was sent.  If not, the next one comes alone: it can fail as well,
        # and of the first one the history has the time.
        self.is_sending = False
        self.retry_at = -inf  # when that may be sent, after its bond's queue was full

    @property
    def is_over(self) -> bool:
        return not self.bonds or (self.due == inf and not self.queue and self.waits_since == inf)

    def plan_next(self, now: float) -> None:
        """Set the time of the next round; a late one takes the place of those before it."""
        ahead = [self.began + each for each in OFFSETS if self.began + each > now]
        self.waits_since = inf
        self.due = ahead[0] if ahead else inf


class LearningRounds:
    """The rounds under way, and their history.  The caller supplies the time."""

    def __init__(
        self,
        state: LearningState,
        table: LinkTable,
        rules: LearningRules,
        pace: int,
        notices: Notices,
    ) -> None:
        """``pace``: frames in a millisecond; 0: as many as the socket takes."""
        self._state = state
        self._table = table
        self._rules = rules
        self._pace = pace
        self._notices = notices
        self._runs: list[_Run] = []
        self._sending: _Run | None = None  # has the frames of the latest next_batch()
        self._down: dict[str, float] = {}  # since when a bond has had no carrier, by name
        self._lost: dict[str, float] = {}  # the same of those that had none for LOST_FOR
        self._budget = 0.0  # frames that may be sent now
        self._filled_at = -inf  # when that was worked out
        self.named: Mapping[str, bytes] = {}  # as Moment.named
        self.history: deque[LearningRecord] = deque(maxlen=HISTORY)
        self.sent_total = 0
        self.failed_total: dict[int, int] = {}  # by errno

    def follow(self, links: Iterable[FollowedLink], now: float) -> None:
        """Take in the state of all followed links, before their failovers."""
        for link in links:
            if link.kind != "bond":
                continue
            if not link.carrier:
                self._down.setdefault(link.link, now)
            elif link.link in self._down:
                since = self._down.pop(link.link)
                if now - since >= LOST_FOR:  # a shorter loss does not end what this one means
                    self._lost[link.link] = since

    def begin(
        self, bonds: Iterable[int], aggregators: frozenset[int], now: float, wall: float
    ) -> None:
        """Begin the rounds of a failover.

        ``bonds``: ifindexes.  ``aggregators``: those of mode 802.3ad whose aggregator changed.
        ``wall``: seconds since 1970.
        """
        chosen = set(bonds)
        if not chosen:
            return
        for run in self._runs:
            run.bonds -= chosen
        record = LearningRecord(wall)
        self.history.append(record)
        self._runs = [run for run in self._runs if run.bonds]
        self._runs.append(_Run(chosen, aggregators, now, record))

    @property
    def wants_tables(self) -> bool:
        """Return whether a round waits for new tables."""
        return any(run.waits_since < inf for run in self._runs)

    def advance(self, now: float) -> None:
        """Let the rounds that are due wait for tables; plan those that have waited too long."""
        for run in self._runs:
            if run.due <= now:
                run.due, run.waits_since = inf, now
            elif run.waits_since + TABLES_WITHIN <= now:
                self._notices.say(LEVEL_WARNING, "tables-not-read", seconds=TABLES_WITHIN)
                self._plan(run, now)

    def tables_read(self, now: float) -> None:
        """Plan the rounds that have waited for the state to know new tables."""
        for run in self._runs:
            if run.waits_since < inf:
                self._plan(run, now)

    def deadline(self) -> float:
        """Return when :meth:`advance` and :meth:`next_batch` must be called at the latest."""
        times = [run.due for run in self._runs]
        times += [run.waits_since + TABLES_WITHIN for run in self._runs]
        retries = [run.retry_at for run in self._runs if run.queue]
        if retries:
            times.append(max(self._filled_at + (TICK if self._pace else 0.0), min(retries)))
        return min(times, default=inf)

    def next_batch(self, now: float) -> list[LearningEntry]:
        """Return frames to send now, all on one bond; []: none before later.

        :meth:`sent` takes the result, before any link changes.
        """
        self._fill(now)
        if self._budget < 1:
            return []
        for run in self._runs:
            if run.queue and run.retry_at <= now:  # a full queue holds up no other bond
                batch = self._batch(run)
                if batch:
                    self._sending = run
                    return batch
                self._end_round(run)
        return []

    def sent(self, count: int, number: int, is_full: bool, now: float) -> None:
        """Take in what became of the frames of :meth:`next_batch`.

        ``count``: so many were sent.  ``number``: the errno of the next one; 0: there is none.
        ``is_full``: that one may be sent again later.  ``now`` may be later than that of
        :meth:`next_batch`.
        """
        run = self._sending
        assert run is not None
        run.is_sending = not number
        record = run.record
        if count:
            self._remove(run, count)
            record.sent += count
            self.sent_total += count
            after = now - run.began
            record.first = after if record.first is None else record.first
            record.last = after if record.rounds == 1 else record.last
        if number:
            run.attempts += 1
            if is_full and run.attempts < ATTEMPTS:
                run.retry_at = now + TICK
                return
            self._remove(run, 1)
            record.failed[number] = record.failed.get(number, 0) + 1
            self.failed_total[number] = self.failed_total.get(number, 0) + 1
        self._end_round(run)

    def preview(self, now: float) -> LearningPlan:
        """Return what a failover of all bonds would send now."""
        return self._state.plan(self._rules, Moment(now, named=self.named))

    def values(self) -> dict[str, object]:
        """Return the counters as plain values."""
        latest = self.history[-1].left_out if self.history else {}
        return {
            "sent": self.sent_total,
            "failed": {str(number): count for number, count in self.failed_total.items()},
            "left_out": dict(latest),
            "queued": sum(len(run.queue) for run in self._runs),
        }

    # -- helpers ------------------------------------------------------------------------

    def _plan(self, run: _Run, now: float) -> None:
        record = run.record
        lost = {link: at for link, at in self._lost_by_index().items() if link in run.bonds}
        moment = Moment(
            now,
            frozenset(run.bonds),
            run.began if record.rounds else inf,
            lost,
            run.aggregators,
            self.named,
        )
        plan = self._state.plan(self._rules, moment)
        run.queue = deque(plan.entries)
        run.attempts = 0
        record.rounds += 1
        if record.rounds == 1:
            record.left_out = left_out_by_reason(plan)
        run.plan_next(now)
        self._end_round(run)

    def _end_round(self, run: _Run) -> None:
        """Log the round, if its last frame is sent; forget the failover after its last round."""
        if run.queue:
            return
        record = run.record
        names = [self._table.links[each].name for each in run.bonds if each in self._table.links]
        self._notices.say(
            LEVEL_INFO,
            "learning-frames",
            bond=",".join(sorted(names)),
            round=record.rounds,
            sent=record.sent,
            failed=sum(record.failed.values()) or None,
            left_out=sum(record.left_out.values()) or None,
        )
        self._runs = [run for run in self._runs if not run.is_over]

    def _fill(self, now: float) -> None:
        """Let as many frames go as the time since the latest call allows."""
        if now > self._filled_at:
            earned = (now - self._filled_at) / TICK * self._pace if self._pace else inf
            self._budget = min(self._budget + earned, float(LATE * self._pace or AT_ONCE))
            self._filled_at = now

    def _batch(self, run: _Run) -> list[LearningEntry]:
        """Return the next frames of a run that could leave; []: it has none."""
        queue, links = run.queue, self._table.links
        while queue and not self._is_there(run, queue[0]):
            queue.popleft()
        most = int(self._budget) if run.is_sending else 1
        batch: list[LearningEntry] = []
        for entry in islice(queue, most):
            if entry.bond_ifindex != queue[0].bond_ifindex or entry.port_ifindex not in links:
                break
            batch.append(entry)
        return batch

    def _is_there(self, run: _Run, entry: LearningEntry) -> bool:
        """Return whether the links of a plan are still there, and a frame could leave."""
        bond = self._table.links.get(entry.bond_ifindex)
        is_wanted = entry.bond_ifindex in run.bonds and entry.port_ifindex in self._table.links
        return is_wanted and bond is not None and bond.has_carrier

    def _remove(self, run: _Run, count: int) -> None:
        """Take frames out of the queue that have been sent or given up."""
        for _ in range(count):
            run.queue.popleft()
        run.attempts = 0
        self._budget -= count

    def _lost_by_index(self) -> dict[int, float]:
        links = self._table.links.values()
        return {link.ifindex: self._lost[link.name] for link in links if link.name in self._lost}


def left_out_by_reason(plan: LearningPlan) -> dict[str, int]:
    """Return how many addresses a plan leaves out, by reason."""
    reasons: dict[str, int] = {}
    for each in plan.left_out:
        reasons[each.reason] = reasons.get(each.reason, 0) + each.addresses
    return reasons
