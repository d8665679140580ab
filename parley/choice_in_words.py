"""How an answer was chosen, or why none was, in one line. Pure."""

from parley.broker.core.messages import AgentResult, DegradedReason, DeliberationCompleted, Ending
from parley.broker.core.printable import harmless, on_one_line
from parley.errors_in_flags import in_flags

# What named the winner among those that tied.
_TIE_BREAKS = {
    "worst_places": "shown first for its better worst places",
    "seed": "shown first by lot",
}


def no_choice_line(ending: Ending) -> str:
    """Why nothing was chosen although that was asked for, in one line; empty where it was chosen, or not asked for."""
    if (
        not isinstance(ending, DeliberationCompleted)
        or ending.selection is None
        or ending.winner_id is not None
    ):
        return ""
    told = [gap for gap in ending.degraded_reasons if gap.who is None]
    reasons = "; ".join(f"{gap.phase}: {_gap(gap)}" for gap in told if gap.why or gap.what != "below_quorum")
    return f"Nothing was chosen: {on_one_line(reasons) or 'nobody compared the answers'}"


def _gap(gap: DegradedReason) -> str:
    words = gap.what.replace("_", " ")
    return f"{words}: {in_flags(gap.why)}" if gap.why and gap.what == "left_out" else gap.why or words


def revision_lines(ending: Ending) -> list[str]:
    """What the rounds of revision lack, a line for each kind of gap."""
    if not isinstance(ending, DeliberationCompleted):
        return []
    agents: dict[str, list[str]] = {}
    for gap in ending.degraded_reasons:
        if gap.phase == "revise":
            agents.setdefault(f"Round {gap.round}: {_of_revision(gap)}", []).extend(
                [gap.who] if gap.who else []
            )
    return [f"{words}: {harmless(', '.join(who))}" if who else words for words, who in agents.items()]


def _of_revision(gap: DegradedReason) -> str:
    words = "not heard from" if gap.what == "missing" else gap.what.replace("_", " ")
    if not gap.why:
        return words
    why = on_one_line(in_flags(gap.why))
    return f"{words} ({why})" if gap.who else f"{words}: {why}"


def synthesis_line(ending: DeliberationCompleted) -> str:
    """What became of the answer that was to be written from the best, in one line; empty where none was asked for."""
    written = ending.synthesis
    if written is None:
        return ""
    sources = harmless(", ".join(written.sources))
    match written.status:
        case "accepted":
            return f"editor-001: written from {sources}; preferred to {harmless(ending.winner_id or '')} by {written.support} ballots"
        case "refused":
            return f"editor-001 wrote an answer from {sources}; {written.support} ballots prefer it, so the winner's stays"
        case "not_confirmed":
            return f"editor-001 wrote an answer from {sources}; no ballot compares it with the winner's, which stays"
        case _:
            why = f": {on_one_line(written.why)}" if written.why else ""
            return f"No answer was written from the best{why}"


def choice_line(ending: DeliberationCompleted) -> str:
    """How the winner was chosen, in one line."""
    selection, winner = ending.selection, ending.winner_id or ""
    if selection is None:
        return f"{harmless(winner)}: chosen; how is left out for want of room"
    if selection.status == "only_one":
        return f"{harmless(winner)}: the only answer to choose"
    score = selection.scores.get(winner)
    if selection.method == "vote":
        words = [f"given by {score} of the agents{_read(ending.winner)}"]
    else:
        words = [f"won {score} of its comparisons", f"{selection.valid} of {selection.asked} ballots"]
    if selection.margin is not None:
        words.insert(1, f"margin {selection.margin}")
    if selection.status == "tied":
        others = harmless(", ".join(name for name in selection.tied if name != winner))
        words.insert(
            0, f"tied with {others}, {_TIE_BREAKS.get(selection.tie_break or '', 'shown first by chance')}"
        )
    elif selection.status == "indicated":
        few = "final answers that could be read" if selection.method == "vote" else "ballots"
        words.append(f"too few {few} to call it decided")
    if ending.dissent:
        words.append(
            "dissent: " + ", ".join(f"{harmless(one.agent_id)} {one.share}" for one in ending.dissent)
        )
    return f"{harmless(winner)}: {'; '.join(words)}"


def _read(result: AgentResult | None) -> str:
    """What a vote counted of an answer."""
    read = on_one_line(result.final_answer or "") if result is not None else ""
    return f" ({read})" if read else ""
