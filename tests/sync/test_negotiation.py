from __future__ import annotations

import pytest

from driftpost_sync.negotiation import RETRY_5_AFTER, Negotiation


def test_version_5_is_tried_first():
    assert Negotiation("auto").version == "5"


def test_a_refusal_of_5_leads_to_3_1_1_at_once_and_for_good():
    negotiation = Negotiation("auto")
    assert negotiation.refused_version()
    for _ in range(3 * RETRY_5_AFTER):
        assert negotiation.version == "3.1.1"
        negotiation.accepted()
    assert not negotiation.refused_version()


def test_a_broker_that_hangs_up_is_tried_with_both_in_turn():
    negotiation = Negotiation("auto")
    assert negotiation.no_answer()
    assert negotiation.version == "3.1.1"
    assert not negotiation.no_answer()
    assert negotiation.version == "5"


def test_3_1_1_on_weak_evidence_is_given_up_again_some_day():
    negotiation = Negotiation("auto")
    negotiation.no_answer()
    for _ in range(RETRY_5_AFTER):
        assert negotiation.version == "3.1.1"
        negotiation.accepted()
    assert negotiation.version == "5"


def test_a_broker_that_once_spoke_5_is_not_downgraded_when_it_dies():
    negotiation = Negotiation("auto")
    negotiation.accepted()
    assert not negotiation.no_answer()
    assert negotiation.version == "5"


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_configured_version_is_kept_whatever_happens(version):
    negotiation = Negotiation(version)
    assert not negotiation.refused_version()
    assert not negotiation.no_answer()
    negotiation.accepted()
    assert negotiation.version == version
