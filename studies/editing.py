"""Edits that people make to an idle study: rename it, delete it, change its notes and tags.

Whoever drives or evaluates a study holds its name and trials, so renaming and deleting require an idle study: its lease
is free, and no worker has sent a heartbeat for one of its trials for BUSY_SECONDS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection, delete, select, update
from sqlalchemy.exc import IntegrityError

from studies import tables
from studies.errors import InvalidText, StudyBusy, StudyExists, UnknownStudy
from studies.records import Study, TrialState
from studies.store import Store, id_of

BUSY_SECONDS = 60.0
MAX_NAME, MAX_NOTES, MAX_TAG, MAX_TAGS = 80, 20_000, 40, 20  # characters; the last is tags per study

_STUDIES, _TRIALS = tables.studies.c, tables.trials.c


def rename_study(store: Store, study: Study, name: str) -> Study:
    """Return the study under its new name. Raises StudyExists, StudyBusy or InvalidText."""
    if not (name.strip() == name and name.isprintable() and 0 < len(name) <= MAX_NAME):
        raise InvalidText(
            f"{name[:MAX_NAME]!r} can't name a study: give 1 to {MAX_NAME} printable characters"
        )

    def rename(connection: Connection) -> None:
        _hold(connection, store, study, "renamed")
        connection.execute(update(tables.studies).where(_STUDIES.id == id_of(study)).values(name=name))

    try:
        store.write(rename)
    except IntegrityError:
        raise StudyExists(f"a study named {name!r} exists already; choose another name") from None
    return replace(study, name=name)


def delete_study(store: Store, study: Study) -> None:
    """Delete the study and its trials; measurements and artifacts stay, because other studies use them.

    Raises StudyBusy.
    """
    key = id_of(study)

    def remove(connection: Connection) -> None:
        _hold(connection, store, study, "deleted")
        connection.execute(delete(tables.trials).where(_TRIALS.study_id == key))
        connection.execute(delete(tables.studies).where(_STUDIES.id == key))

    store.write(remove)


def annotate_study(
    store: Store, study: Study, notes: str | None = None, tags: Sequence[str] | None = None
) -> Study:
    """Replace the notes, the tags or both (None: unchanged) and return the study. Tags keep their order, once each.

    Raises InvalidText.
    """
    if notes is not None and (len(notes) > MAX_NOTES or "\0" in notes):
        raise InvalidText(
            f"notes of {len(notes)} characters: up to {MAX_NOTES} are kept, and none with code 0"
        )
    kept = study.tags if tags is None else tuple(dict.fromkeys(t.strip() for t in tags))
    wrong = next((t for t in kept if not (t.isprintable() and 0 < len(t) <= MAX_TAG)), None)
    if wrong is not None or len(kept) > MAX_TAGS:
        found = f"{len(kept)} tags" if wrong is None else repr(wrong[:MAX_TAG])
        raise InvalidText(f"{found}: give up to {MAX_TAGS} tags of 1 to {MAX_TAG} printable characters")
    changed = replace(study, notes=study.notes if notes is None else notes, tags=kept)
    columns = {
        n: v for n, v in (("notes", notes), ("tags", None if tags is None else list(kept))) if v is not None
    }
    statement = update(tables.studies).where(_STUDIES.id == id_of(study)).values(**columns)
    if columns:
        store.write(lambda c: c.execute(statement))
    return changed


def _hold(connection: Connection, store: Store, study: Study, what: str) -> None:
    """Lock the study's row until the end of the transaction. Raises StudyBusy where the study is not idle."""
    row = _STUDIES.id == id_of(study)
    held = select(_STUDIES.lease_expires_at > store.clock).where(row).with_for_update()
    found = connection.execute(held).first()
    if found is None:
        raise UnknownStudy(f"study {study.name!r} is not there any more")
    at_work = select(_TRIALS.number).where(
        _TRIALS.study_id == id_of(study),
        _TRIALS.state == TrialState.RUNNING,
        _TRIALS.heartbeat_at > store.clock - BUSY_SECONDS,
    )
    if found[0] or connection.execute(at_work.limit(1)).first():
        raise StudyBusy(
            f"study {study.name!r} is being worked at and can't be {what}: stop it, wait until its trials that "
            "have begun are finished, then try again"
        )
