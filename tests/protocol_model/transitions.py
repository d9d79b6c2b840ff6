"""Transitions of the model: what can happen in a state.

Most transitions change one entry. Other transitions change all entries: the faults and starts of processes, snapshots,
and the loss, creation and restoration of the group. A transition is a fault, progress of a live consumer, or neither.
The model has no clock. Instead, a guard lets a consumer claim entries only from a consumer that is paused or dead, or
that does not know of its entry: a live consumer renews its leases.

Redis runs a command, and then the process receives the reply. Each command therefore has two transitions: the reply
arrives, or is lost. A reply that is on its way needs no state of its own, because only its receiver could see the
difference. The exception is a pause: a queued entry and an entry in such a reply are verified after the pause. A crash
needs no message that arrives later either: it is the same as a crash after the arrival.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

from tests.protocol_model.scripts import (
    ORPHANED,
    PAUSE_UNNOTICED,
    SILENCE_IS_DEATH,
    WAS_RESTORED,
    Rules,
    after_ack,
    decide,
    on_claim,
    on_create,
    on_due,
    on_last_page,
    on_loss,
    on_postpone,
    on_read,
    on_record,
    on_renew,
    on_restore,
    on_snapshot,
    on_start,
    owned_by,
    settled,
    with_cell,
)
from tests.protocol_model.state import (
    ACKED_SINCE,
    ACKING,
    AFTER,
    CHECK,
    DEAD,
    DUE,
    FREE,
    KEPT,
    LISTED,
    LIVE,
    MISSING,
    OWES_ACK,
    PAUSED,
    POSTPONING,
    PRESENT,
    READY,
    RECORDING,
    RENEWED,
    RESTORED,
    RESTORING,
    RUNNING,
    SENT,
    SETTLED,
    UNDONE,
    Cell,
    Entry,
)

TWICE = "an entry runs in two live consumers"
TWICE_AFTER_PAUSE = "an entry runs in two live consumers, after a pause"
AGAIN = "a settled entry starts again"
LOST = "an entry is lost"
RECORDED_TWICE = "a dead letter or effects are recorded twice"


class Step(NamedTuple):
    """Transition of one entry. It is progress if it is no fault."""

    text: str
    consumer: int | None
    """None if the transition concerns no consumer."""
    entry: Entry
    fault: str = ""
    """Field of `Bounds` that limits the transition. Empty if the transition is no fault."""
    violation: str = ""
    counted: str = ""
    """Permitted duplicate that the transition causes. Empty if it causes none."""


class CommonStep(NamedTuple):
    """Transition of the group or of a process, which changes all entries."""

    text: str
    group: str
    modes: tuple[str, ...]
    change: Callable[[Entry], Iterable[Entry]]
    """Returns the states of an entry that are possible after the transition."""
    fault: str = ""
    is_progress: bool = False
    """True if the transition needs neither a fault nor the repair of one."""
    continues: int | None = None
    """Consumer whose pause ends. None if the transition ends no pause."""


# -- one entry ---------------------------------------------------------------------------------------------------------


def entry_steps(rules: Rules, group: str, modes: tuple[str, ...], entry: Entry) -> tuple[Step, ...]:
    """Return the transitions that change only this entry."""
    steps = [Step("is trimmed", None, entry._replace(in_stream=False, unread=False), "trims")]
    if group == RESTORING and LIVE in modes:
        steps.append(Step("is restored", None, on_restore(entry)))
    for me, mode in enumerate(modes):
        if mode != DEAD:
            steps += _renewals(rules, group, modes, entry, me)
        if mode == LIVE:
            steps += _handling(rules, group, modes, entry, me)
            if group != MISSING and entry.cells[me].phase == FREE:
                steps += _receiving(rules, group, modes, entry, me)
    judged = (_with_promise(rules, group, modes, step) for step in steps)
    return tuple(step for step in judged if step.entry != entry or step.violation)


def _handling(rules: Rules, group: str, modes: tuple[str, ...], entry: Entry, me: int) -> Iterator[Step]:
    """Yield the transitions of an entry that the process `me` holds."""
    phase = entry.cells[me].phase
    if phase == READY:
        yield _started("starts the handler", modes, entry, entry, me)
    if phase == CHECK and group != MISSING:
        after, may_start = on_start(rules, entry, me)
        if may_start:
            yield _started("verifies the entry and starts the handler", modes, entry, after, me)
        else:
            yield Step("does not start the entry, which it has lost", me, with_cell(after, me, phase=FREE))
        yield Step("verifies the entry; the reply is lost", me, after, "cuts")
    if phase == RUNNING:
        yield Step("ends the attempt and will retry it", me, with_cell(entry, me, phase=CHECK))
    if phase in (RUNNING, ACKING):
        yield from _settling("acknowledges the entry", ACKING, me, entry, settled(entry, me))
    if phase in (RUNNING, RECORDING) and group != MISSING:
        recorded, text = on_record(rules, entry, me), "records effects or a dead letter"
        if recorded is None:
            yield Step(f"{text}, but has lost the entry", me, with_cell(entry, me, phase=FREE))
        else:
            yield from _settling(text, RECORDING, me, entry, recorded)
    if phase in (READY, CHECK, RUNNING, POSTPONING) and group != MISSING:
        after = on_postpone(rules, entry, me)
        yield Step("postpones the entry", me, with_cell(after, me, phase=FREE))
        yield Step("postpones the entry; the reply is lost", me, with_cell(after, me, phase=POSTPONING), "cuts")


def _settling(text: str, phase: str, me: int, before: Entry, after: Entry) -> Iterator[Step]:
    yield Step(text, me, after_ack(after, me))
    yield Step(f"{text}; the reply is lost", me, with_cell(after, me, phase=phase), "cuts")
    yield Step(f"{text}; the request is lost", me, with_cell(before, me, phase=phase), "cuts")


def _started(text: str, modes: tuple[str, ...], before: Entry, after: Entry, me: int) -> Step:
    duplicate = AGAIN if before.outcome == SETTLED else ""
    violation, counted = _judged(before, _second_run(modes, before, me) or duplicate)
    return Step(text, me, with_cell(after, me, phase=RUNNING), "", violation, counted)


def _second_run(modes: tuple[str, ...], entry: Entry, me: int) -> str:
    """Return TWICE or TWICE_AFTER_PAUSE if another live consumer runs the entry, which `me` receives or starts."""
    others = [cell for index, cell in enumerate(entry.cells) if index != me and modes[index] == LIVE]
    running = [cell for cell in others if cell.phase == RUNNING]
    return TWICE_AFTER_PAUSE if all(cell.stale for cell in running) and running else TWICE if running else ""


def _judged(entry: Entry, duplicate: str) -> tuple[str, str]:
    """Return the duplicate as a violation, or as a permitted duplicate."""
    if duplicate == TWICE_AFTER_PAUSE or not duplicate:
        return "", duplicate
    return ("", f"{duplicate}, after a group loss") if entry.repeated else (duplicate, "")


def _renewals(rules: Rules, group: str, modes: tuple[str, ...], entry: Entry, me: int) -> Iterator[Step]:
    """Yield the transitions of lease renewals. A delayed renewal of a paused process reaches Redis too."""
    cell, is_live = entry.cells[me], modes[me] == LIVE
    is_delayed = cell.renewal in (SENT, ACKED_SINCE)
    if is_delayed and group == MISSING:
        yield Step("gets NOGROUP for its delayed renewal", me, with_cell(entry, me, renewal=""))
    if group != MISSING and (is_delayed or (is_live and cell.phase in RENEWED)):
        violation, text = _taken(rules, modes, entry, me), "renews the lease late" if is_delayed else "renews the lease"
        unanswered = on_renew(rules, entry, me, is_answered=False)
        yield Step(f"{text}; the reply is lost", me, unanswered, "cuts" if is_live else "", violation)
        if is_live:
            yield Step(text, me, on_renew(rules, entry, me, is_answered=True), "", violation)
    if is_live and cell.phase == RUNNING and not cell.renewal:
        yield Step("sends a lease renewal that is delayed", me, with_cell(entry, me, renewal=SENT), "delays")
    if is_live and cell.renewal == OWES_ACK:
        yield Step("acknowledges the settled entry again", me, with_cell(owned_by(entry, None), me, renewal=""))


def _taken(rules: Rules, modes: tuple[str, ...], entry: Entry, me: int) -> str:
    """Return the violation if a renewal takes an entry that another consumer runs."""
    is_taken = entry.in_stream and decide(rules, entry, me) in (WAS_RESTORED, ORPHANED)
    if not is_taken or entry.cells[me].phase == FREE:
        return ""
    return _judged(entry, _second_run(modes, entry, me))[0]


def _receiving(rules: Rules, group: str, modes: tuple[str, ...], entry: Entry, me: int) -> Iterator[Step]:
    """Yield the transitions that give the entry to the process `me`, which does not hold it."""
    cell, ready = entry.cells[me], with_cell(entry, me, phase=READY, renewal="")
    check = with_cell(ready, me, phase=CHECK)
    if entry.unread and entry.in_stream:
        yield Step("reads the entry", me, on_read(ready, me))
        yield Step("reads the entry; the reply is lost", me, on_read(entry, me), "cuts")
    if cell.owns and cell.renewal not in (ACKED_SINCE, OWES_ACK):
        yield Step("replays its pending entry", me, check if entry.in_stream else owned_by(entry, None))
    for owner, other in enumerate(entry.cells):
        if owner != me and other.owns and _is_idle(rules, modes[owner], other):
            text, is_paused = f"claims the entry of consumer {owner}", modes[owner] == PAUSED
            replies = on_claim(check, me, is_paused), on_claim(entry, me, is_paused)
            yield from _claimed(text, me, replies, _judged(entry, _second_run(modes, entry, me))[0])
    if _is_due(modes, entry):
        replies = on_due(rules, group, check, me), on_due(rules, group, entry, me)
        yield from _claimed("claims the due entry", me, replies, _judged(entry, _second_run(modes, entry, me))[0])


def _claimed(text: str, me: int, replies: tuple[Entry, Entry], violation: str) -> Iterator[Step]:
    answered, unanswered = replies
    if answered.cells[me].owns:
        yield Step(text, me, answered, "", violation)
        yield Step(f"{text}; the reply is lost", me, unanswered, "cuts", violation)
    else:
        yield Step(f"{text}, which was acknowledged, trimmed or claimed", me, unanswered)


def _is_idle(rules: Rules, mode: str, cell: Cell) -> bool:
    """Return True if another consumer may claim an entry from its owner.

    A dead consumer has no connections, and its entries become idle; entries of a paused consumer are idle after
    `minIdle`. A live consumer renews its entries, except entries that it does not know of.
    """
    return mode != LIVE or (cell.phase == FREE and not cell.renewal) or SILENCE_IS_DEATH in rules


def _is_due(modes: tuple[str, ...], entry: Entry) -> bool:
    """Return True if an entry of the schedule may be claimed.

    A restored entry becomes due after a grace period in which a live consumer takes back the entry that it holds.
    """
    if entry.schedule in ("", KEPT):
        return False
    is_held = any(mode == LIVE and cell.phase in RENEWED for mode, cell in zip(modes, entry.cells, strict=True))
    return entry.schedule != RESTORED or not is_held


def broken_promise(rules: Rules, group: str, modes: tuple[str, ...], entry: Entry) -> str:
    """Return the promise that the state of an entry breaks. Empty if it breaks none."""
    if entry.recorded > 1:
        return RECORDED_TWICE
    if entry.outcome or not entry.in_stream or entry.unread or entry.parked or entry.schedule == DUE:
        return ""
    is_restorable = entry.snapshot in (AFTER, LISTED) or entry.schedule
    if any(cell.owns for cell in entry.cells) or (group != PRESENT and is_restorable):
        return ""
    holders = [me for me, cell in enumerate(entry.cells) if cell.phase != FREE and modes[me] != DEAD]
    is_held = any(entry.cells[me].phase == ACKING or decide(rules, entry, me) == ORPHANED for me in holders)
    return "" if is_held else LOST


def has_ended(modes: tuple[str, ...], entry: Entry) -> bool:
    """Return True if the entry has ended, and neither Redis nor a live process will start it again."""
    return bool(
        (entry.outcome or not entry.in_stream)
        and not (entry.unread or entry.parked or entry.schedule in (DUE, RESTORED))
        and not any(cell.owns for cell in entry.cells)
        and all(cell[:2] == (FREE, "") for mode, cell in zip(modes, entry.cells, strict=True) if mode == LIVE)
    )


# -- the group and the processes ---------------------------------------------------------------------------------------


def common_steps(rules: Rules, group: str, modes: tuple[str, ...]) -> Iterator[CommonStep]:
    """Yield the transitions that change all entries."""
    if group != MISSING:
        yield CommonStep("the group is destroyed", MISSING, modes, lambda entry: [on_loss(entry)], "losses")
    if LIVE in modes:
        yield from _upkeep(rules, group, modes)
    for me, mode in enumerate(modes):
        yield from _process_steps(rules, group, modes, me, mode)


def _upkeep(rules: Rules, group: str, modes: tuple[str, ...]) -> Iterator[CommonStep]:
    """Yield the transitions with which a live consumer maintains the group."""
    if group == PRESENT:
        yield CommonStep("a consumer saves the snapshot", group, modes, lambda entry: [on_snapshot(entry)])
    if group == MISSING:
        text = "a consumer creates the lost group"
        yield CommonStep(text, RESTORING, modes, partial(on_create, rules), is_progress=True)
    if group == RESTORING:
        text = "a consumer restores the last entries of the lost group"
        yield CommonStep(text, PRESENT, modes, lambda entry: [on_last_page(entry)], is_progress=True)


def _process_steps(rules: Rules, group: str, modes: tuple[str, ...], me: int, mode: str) -> Iterator[CommonStep]:
    def changed(text: str, after: str, change: Callable[[Entry, int], Entry] = _unchanged) -> CommonStep:
        after_modes = (*modes[:me], after, *modes[me + 1 :])
        return CommonStep(f"consumer {me} {text}", group, after_modes, lambda entry: [change(entry, me)])

    if mode != DEAD:
        yield changed("crashes", DEAD, _crashed)._replace(fault="crashes")
    if mode == LIVE:
        yield changed("is paused", PAUSED)._replace(fault="pauses")
    if mode == PAUSED:
        thawed = changed("continues", LIVE, _unchanged if PAUSE_UNNOTICED in rules else _thawed)
        yield thawed._replace(is_progress=LIVE not in modes, continues=me)
    if mode == DEAD:
        yield changed("is started", LIVE)._replace(is_progress=LIVE not in modes)
    if group != MISSING:
        yield changed("is deleted from the group by another program", mode, _deleted)._replace(fault="deletions")


def outcomes(rules: Rules, step: CommonStep, entry: Entry) -> tuple[Step, ...]:
    """Return the states of an entry that are possible after a common transition."""
    steps = (Step(step.text, step.continues, each, step.fault) for each in step.change(entry))
    return tuple(_with_promise(rules, step.group, step.modes, _with_duplicate(step, each)) for each in steps)


def _with_promise(rules: Rules, group: str, modes: tuple[str, ...], step: Step) -> Step:
    return step._replace(violation=step.violation or broken_promise(rules, group, modes, step.entry))


def _with_duplicate(common: CommonStep, step: Step) -> Step:
    """Add the duplicate that the end of a pause causes: another consumer may have claimed what the process runs."""
    if common.continues is None or step.entry.cells[common.continues].phase != RUNNING:
        return step
    duplicate = _second_run(common.modes, step.entry, common.continues)
    is_permitted = duplicate and step.entry.cells[common.continues].stale
    violation, counted = _judged(step.entry, TWICE_AFTER_PAUSE if is_permitted else duplicate)
    return step._replace(violation=violation, counted=counted)


def _unchanged(entry: Entry, _me: int) -> Entry:
    return entry


def _crashed(entry: Entry, me: int) -> Entry:
    """Forget the in-flight table. An acknowledged entry that a renewal has put back runs again. A renewal puts back no
    entry whose dead letter or effects are recorded."""
    cell = entry.cells[me]
    outcome = UNDONE if cell.owns and entry.outcome and not entry.recorded else entry.outcome
    return with_cell(entry, me, phase=FREE, renewal="")._replace(outcome=outcome)


def _thawed(entry: Entry, me: int) -> Entry:
    return with_cell(entry, me, phase=CHECK) if entry.cells[me].phase == READY else entry


def _deleted(entry: Entry, me: int) -> Entry:
    return owned_by(entry, None) if entry.cells[me].owns else entry
