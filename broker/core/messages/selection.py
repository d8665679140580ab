"""What an ending says of the choice between its answers: who won, by which ballots, who saw it otherwise."""

from typing import Literal

from pydantic import Field

from parley.broker.core.messages.base import Message

PhaseName = Literal["answer", "revise", "heat", "judge", "rank", "edit", "confirm"]


class CastBallot(Message):
    """One judge's part in the choice. An answer is named by its `agent_id` in `results`."""

    judge: str = Field(description="The judge.")
    shown: tuple[str, ...] = Field(
        description="The agents whose answers it saw, in the order in which it saw them."
    )
    ranking: tuple[str, ...] | None = Field(
        None, description="The agents in its order, the best first; null: no valid ballot came."
    )
    notes: str = Field("", description="What it noted before it chose; at most 600 characters.")
    shortened: tuple[str, ...] = Field((), description="Agents whose answers it saw without their middle.")
    repaired: bool = Field(False, description="The ranking had to be looked for in the judge's words.")
    why: str = Field("", description="Why there is no valid ballot.")
    model: str = Field("", description="Model that judged, as its server names it.")
    tokens: int = Field(0, description="Generated tokens, as the model server counts them.")
    duration_ms: int = Field(0, description="From the start of the judge's work to its outcome.")


class Dissent(Message):
    """An answer other than the winner that somebody put first."""

    agent_id: str = Field(description="The agent whose answer it is.")
    by: tuple[str, ...] = Field(
        description="The judges that put it first; for a vote, the agents that gave it."
    )
    share: str = Field(description="Of the valid ballots, or of the answers: `1/3`.")


class Selection(Message):
    """How the winner was chosen. Fractions are exact, as text: `7/12`."""

    method: Literal["vote", "judge", "rank"] = Field(description="The request's `select`.")
    aggregate: Literal["votes-1", "win-rate-1"] = Field(
        description="The rule, with its version. `win-rate-1`: for each rival, the share of the ballots comparing the two "
        "that put the answer first; the mean of these."
    )
    status: Literal["decided", "indicated", "tied", "only_one", "no_ballots"] = Field(
        description="`decided`: by most of the ballots asked for. `indicated`: by fewer. `tied`: nothing that was said "
        "tells the best apart; `winner_id` names one of them. `only_one`: there was one answer to choose. "
        "`no_ballots`: nobody compared the answers, and nobody wins."
    )
    scores: dict[str, str | None] = Field(
        description="Of each candidate, by `agent_id`; null: it was never compared. Of agents that gave the same answer to "
        "judges, one is a candidate."
    )
    runner_up: str | None = Field(None, description="The agent with the next best score.")
    margin: str | None = Field(None, description="How far the winner is before it.")
    tied: tuple[str, ...] = Field((), description="The agents with the highest score, if there are several.")
    tie_break: Literal["worst_places", "seed"] | None = Field(
        None,
        description="What named the winner among them: `worst_places` compares their places on the ballots, the worst "
        "first; `seed`: nothing told them apart.",
    )
    support: str | None = Field(
        None,
        description="Ballots with the winner above the runner-up; for a vote, answers that are the winner's.",
    )
    agreement: float | None = Field(
        None,
        description="Share of pairs that two ballots order alike, 0 to 1; mean over the pairs of ballots.",
    )
    seed: int = Field(description="What the orders were drawn with.")
    asked: int = Field(0, description="Ballots asked for.")
    valid: int = Field(0, description="Ballots counted.")
    invalid: int = Field(0, description="Judges that answered and gave no ballot, or failed.")
    missing: int = Field(0, description="Judges that did not report in time.")
    ballots: tuple[CastBallot, ...] = Field((), description="Each judge's, or each member's with `rank`.")
    heats: tuple[CastBallot, ...] = Field(
        (), description="Those of the heats before: the best of what each of these judges saw went on."
    )


class Synthesis(Message):
    """The answer that an editor wrote from the best ones, and whether it was preferred to the winner."""

    status: Literal["accepted", "refused", "not_confirmed", "not_written", "left_out"] = Field(
        description="`accepted`: most of the judges asked prefer it to the winner. `refused`: they do not. "
        "`not_confirmed`: no ballot came. `not_written`: the editor gave no answer. `left_out`: none was asked."
    )
    content: str | None = Field(None, description="The text; null: there is none.")
    model: str = Field("", description="Model that wrote it, as its server names it.")
    tokens: int = Field(0, description="Generated tokens, as the model server counts them.")
    sources: tuple[str, ...] = Field((), description="The agents whose answers the editor was shown.")
    support: str | None = Field(None, description="Ballots that prefer it to the winner: `2/3`.")
    ballots: tuple[CastBallot, ...] = Field((), description="Each judge's, over the winner and `editor-001`.")
    why: str = Field("", description="Why there is no text, or no ballot.")


class DegradedReason(Message):
    """One gap in what was asked for."""

    phase: PhaseName = Field(description="Where it is.")
    round: int = Field(1, description="Round of the deliberation, from 1.")
    what: Literal["missing", "failed", "cancelled", "invalid_ballot", "left_out", "below_quorum"] = Field(
        description="`missing`: no word by the limit. `failed`: an error. `cancelled`: its call was stopped. "
        "`invalid_ballot`: a word, and no ranking. `left_out`: never asked. `below_quorum`: too few ballots, or final answers, to call it decided."
    )
    who: str | None = Field(None, description="The agent or judge; null: the phase.")
    why: str = Field("", description="In words, where more is known.")


class Cost(Message):
    """What work has cost, as far as its outcomes tell. What no outcome tells is not in it: calls that were stopped count
    as asked, without tokens."""

    calls: int = Field(0, description="Agents and judges asked.")
    attempts: int = Field(0, description="Model calls that were made for them.")
    prompt_tokens: int = Field(0, description="As the model servers count them.")
    cached_tokens: int | None = Field(
        None, description="Of them, from the servers' prefix caches; null: no server told."
    )
    completion_tokens: int = Field(0, description="Generated, as the model servers count them.")
    model_ms: int = Field(0, description="From the start of each one's work to its outcome, added up.")


class PhaseReport(Message):
    """What one phase asked, and what it got."""

    phase: PhaseName = Field(description="What its agents did.")
    round: int = Field(1, description="Round of the deliberation, from 1.")
    asked: int = Field(description="Agents or judges asked.")
    completed: int = Field(description="Valid answers or ballots.")
    failed: int = Field(description="Errors, and what is no ballot.")
    missing: int = Field(description="No word by its end.")
    kept: int = Field(0, description="With `revise`: agents that kept their own answer.")
    adopted: int = Field(0, description="With `revise`: agents that took over another's instead.")
    opened_at: str = Field(description="RFC 3339.")
    limit: str = Field(description="When it would have closed with what it had, RFC 3339.")
    closed_at: str = Field("", description="RFC 3339.")
    closed_by: Literal["", "all", "enough", "agree", "limit", "deadline", "cancel"] = Field(
        "", description="Why it was closed."
    )
    cost: Cost = Field(Cost(), description="What it has cost.")
