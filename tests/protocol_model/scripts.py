"""Effects of the commands and Lua scripts on one entry, as pure functions.

`decide` is the one decision that all scripts share: the relation of a consumer to an entry. The rules of earlier
versions are switches, so that a test can show that the model finds the faults that these rules had.
"""

from collections.abc import Iterator

from tests.protocol_model.state import (
    ACKED_SINCE,
    AFTER,
    BEYOND,
    DUE,
    FREE,
    KEPT,
    LISTED,
    OMITTED,
    OWES_ACK,
    RENEWED,
    RESTORED,
    RESTORING,
    SENT,
    SETTLED,
    UNDONE,
    Cell,
    Entry,
)

# Rules of earlier versions
TAKE_BACK_FORGETS = "a consumer that takes an entry back removes it from the schedule"
NO_CLAIMED_RECORD = "no record of the consumer that claimed an entry last"
ORPHANS_DROPPED = "the outcome of an entry without an owner is dropped"
NO_MEMORY_OF_COMMITS = "dead letters and commits of effects are not remembered"
PAUSE_UNNOTICED = "a process does not verify its queued entries after a pause"
SILENCE_IS_DEATH = "a consumer that sends nothing for a short time counts as dead"
NO_SECOND_ACK = "a settled entry is not acknowledged again if the reply of its renewal was lost"
RESTORED_TO_ANY = "a consumer takes each restored entry that it holds, even if another consumer claimed the entry"
REMOVED_WHILE_RESTORING = "the claim of due entries removes entries that are not restored yet"
RECORDED_IS_TAKEN = "a renewal makes an entry pending again whose dead letter or effects are recorded"
UNREAD_STAYS_CLAIMED = "the claimed record keeps entries that are unread again in a restored group"

Rules = frozenset[str]

# Decisions
MINE, PEER, POSTPONED, WAS_RESTORED, RECORDED, ORPHANED = (
    *("mine", "peer", "postponed", "restored"),
    *("recorded", "orphaned"),
)


def decide(rules: Rules, entry: Entry, me: int) -> str:
    """Return the relation of the consumer `me` to the entry, as every script sees it."""
    if entry.cells[me].owns:
        return MINE
    if any(cell.owns for cell in entry.cells):
        return PEER
    if entry.parked and (entry.schedule != RESTORED or RESTORED_TO_ANY in rules):
        return WAS_RESTORED if entry.schedule == RESTORED else POSTPONED
    if is_claimed_by_another(rules, entry, me):
        return PEER
    if entry.parked:
        return WAS_RESTORED
    is_known = entry.recorded > 0 and rules.isdisjoint({NO_MEMORY_OF_COMMITS, RECORDED_IS_TAKEN})
    return RECORDED if is_known else ORPHANED


def is_claimed_by_another(rules: Rules, entry: Entry, me: int) -> bool:
    """Return True if the claimed record names another consumer."""
    is_recorded = any(cell.claimed for index, cell in enumerate(entry.cells) if index != me)
    return is_recorded and NO_CLAIMED_RECORD not in rules


def with_cell(entry: Entry, consumer: int, **changes: str) -> Entry:
    """Return the entry with a changed cell."""
    cell = entry.cells[consumer]._replace(**changes)  # type: ignore[arg-type]
    cell = cell._replace(stale=cell.stale and cell.phase != FREE)
    return entry._replace(cells=(*entry.cells[:consumer], cell, *entry.cells[consumer + 1 :]))


def owned_by(entry: Entry, owner: int | None, *, is_claim: bool = False) -> Entry:
    """Return the entry pending with `owner`, or not pending.

    A claim is recorded, unless the entry is unread: its next reader will not change the record.
    """

    def change(index: int, cell: Cell) -> Cell:
        if not is_claim:
            return cell._replace(owns=index == owner)
        stale = cell.phase != FREE and index != owner and not entry.repeated
        return cell._replace(
            owns=index == owner, claimed=index == owner and not entry.unread, stale=cell.stale or stale
        )

    return entry._replace(cells=tuple(change(*each) for each in enumerate(entry.cells)), parked=False)


def take(rules: Rules, entry: Entry, me: int) -> Entry:
    """Return an orphaned or restored entry pending with `me`."""
    return owned_by(entry._replace(schedule="" if TAKE_BACK_FORGETS in rules else KEPT), me)


def settled(entry: Entry, me: int) -> Entry:
    """Return the entry acknowledged by `me`. Another attempt is permitted if another consumer has the entry."""
    others = (cell for index, cell in enumerate(entry.cells) if index != me)
    is_elsewhere = entry.schedule == DUE or any(cell.owns or cell.phase != FREE for cell in others)
    is_open = is_elsewhere or entry.cells[me].stale or entry.outcome == UNDONE
    outcome = UNDONE if is_open and not entry.cells[me].owns else SETTLED
    return owned_by(entry, None)._replace(outcome=outcome)


def after_ack(entry: Entry, me: int) -> Entry:
    """Process the reply to the command that settled the entry."""
    renewal = entry.cells[me].renewal.replace(SENT, ACKED_SINCE)
    return with_cell(entry, me, renewal=renewal, phase=FREE)


def on_start(rules: Rules, entry: Entry, me: int) -> tuple[Entry, bool]:
    """Apply the start script. Returns the entry, and True if the attempt may start."""
    decision = decide(rules, entry, me)
    if decision in (PEER, POSTPONED, RECORDED):
        return entry, False
    if not entry.in_stream:
        return owned_by(entry, None), False
    return entry if decision == MINE else take(rules, entry, me), True


