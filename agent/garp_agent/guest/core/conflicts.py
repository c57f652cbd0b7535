"""Conflicts: other stations that claim our addresses, and whether ours are withheld meanwhile.

Decides from claims, answers and time.  Does not build or send frames.  The probes of others only
ask, and the kernel answers them; they say something where this guest and another one both withhold
an address (guest.core.deferring_stations).

Any station can make a claim, so a claim only starts a check.  The address is withheld while PROBES
probes are sent, PROBE_WAIT apart.  If none is answered, it is announced again, and the station
that claimed it is known to be silent (guest.core.silent_stations): its next claims start checks
that withhold nothing.  An announcement follows them, unless they can be echoes of announcements.  A
rival that answers is present: the address is withheld for the hold-off, then the check is repeated,
and more often while the conflict is young.  For a withheld address, frames that claim nothing are
sent (ARP probe, RARP), so that a false claim cannot make the switches forget this guest.

After START, LINK_UP and RESUME an address is checked with one probe before it is announced: this
guest may have been away, and another station may have taken the address over.  The path may carry
frames later than its carrier comes: the probe is lost, and the missing answer says nothing.  So
for UNSURE seconds each announcement waits for an unanswered probe, also after a rival that
answered seems to have left, and also of an address that comes later than its link.

A switch may answer from its cache for a station that has left (ARP and ND suppression).  So an
answer is followed by probes for that station alone, unless a recent frame of it proves that it is
there.  If several stations answer, or one claims the address meanwhile, each is asked alone in
turn.

A station that answers for everything is no rival (guest.core.proxy_tests).  Group and zero hardware
addresses belong to no station.

Sources: RFC 5227 sections 2.1.1 (probes) and 2.4 (defence), RFC 4861 section 4.4 (neighbour
advertisement).
"""

from __future__ import annotations

from _heapq import heappop, heappush

from garp_agent.config.settings import ConflictPolicy
from garp_agent.guest.core.deferring_stations import DeferringStations
from garp_agent.guest.core.memory import remember
from garp_agent.guest.core.model import Cause
from garp_agent.guest.core.proxy_tests import ProxyTests
from garp_agent.guest.core.rival import MOST_ASKED, PROBES, Rival, Step, is_no_station
from garp_agent.guest.core.silent_stations import SilentStations
from garp_agent.wire.record import inf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container

    from garp_agent.config.settings import Conflict

CHECKED = (Cause.START, Cause.LINK_UP, Cause.RESUME)  # the guest may have been away before these
DEFEND_INTERVAL = 10.0  # seconds, RFC 5227 section 1.1
NEWS_INTERVAL = 10.0  # seconds; at most one new rival per address is logged in this time
PROBE_WAIT = 0.5  # seconds for an answer; then comes the next probe
# The same for a rival that answered before, and after RESUME: it is known to be fast, or the path
# has not changed.  Peers may have a wrong entry since the guest was stopped.
SHORT_WAIT = 0.25
# A check that begins anew before its end (the carrier flaps, ports of a bridge come) goes on.  It
# ends when no station has answered for PROBE_WAIT in all, and for this long after the latest probe.
SHORTEST_WAIT = 0.1
GOES_ON = 5.0  # seconds; a check that was interrupted for longer begins anew
# Seconds in which a conflict is young: its rival may leave soon (a split brain that heals), so it
# is looked for at a quarter of the hold-off.
YOUNG = 60.0
ANSWERED_A_SECOND = 4.0  # probes of a link for rivals that answer: more of them wait longer
REST = 4.0  # seconds after a check without an answer, in which a claim starts no other check
ECHO = 1.0  # seconds within which a repeater returns our frame
# Seconds after a claim, or the answer to a probe for one station alone, in which the rival's answer
# to a probe for all is taken to be its own.
PROVEN_FOR = 3.0
FEWER = 2  # probes, where a rival has left another address; one can be lost
# Seconds after a check in which the path may not carry frames yet.  A port with spanning tree
# listens and learns for 30 s by default (IEEE 802.1D-2004 section 17.14).
UNSURE = 60.0
QUIET = 60.0  # seconds without a claim after which a conflict is over, and news when it comes back
REMEMBERED = 60.0  # seconds for which the rival of an address that went is remembered
MOST_REMEMBERED = 1024  # addresses
# Checks of a link that are under way at once.  More claims wait for their turn, and withhold
# nothing meanwhile: a flood of them must neither silence the addresses nor take all the tokens.
MOST_CHECKS = 4


