"""Runs last: nothing of what ASAPO's clients have to prove was left out, with either modules."""

from __future__ import annotations

from official.clients import subject
from official.subjects import SUBJECTS


def test_every_subject_ran(subjects_ran: set[str]) -> None:
    assert subject.name == "official"
    missing = sorted(set(SUBJECTS) - subjects_ran)
    assert not missing, f"no passing check ran for: {missing}"
    unknown = sorted(subjects_ran - set(SUBJECTS))
    assert not unknown, f"not in the table of subjects: {unknown}"