def on_postpone(rules: Rules, entry: Entry, me: int) -> Entry:
    """Apply the script that postpones an entry."""
    decision = decide(rules, entry, me)
    if decision in (PEER, POSTPONED, RECORDED) or (decision == ORPHANED and ORPHANS_DROPPED in rules):
        return entry
    if not entry.in_stream:
        return owned_by(entry, None)._replace(schedule="" if decision == ORPHANED else DUE)
    return owned_by(entry, None)._replace(parked=True, schedule=DUE)


def on_record(rules: Rules, entry: Entry, me: int) -> Entry | None:
    """Apply the script that writes a dead letter or commits effects. Returns None if another consumer has the entry."""
    is_repetition = entry.recorded > 0 and NO_MEMORY_OF_COMMITS not in rules
    decision = decide(rules, entry, me)
    if not is_repetition and (decision in (PEER, POSTPONED) or (decision == ORPHANED and ORPHANS_DROPPED in rules)):
        return None
    return settled(entry, me)._replace(recorded=entry.recorded + (not is_repetition))


def on_renew(rules: Rules, entry: Entry, me: int, *, is_answered: bool) -> Entry:
    """Apply a lease renewal, and process its reply if the reply arrives.

    If the process has settled the entry since it sent the renewal, it acknowledges the entry again.
    """
    decision, cell = decide(rules, entry, me), entry.cells[me]
    is_lost = decision in (PEER, POSTPONED)
    if not is_lost and decision != RECORDED and not entry.in_stream:
        entry = owned_by(entry, None)
    elif decision in (WAS_RESTORED, ORPHANED):
        entry = take(rules, entry, me)
    owes = cell.renewal == ACKED_SINCE and not is_lost and (is_answered or NO_SECOND_ACK not in rules)
    entry = with_cell(entry, me, renewal=OWES_ACK if owes else "")
    return with_cell(entry, me, phase=FREE) if is_lost and is_answered and cell.phase in RENEWED else entry


def on_read(entry: Entry, me: int) -> Entry:
    """Apply XREADGROUP to an unread entry."""
    return owned_by(entry._replace(unread=False), me)


def on_claim(entry: Entry, me: int, is_paused: bool) -> Entry:
    """Apply the claim of an idle entry, whose owner may be paused. A trimmed entry is acknowledged instead."""
    if not entry.in_stream:
        return owned_by(entry, None)
    outcome = entry.outcome and UNDONE if is_paused else entry.outcome
    return owned_by(entry._replace(outcome=outcome), me, is_claim=True)


def on_due(rules: Rules, group: str, entry: Entry, me: int) -> Entry:
    """Apply the script that claims due entries.

    The script removes an entry from the schedule if the entry was trimmed, acknowledged, unread or has an owner. If the
    entry is not pending yet, because its group is restoring, the entry stays in the schedule.
    """
    if any(cell.owns for cell in entry.cells):
        return entry._replace(schedule=KEPT)
    if not entry.parked and group == RESTORING and REMOVED_WHILE_RESTORING not in rules:
        return entry
    is_lost = group == RESTORING or not entry.in_stream
    is_free = entry.parked or (entry.schedule == DUE and is_lost and not entry.unread)
    if not is_free or not entry.in_stream:
        return entry._replace(schedule="", parked=False)
    return owned_by(entry._replace(schedule=KEPT), me, is_claim=True)


def on_snapshot(entry: Entry) -> Entry:
    """Save the entry in the snapshot of the group."""
    is_owned = any(cell.owns for cell in entry.cells)
    place = AFTER if entry.unread else LISTED if is_owned else OMITTED
    return entry._replace(snapshot=place, schedule="" if entry.schedule == KEPT else entry.schedule)


def on_loss(entry: Entry) -> Entry:
    """Destroy the group."""
    return owned_by(entry._replace(snapshot=entry.snapshot.replace(BEYOND, AFTER)), None)


def on_create(rules: Rules, entry: Entry) -> Iterator[Entry]:
    """Create the lost group again. Yields one result per position that the consumer which creates the group may know.

    The group begins at the snapshot's position or later. The entries after its position are unread again. The claimed
    record forgets these entries, because a later reader does not change the record.
    """
    if entry.snapshot == AFTER:
        is_repeated = entry.in_stream and not entry.unread
        after = entry._replace(unread=entry.in_stream, repeated=entry.repeated or is_repeated, snapshot=BEYOND)
        if UNREAD_STAYS_CLAIMED not in rules:
            after = after._replace(cells=tuple(cell._replace(claimed=False) for cell in entry.cells))
        yield after
    if entry.snapshot != AFTER or not entry.unread:
        yield entry


def on_restore(entry: Entry) -> Entry:
    """Make an entry of a lost group pending again, if the snapshot or the schedule contains the entry.

    Entries between the snapshot's position and the position of the created group are restored too. The script restores
    one page of entries at a time, in three stages. An entry can therefore be restored repeatedly, before other entries.
    """
    is_pending = entry.parked or any(cell.owns for cell in entry.cells)
    if not is_pending and entry.in_stream and (entry.schedule or entry.snapshot in (LISTED, AFTER)):
        schedule = entry.schedule if entry.schedule in (DUE, RESTORED) else RESTORED
        entry = entry._replace(parked=True, schedule=schedule, repeated=entry.repeated or bool(entry.outcome))
    return entry


def on_last_page(entry: Entry) -> Entry:
    """Restore the last page of the entries of a lost group."""
    restored = on_restore(entry)
    return restored._replace(snapshot=restored.snapshot.replace(BEYOND, AFTER))
