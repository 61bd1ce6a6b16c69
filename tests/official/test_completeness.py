"""Nothing of what ASAPO's clients have to prove is left out, with either modules."""

from __future__ import annotations

from official.clients import subject
from official.subjects import SUBJECTS


def test_every_subject_has_a_test(subjects_collected: set[str]) -> None:
    assert subject.name == "official"
    missing = sorted(set(SUBJECTS) - subjects_collected)
    assert not missing, f"there is no check for: {missing}"
    unknown = sorted(subjects_collected - set(SUBJECTS))
    assert not unknown, f"not in the table of subjects: {unknown}"
