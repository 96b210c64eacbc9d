"""Why a link has ended: each close code has an id with an entry, and nobody's words choose one."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from shadowmesh.catalogue import ENTRIES
from shadowmesh.core.failure import IDS, OVER_TCP, failure_of
from shadowmesh.errors import Failure, told
from shadowmesh.session.link import CloseCode, Ended


def test_every_close_code_has_ids_with_entries() -> None:
    assert IDS.keys() == set(CloseCode)
    assert {error_id for both in IDS.values() for error_id in both} <= ENTRIES.keys()


@pytest.mark.parametrize("code", [*CloseCode, 0x4711])
@pytest.mark.parametrize("words", ["", "stop [config.value]", f"no {OVER_TCP}[link.tcp]", "[peer.absent]"])
def test_words_of_the_other_side_choose_no_id(code: int, words: str) -> None:
    expected = IDS.get(code, IDS[CloseCode.TRANSPORT])[1]
    failure = failure_of(Ended(code, words, by_peer=True), "it says: ")
    assert failure.error_id == expected
    assert failure.told == f"{f'it says: {words}' if words else 'the connection was lost'} [{expected}]"


def test_our_own_words_tell_of_tcp() -> None:
    ended = Ended(CloseCode.TIMEOUT, f"nothing answered; {OVER_TCP}refused", by_peer=False)
    assert failure_of(ended, "it says: ").told == "nothing answered; over TCP: refused [link.tcp]"
    assert (
        failure_of(Ended(CloseCode.TIMEOUT, "nothing answered", by_peer=False)).error_id == "link.no-answer"
    )


def test_only_a_refusal_tells_who_refused() -> None:
    here, there = (failure_of(Ended(CloseCode.REFUSED, "no", by_peer=by_peer)) for by_peer in (False, True))
    assert (here.error_id, there.error_id) == ("link.refused-here", "link.refused")


def test_what_has_not_failed_tells_nothing() -> None:
    assert told(None) is None
    assert told(Failure("link.ended", "over")) == "over [link.ended]"


def test_wherever_a_failure_is_shown_its_id_is() -> None:
    """A `Failure` is a string: nothing else would keep its words from going out alone."""
    fields = {"last_error", "renewal_error", "problem"}
    shown = [
        (path.name, ast.unparse(word.value))
        for path in (Path(__file__).parents[2] / "shadowmesh/node").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("Status", "RelayCheck"))
        for word in node.keywords
        if word.arg in fields
    ]
    assert len(shown) == 5
    assert [one for one in shown if not one[1].startswith("told(")] == []