class Conflicts:
    """The rivals for the addresses that are announced."""

    __slots__ = (
        "_checks",
        "_gone",
        "_heap",
        "_settings",
        "_unsure_until",
        "claims",
        "deferring",
        "proxy_tests",
        "rivals",
        "silent",
    )

    def __init__(self, settings: Conflict) -> None:
        self._settings = settings
        self.claims = 0  # since the start; those of no rivals are not counted
        self.rivals: dict[int, dict[bytes, Rival]] = {}  # by ifindex and address
        self.proxy_tests = ProxyTests()
        self.silent = SilentStations()
        self.deferring = DeferringStations()
        # By address and the ifindex of the link that had it; when it went.
        self._gone: dict[bytes, dict[int, tuple[Rival, float]]] = {}
        self._heap: list[tuple[float, int, bytes]] = []  # step_at, ifindex, address
        self._checks: dict[int, set[bytes]] = {}  # because of claims, and under way; by ifindex
        self._unsure_until: dict[int, float] = {}  # by ifindex; for addresses that come later

    # -- settings and addresses ---------------------------------------------------------

    def configure(self, settings: Conflict, now: float) -> None:
        """Use other settings.

        If the policy is no longer YIELD, withheld addresses are released at once.  If it becomes
        YIELD, addresses that have been claimed are checked at once.  So are those that are withheld
        because of a station that is ignored from now on.
        """
        is_other_policy = self._settings.policy is not settings.policy
        self._settings = settings
        for ifindex, known in self.rivals.items():
            for address, rival in known.items():
                if is_other_policy:
                    rival.is_logged, rival.last_news = False, -inf  # the next claim is news
                if not self._yields():
                    rival.wanted, rival.step_at = 0, inf
                    if rival.is_checked:
                        self._step(ifindex, address, rival, now)
                elif is_other_policy and rival.hardware_address and not rival.is_checked:
                    self._step(ifindex, address, rival, now)
                elif rival.withheld and self._is_ignored(rival):
                    rival.check(PROBES, rival.release_cause)
                    self._step(ifindex, address, rival, now)
                elif rival.last_answer > -inf and rival.step_at < inf and not rival.probes:
                    soon = max(now, self._next_look(ifindex, rival))
                    self._step(ifindex, address, rival, min(rival.step_at, soon))

    def keep(self, ifindex: int, addresses: Container[bytes], now: float) -> None:
        """Forget the conflicts of the addresses of a link that are not among ``addresses``.

        A check under way, and a path that may not carry frames yet, are remembered: the address may
        come back at once, also on another link, when the network is configured anew.
        """
        known = self.rivals.get(ifindex, {})
        for address in [a for a in known if a not in addresses]:
            rival = known.pop(address)
            rival.listened = rival.unanswered(now, PROBE_WAIT, GOES_ON)
            self._checks.get(ifindex, set()).discard(address)
            if rival.withheld or rival.step_at < inf or rival.unsure_until > now:
                links = self._gone.get(address, {})
                links[ifindex] = rival, now
                remember(self._gone, address, links, MOST_REMEMBERED)
        if not known:
            self.rivals.pop(ifindex, None)
            self._checks.pop(ifindex, None)
            self.proxy_tests.end(ifindex)

    def came_up(self, ifindex: int, now: float) -> None:
        """Note that the path of a link may not carry frames yet, or that the guest was away."""
        remember(self._unsure_until, ifindex, now + UNSURE, MOST_REMEMBERED)

    def appear(self, ifindex: int, address: bytes, now: float, claims: bool = True) -> None:
        """Check an address that is announced from now on, if it was checked when it went.

        Its refreshes begin with a probe while its link is unsure, if its frames are ``claims``.
        """
        unsure_until = self._unsure_until.get(ifindex, -inf)
        if claims and unsure_until > now and self._yields():
            self._rival(ifindex, address).unsure_until = unsure_until
        links = self._gone.get(address)
        if not links:
            return
        # It may have moved here from another link.  If it comes back there, too, that one knows it.
        recent = [each for each in links.values() if now - each[1] <= REMEMBERED]
        links.pop(ifindex, None)
        if not links:
            del self._gone[address]
        if not recent or not self._yields():
            return
        before, went = max(recent, key=_how_contested)
        rival = self._rival(ifindex, address)
        rival.unsure_until = max(before.unsure_until, rival.unsure_until)
        rival.last_announced = before.last_announced
        if before.hardware_address and (before.withheld or before.step_at < inf):
            rival.hardware_address, rival.last_claim = before.hardware_address, went
            rival.last_answer, rival.present_since = before.last_answer, before.present_since
            rival.claims = before.claims
            if before.withheld:
                rival.check(PROBES, Cause.ADDRESS_ADDED)
            elif not self.silent.is_silent((ifindex, rival.hardware_address), now):
                rival.check(1, Cause.ADDRESS_ADDED)  # its claim was not checked yet
                rival.is_awaited = True
            self._step(ifindex, address, rival, now)
        elif before.withheld:
            rival.check(before.wanted, before.release_cause)  # the burst sends the probe
            rival.listened = before.listened if now - went <= GOES_ON else 0.0

    def check_first(self, ifindex: int, address: bytes, cause: Cause, now: float) -> bool:
        """Withhold an address until one probe was not answered; return whether it is withheld.

        The caller sends the probe.  ``cause``: of the burst that follows.
        """
        if not self._yields():
            return False
        rival = self._rival(ifindex, address)
        rival.unsure_until = now + UNSURE
        if rival.withheld:
            rival.listened = rival.unanswered(now, PROBE_WAIT, GOES_ON)
        else:
            rival.check(1, cause)
            rival.step_at = inf  # until the probe is sent
        rival.probes, rival.asked, rival.to_ask = 0, b"", ()  # what was sent before says nothing
        rival.last_proof = rival.asked_at = -inf
        return True

    def is_unsure(self, ifindex: int, address: bytes) -> bool:
        """Return whether an announcement has to wait for an unanswered probe."""
        rival = self.rivals.get(ifindex, {}).get(address)
        if rival is None or rival.withheld or rival.is_fresh or not self._yields():
            return False
        return rival.unsure_until > -inf

    def check_again(self, ifindex: int, address: bytes, cause: Cause) -> bool:
        """Let an announcement of an unsure address wait; return whether to send a probe.

        ``cause``: of the announcement that follows.
        """
        rival = self.rivals[ifindex][address]
        is_new = not rival.is_checked
        if is_new:
            rival.check(1, cause, withheld=False)
            rival.step_at = inf  # until the probe is sent
        rival.is_awaited, rival.release_cause = True, cause
        return is_new

    def is_withheld(self, ifindex: int, address: bytes) -> bool:
        """Return whether the address must not be announced now."""
        rival = self.rivals.get(ifindex, {}).get(address)
        return rival is not None and rival.withheld

    def is_only_claimed(self, ifindex: int, address: bytes) -> bool:
        """Return whether a withheld address has claims, and no station has answered yet."""
        rival = self.rivals[ifindex][address]
        return rival.last_answer == -inf and rival.release_cause not in CHECKED

    def asked(self, ifindex: int, address: bytes, is_check: bool) -> bytes:
        """Return the hardware address of the only station to probe; b"": probe all.

        ``is_check``: the probe belongs to a check.  Others, of a refresh or a hint, teach the
        switches.  They go to all stations, but not while the answer of one alone is awaited.
        """
        rival = self.rivals.get(ifindex, {}).get(address)
        return rival.asked if rival is not None and (is_check or rival.probes) else b""

    def is_checking(self, ifindex: int) -> bool:
        """Return whether a check is under way on a link that no station has answered yet.

        The probe before a refresh does not count.
        """
        return any(
            rival.is_checked
            and rival.last_answer == -inf
            and (rival.withheld or rival.release_cause is not Cause.REFRESH)
            for rival in self.rivals.get(ifindex, {}).values()
        )

    def announced(self, ifindex: int, address: bytes, now: float) -> None:
        """Note that an address was announced: a repeater returns that frame."""
        rival = self.rivals.get(ifindex, {}).get(address)
        if rival is not None:
            rival.last_announced, rival.is_fresh = now, False

    def last_announced(self, ifindex: int, address: bytes) -> float:
        """Return when an address was announced; ``-math.inf`` if that is not known any more."""
        rival = self.rivals.get(ifindex, {}).get(address)
        return -inf if rival is None else rival.last_announced

    # -- what is heard ------------------------------------------------------------------

    def is_no_rival(self, ifindex: int, hardware_address: bytes, now: float) -> bool:
        """Return whether the claims of a station say nothing."""
        if is_no_station(hardware_address, self._settings.ignore):
            return True
        return self.proxy_tests.is_proxy((ifindex, hardware_address), now)

    def claim(
        self,
        ifindex: int,
        address: bytes,
        hardware_address: bytes,
        now: float,
        answer: bool = False,
    ) -> bool:
        """Record a claim of a rival; return whether it is worth a line in the log.

        ``answer``: it has the form of an answer to a probe.  It is worth a line if the conflict
        is new, or under another policy, or if the rival is another one.  At most one line every
        NEWS_INTERVAL, because hardware addresses are free to forge.
        """
        which = ifindex, address, hardware_address
        if not answer:
            self.deferring.claimed(which)
        elif self.deferring.defers(which, now):
            return False
        rival = self._rival(ifindex, address)
        is_another = rival.hardware_address != hardware_address
        # A station that repeats our frames claims the address without end.
        is_silent = self.silent.is_silent((ifindex, hardware_address), now)
        is_new = not rival.is_logged or now - rival.last_claim > QUIET
        self.claims += 1
        rival.claims += 1
        rival.last_claim = now
        if is_another:
            rival.is_asked, rival.last_proof = False, -inf
            rival.claimants += 1
            is_many = rival.claimants > MOST_ASKED
            if not answer and rival.asked and (is_many or not rival.ask_too(hardware_address)):
                rival.to_ask = (b"",)  # all
        if now - rival.last_announced > ECHO:
            rival.last_unprompted = now
        if not answer:
            rival.last_proof = now
        rival.hardware_address = hardware_address
        if self._yields():
            self._check(ifindex, address, rival, now, answer)
        is_news = (is_another or is_new) and now - rival.last_news > NEWS_INTERVAL
        is_news = is_news and (rival.withheld or not is_silent)
        if is_news:
            rival.last_news, rival.is_logged = now, True
        return is_news

    def rival_probed(
        self, ifindex: int, address: bytes, station: bytes, ours: bytes, now: float
    ) -> None:
        """Note that a station probes for an address that this guest may withhold because of it.

        If it has the address, its answers to our probes will show that.  ``ours``: the hardware
        address of this guest's link.
        """
        rival = self.rivals.get(ifindex, {}).get(address)
        if rival is None:
            return
        which = ifindex, address, station
        is_old = now - rival.present_since > YOUNG
        if (rival.withheld and not is_old) or self.deferring.defers(which, now):
            self.deferring.probed(which, now, ours > station)

    def _check(self, ifindex: int, address: bytes, rival: Rival, now: float, answer: bool) -> None:
        """Start a check because of a claim, or note the answer to a probe."""
        station = (ifindex, rival.hardware_address)
        is_silent = self.silent.is_silent(station, now)
        is_echo = is_silent and now - rival.last_announced < ECHO
        if answer and rival.probes and is_echo:
            # Or an answer: ask again when no echo can come.  If another announcement leaves before
            # that, the address is withheld until it is known.
            rival.probes = 0
            rival.withheld = rival.withheld or rival.is_ambiguous
            rival.is_ambiguous = True
            self._step(ifindex, address, rival, rival.last_announced + ECHO)
        elif answer and (rival.probes or rival.asked not in (b"", rival.hardware_address)):
            self._checks.get(ifindex, set()).discard(address)
            self.silent.answered(station)
            rival.last_answer, rival.present_since = now, min(rival.present_since, now)
            if rival.asked == rival.hardware_address:
                rival.proven = rival.asked
            elif rival.asked and rival.ask_too(rival.hardware_address):
                return  # before it counts as a station to test: answers are free to forge
            rival.answerer = rival.hardware_address
            was_asked = bool(rival.asked)
            rival.last_proof = now if was_asked else rival.last_proof
            rival.check(PROBES, Cause.ADDRESS_ADDED)
            at = self._next_look(ifindex, rival, 1 + was_asked)
            if now - rival.last_proof > PROVEN_FOR:
                rival.asked = rival.hardware_address
                if rival.proven not in (b"", rival.asked):  # its answer can be lost
                    rival.ask_too(rival.proven)
                if now - rival.asked_at > PROVEN_FOR:  # stations that take turns do not hurry it
                    # Other answers to the probe for all must not count as the next one's.
                    rival.asked_at, at = now, now + SHORT_WAIT
            self._step(ifindex, address, rival, at)
        elif rival.is_checked:
            if is_silent:
                return
            if rival.withheld or self._take_slot(ifindex, address):
                rival.withheld, rival.wanted = True, PROBES
                if not rival.is_asked and rival.claimants == 1:
                    rival.wanted += rival.probes == PROBES  # one more follows the claim
            else:  # at least one probe follows the claim
                rival.wanted = max(rival.wanted, min(PROBES, rival.probes + 1))
        elif rival.step_at == inf:
            at = max(now, rival.rest_until)
            if at == now and not self._start_check(ifindex, address, rival):
                at = now + PROBE_WAIT
            self._step(ifindex, address, rival, at)

    def _next_look(self, ifindex: int, rival: Rival, probes: int = 1) -> float:
        """Return when to probe again for the address of a rival that answered ``probes``."""
        is_young = rival.last_answer - rival.present_since <= YOUNG
        hold_off = self._settings.hold_off / (4 if is_young else 1)
        present = sum(each.last_answer > -inf for each in self.rivals[ifindex].values())
        return rival.last_answer + max(hold_off, present * probes / ANSWERED_A_SECOND)

    def _start_check(self, ifindex: int, address: bytes, rival: Rival) -> bool:
        """Start a check because of a claim, or because the hold-off is over; False: not now."""
        if not self._take_slot(ifindex, address):
            return False
        if rival.withheld:
            return True
        if self.silent.is_silent((ifindex, rival.hardware_address), rival.last_claim):
            rival.check(1, Cause.REFRESH, withheld=False)
            # Others may have believed the claim, unless it is the echo of an announcement.
            rival.is_awaited = rival.last_claim - rival.last_unprompted < QUIET
        else:
            rival.check(PROBES, Cause.ADDRESS_ADDED)
        return True

    def _take_slot(self, ifindex: int, address: bytes) -> bool:
        """Count a check because of a claim as under way; False: there are too many."""
        checks = self._checks.setdefault(ifindex, set())
        if address not in checks and len(checks) >= MOST_CHECKS:
            return False
        checks.add(address)
        return True

    def may_defend(self, ifindex: int, address: bytes, now: float) -> bool:
        """Return whether to answer a claim with an announcement, and record that it is answered.

        At most one answer every DEFEND_INTERVAL, so that two defenders do not flood the network.
        """
        rival = self.rivals[ifindex][address]
        if self._settings.policy is not ConflictPolicy.DEFEND:
            return False
        if now < rival.last_defence + DEFEND_INTERVAL:
            return False
        rival.last_defence = now
        return True

    # -- stations that answer for everything --------------------------------------------

    def wants_test(self, ifindex: int, address: bytes, now: float) -> bool:
        """Return whether the rival, which answers, is to be tested for answering everything."""
        rival = self.rivals.get(ifindex, {}).get(address)
        if rival is None or rival.last_answer != now:
            return False
        if rival.answerer != rival.hardware_address:
            return False  # the claim of another station, in the same turn
        return self.proxy_tests.may_start((ifindex, rival.hardware_address), now)

    def proxy_found(self, ifindex: int, hardware_address: bytes, now: float) -> None:
        """Check again what was withheld because of a station that answers for everything."""
        for address, rival in self.rivals.get(ifindex, {}).items():
            if rival.withheld and rival.hardware_address == hardware_address:
                # Another station may have answered as well, so the check is repeated without it.
                rival.check(PROBES, rival.release_cause)
                self._step(ifindex, address, rival, now)

    # -- time ---------------------------------------------------------------------------

    def deadline(self) -> float:
        """Return when to call :meth:`steps` at the latest; ``math.inf`` for never."""
        while self._heap:
            at, ifindex, address = self._heap[0]
            rival = self.rivals.get(ifindex, {}).get(address)
            if rival is not None and rival.step_at == at:
                return at
            heappop(self._heap)
        return inf

    def probed(
        self, ifindex: int, address: bytes, now: float, sent: bool, asked: bytes = b""
    ) -> None:
        """Note that a probe for an address was sent, or that it could not be.

        ``asked``: the only station that it asked.
        """
        rival = self.rivals.get(ifindex, {}).get(address)
        if rival is None or not rival.is_checked or asked != rival.asked:
            return
        if not rival.probes:
            rival.probed_at = now
        rival.probes += sent
        rival.is_asked = rival.is_asked or sent
        is_fast = rival.last_answer > -inf or rival.release_cause is Cause.RESUME
        wait = SHORT_WAIT if is_fast else PROBE_WAIT
        if rival.listened:
            wait = max(wait - rival.listened, SHORTEST_WAIT)
        if rival.step_at == inf:
            self._step(ifindex, address, rival, now + wait)
        elif rival.probes <= rival.wanted:
            self._step(ifindex, address, rival, max(rival.step_at, now + wait))

    def steps(self, now: float) -> list[Step]:
        """Return what is to be done now: first for addresses announced least recently."""
        due: list[Step] = []
        while self.deadline() <= now:
            _, ifindex, address = heappop(self._heap)
            due += self._take_step(ifindex, address, self.rivals[ifindex][address], now)
        if len(due) > 1:
            due.sort(key=lambda step: self.last_announced(step.ifindex, step.address))
        return due

    def _take_step(self, ifindex: int, address: bytes, rival: Rival, now: float) -> list[Step]:
        rival.step_at = inf  # until the probe is sent
        is_over = rival.is_checked and rival.probes >= rival.wanted
        is_first = rival.is_checked and (rival.is_awaited or rival.release_cause in CHECKED)
        has_turn = is_first or address in self._checks.get(ifindex, ())
        if not (is_over or has_turn or self._start_check(ifindex, address, rival)):
            self._step(ifindex, address, rival, now + PROBE_WAIT)
            return []
        if is_over and rival.wanted and rival.to_ask:
            rival.asked, *others = rival.to_ask
            rival.to_ask, rival.probes, is_over = tuple(others), 0, False
        if is_over:
            return self._end_check(ifindex, address, rival, now)
        return [Step(ifindex, address, None)]

    def _end_check(self, ifindex: int, address: bytes, rival: Rival, now: float) -> list[Step]:
        checks = self._checks.get(ifindex, set())
        if address in checks:  # because of a claim
            checks.discard(address)
            rival.rest_until = now + REST
            if rival.wanted and rival.last_answer == -inf and rival.is_asked:
                self.silent.note((ifindex, rival.hardware_address), now)
        has_left = rival.withheld and rival.last_answer > -inf and rival.wanted == PROBES
        released = []
        if rival.withheld or rival.is_awaited:
            cause, was_withheld = rival.release_cause, rival.withheld
            is_news = was_withheld and rival.is_logged
            released = [Step(ifindex, address, cause, was_withheld, is_news)]
        if rival.last_answer > -inf:
            rival.unsure_until = max(rival.unsure_until, now + UNSURE)
        elif now >= rival.unsure_until:
            rival.unsure_until = -inf
        rival.is_fresh = True
        rival.is_logged = rival.is_logged and not rival.withheld
        rival.is_checked = rival.withheld = rival.is_awaited = False
        rival.probes, rival.asked, rival.to_ask, rival.proven = 0, b"", (), b""
        rival.last_answer, rival.present_since = -inf, inf
        if has_left:
            self._hurry(ifindex, rival.hardware_address, now)
        if not rival.hardware_address and rival.unsure_until == -inf:
            del self.rivals[ifindex][address]
            if not self.rivals[ifindex]:
                del self.rivals[ifindex]
        return released

    def _hurry(self, ifindex: int, hardware_address: bytes, now: float) -> None:
        """Probe for the other addresses of a rival that has left one: it may have left all."""
        for address, rival in self.rivals[ifindex].items():
            is_same = rival.hardware_address == hardware_address
            if is_same and rival.withheld and rival.last_answer > -inf and rival.wanted > FEWER:
                self._checks.setdefault(ifindex, set()).add(address)  # beyond MOST_CHECKS
                rival.wanted, rival.last_proof, rival.asked_at = FEWER, -inf, -inf
                if not rival.probes:  # else its answer may be on the way
                    self._step(ifindex, address, rival, now)

    def _step(self, ifindex: int, address: bytes, rival: Rival, at: float) -> None:
        if at != rival.step_at:
            rival.step_at = at
            heappush(self._heap, (at, ifindex, address))
            if len(self._heap) > 2 * sum(map(len, self.rivals.values())) + 64:
                self._heap = sorted(
                    (rival.step_at, ifindex, address)
                    for ifindex, known in self.rivals.items()
                    for address, rival in known.items()
                    if rival.step_at < inf
                )

    # -- parts --------------------------------------------------------------------------

    def _yields(self) -> bool:
        return self._settings.policy is ConflictPolicy.YIELD

    def _is_ignored(self, rival: Rival) -> bool:
        mac = rival.hardware_address
        return bool(mac) and is_no_station(mac, self._settings.ignore)

    def _rival(self, ifindex: int, address: bytes) -> Rival:
        known = self.rivals.setdefault(ifindex, {})
        if address not in known:
            known[address] = Rival()
        return known[address]


def _how_contested(gone: tuple[Rival, float]) -> tuple[bool, bool, float]:
    """Return what decides which link's knowledge of an address counts: the worst, then the latest.

    ``gone``: the rival, and when the address went.
    """
    rival, went = gone
    return rival.withheld, bool(rival.hardware_address) and rival.step_at < inf, went
