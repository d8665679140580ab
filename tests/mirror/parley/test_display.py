"""What a person sees in a terminal: the answers, plainly, and nothing that an answer could do to the terminal."""

import io
import re
from typing import Any

import pytest
from rich.console import Console

from parley.broker.core.messages import (
    AgentResult,
    CastBallot,
    DegradedReason,
    DeliberationCompleted,
    DeliberationFailed,
    DeliberationStatus,
    Dissent,
    ErrorType,
    FailedAgent,
    Proposal,
    ResultsRef,
    Selection,
)
from parley.broker.core.states_and_moves import State
from parley.broker.core.tally import Outcome, Phase, Tally
from parley.display import (
    first_words,
    show_ending,
    show_list,
    show_plan,
    show_result,
    summary,
)
from parley.local_model_choice import LocalModel
from parley.request_arguments import compose

AT = "2026-01-01T00:00:00.000Z"
# What would make text bold, a link, or an error, were it read as markup; and what would clear a screen, retitle a
# window, set the clipboard or overwrite a line, were it passed on to a terminal.
MARKUP = "[bold red]loud[/bold red] [link=http://evil]here[/link] [/nothing-to-close]"
CONTROLS = [
    "\x1b[2J", "\x1b]0;title\x07", "\x1b]52;c;aGk=\x07", "\x9b2J", "\x07", "\x08", "\r", "\x7f", "\x00",
]  # fmt: skip


class Screen:
    """A terminal of 100 columns that keeps what was written to it. `colour`: one that understands escape sequences."""

    def __init__(self, *, colour: bool = False) -> None:
        self._written = io.StringIO()
        self.console = Console(
            file=self._written, width=100, force_terminal=colour, color_system="truecolor" if colour else None
        )

    @property
    def text(self) -> str:
        return self._written.getvalue()


def result(content: str = "An answer", **fields: Any) -> AgentResult:
    proposal = Proposal(
        content=content, author_id="agent-dev-001", author_role="DEV", model=fields.get("model", "llama"),
        temperature=fields.get("temperature", 0.7), tokens=12,
    )  # fmt: skip
    return AgentResult(
        agent_id="agent-dev-001", role="DEV", proposal=proposal, duration_ms=1_500, timestamp=AT
    )


def completed(**fields: Any) -> DeliberationCompleted:
    defaults: dict[str, Any] = {
        "task_id": "t-1", "degraded": False, "missing_agents": (), "failed_agents": (),
        "results": (result(),), "total_agents": 1, "successful_responses": 1, "failed_responses": 0,
        "duration_ms": 2_345, "completed_at": AT,
    }  # fmt: skip
    return DeliberationCompleted(**{**defaults, **fields})


def failed(error: str = "0 of 3 agents answered, 1 needed", status: Any = "failed") -> DeliberationFailed:
    agent = FailedAgent(agent_id="agent-dev-002", error=error, error_type=ErrorType.BAD_REQUEST, timestamp=AT)
    return DeliberationFailed(
        task_id="t-1", status=status, error=error, failed_agents=(agent,), missing_agents=("agent-dev-003",), results=(),
        total_agents=3, successful_responses=0, failed_responses=1, duration_ms=2_345, timestamp=AT,
    )  # fmt: skip


def tally(**fields: Any) -> Tally:
    agents = tuple(f"agent-dev-{n:03d}" for n in range(1, 4))
    outcomes = {agents[0]: Outcome(succeeded=True, seq=1), agents[1]: Outcome(succeeded=False, seq=2)}
    defaults: dict[str, Any] = {
        "task_id": "t-1", "state": State.IN_PROGRESS, "request_seq": 1, "role": "DEV", "accepted_at": 1_767_225_600.0,
        "deadline": 1_767_225_900.0, "phases": (Phase(number=1, agents=agents, outcomes=outcomes),),
    }  # fmt: skip
    return Tally(**{**defaults, **fields})


def shown(
    ending: DeliberationCompleted | DeliberationFailed,
    *,
    colour: bool = False,
    model: LocalModel | None = None,
) -> str:
    screen = Screen(colour=colour)
    show_ending(screen.console, ending, model=model)
    return screen.text


# ── endings ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_completed_ending_shows_each_answer_and_where_it_is_from() -> None:
    text = shown(completed(results=(result("First"), result("Second", temperature=None))))
    assert text.index("First") < text.index("Second")
    assert "agent-dev-001" in text
    assert "llama, 12 tokens, 1.5 s, temperature 0.7" in text
    assert "t-1 COMPLETED: 1 of 1 agents answered in 2.3 s" in text
    assert "simulated" not in text


def test_a_degraded_ending_says_so_and_who_is_missing() -> None:
    text = shown(completed(degraded=True, total_agents=3, missing_agents=("agent-dev-002", "agent-dev-003")))
    assert "t-1 COMPLETED, degraded: 1 of 3 agents answered" in text
    assert "Not heard from: agent-dev-002, agent-dev-003" in text


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("failed", "FAILED: this is why"),
        ("timeout", "TIMEOUT: this is why"),
        ("cancelled", "FAILED: cancelled: this is why"),
        ("rejected", "FAILED: rejected: this is why"),
    ],
)
def test_a_failed_ending_says_how_and_why_it_failed(status: str, words: str) -> None:
    text = shown(failed("this is why", status))
    heard = "" if status == "rejected" else " (0 of 3 agents answered in 2.3 s)"
    assert f"t-1 {words}{heard}\n" in text
    assert "agent-dev-002 failed (bad_request): this is why" in text


def test_results_that_are_elsewhere_are_pointed_at() -> None:
    ref = ResultsRef(bucket="results", name="t-1", size=5, digest="d")
    assert "results/t-1" in shown(completed(results=(), results_ref=ref))


def test_what_an_ending_leaves_out_is_said() -> None:
    left_out = ("results", "failed_agents.error")
    text = shown(completed(results=(), left_out=left_out))
    assert "Left out for want of room: results, failed_agents.error" in text
    assert "AGENT_RESPONSES" in text
    screen = Screen()
    show_result(screen.console, DeliberationStatus(task_id="t-1", status="COMPLETED", left_out=("metadata",)))
    assert "Left out for want of room: metadata" in screen.text
    assert "AGENT_RESPONSES" not in screen.text


def test_simulated_answers_are_said_to_be_simulated() -> None:
    text = shown(completed(), model=LocalModel.SIMULATED)
    assert "no model has read your question" in text
    assert "VLLM_URL=" in text


def test_answers_of_the_tiny_model_are_said_to_be_real_and_not_to_be_trusted() -> None:
    text = shown(completed(), model=LocalModel.TINY)
    assert (
        "A real model wrote these answers and judged them, and a very small one: do not trust its words."
        in text
    )
    assert "a larger one with VLLM_URL=" in text
    assert "simulated" not in text


def test_the_summary_is_one_line() -> None:
    assert "\n" not in summary(completed()).plain
    assert "\n" not in summary(failed()).plain


# ── what an answer cannot do ──────────────────────────────────────────────────────────────────────────────────────


def status_with(words: str) -> str:
    screen = Screen()
    status = DeliberationStatus(
        task_id="t-1", status="FAILED", error_message=words, results=(result(words),), total_agents=3
    )
    show_result(screen.console, status)
    return screen.text


def test_an_answer_is_not_read_as_our_own_markup() -> None:
    text = shown(completed(results=(result(MARKUP),)))
    assert MARKUP in text
    coloured = shown(completed(results=(result(MARKUP),)), colour=True)
    assert "http://evil" in coloured
    assert "\x1b]8;" not in coloured  # no link was made of it


def test_neither_are_errors_and_names_that_others_wrote() -> None:
    assert shown(failed(MARKUP)).count("[bold red]loud[/bold red]") == 2
    assert "[bold]m[/bold]" in shown(completed(results=(result(model="[bold]m[/bold]"),)))
    assert "[bold red]loud[/bold red]" in status_with(MARKUP)


@pytest.mark.parametrize("control", CONTROLS, ids=ascii)
def test_no_control_sequence_reaches_the_terminal(control: str) -> None:
    words = f"be{control}fore"
    for text in (
        shown(completed(results=(result(words, model=words),))),
        shown(failed(words)),
        status_with(words),
    ):
        assert control not in text
        assert "be" in text
        assert "fore" in text


def test_line_ends_and_tabs_and_letters_of_any_script_stay() -> None:
    text = shown(completed(results=(result("```\nif x:\n\treturn 'größe 大'\n```"),)))
    assert "if x:" in text
    assert "return 'größe 大'" in text


@pytest.mark.parametrize("letter", ["\u202e", "\u2066", "\u200b", "\u2028", "\U000e0041"], ids=ascii)
def test_a_letter_that_hides_or_reverses_others_is_seen_as_an_escape(letter: str) -> None:
    words = f"be{letter}fore"
    for text in (
        shown(completed(results=(result(words, model=words),))),
        shown(failed(words)),
        status_with(words),
    ):
        assert letter not in text
        assert letter.encode("unicode_escape").decode() in text


# ── answers whole ─────────────────────────────────────────────────────────────────────────────────────────────────

ANSWERS = [
    "<answer>42</answer>",
    "List<String> and Map<K, V>",
    "2*3*4 = 24, a_b_c, __init__",
    "see [our site](http://evil.example/x) and ![a picture](http://img.example/y)",
    "[ref][1]\n\n[1]: http://example.com 'a title'",
    "<!-- a comment --> &lt;b&gt; &amp; \\* escaped",
    "| a | b |\n|---|---|\n| 1 | 2 | 3 |",
    "```python\ndef f(x):\n\treturn x\n```\ntext\n~~~\n<b>\n~~~",
    "# Head\n\n---\n\n* item\n1) one\n7. seven\n- [ ] to do\n> quoted",
    "~~gone~~ $E = mc^2$ <https://example.com> :smile: [bold]x[/bold]",
    "```unclosed\n<x>",
    "",
]


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("terminal", [True, False])
def test_what_the_model_wrote_is_shown_whole(answer: str, terminal: bool) -> None:
    text = shown(completed(results=(result(answer),)), colour=terminal)
    assert inside(answer, text)
    if not terminal:
        assert f"\n{answer}\n" in text  # exactly, and no box around it
        assert not set(text) & set("│╭╮╰╯─┃━")


def inside(answer: str, text: str) -> bool:
    """Whether every visible letter of the answer is in the text, in order."""
    letters = iter(re.sub("\x1b\\[[0-9;]*m", "", text))
    return all(letter in letters for letter in answer if not letter.isspace())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"finish_reason": "length"}, "the answer is cut off: it reached the most tokens"),
        ({"finish_reason": "MAX_TOKENS"}, "the answer is cut off: it reached the most tokens"),
        ({"finish_reason": "content_filter"}, "the answer is cut off: the model server's filter"),
        ({"refused": True}, "the model refused to answer"),
        ({"reasoning": "x" * 1_234}, "its reasoning, 1,234 characters, is shown by --json"),
        ({"finish_reason": "stop"}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("terminal", [True, False])
def test_an_answer_that_is_not_whole_is_marked(
    fields: dict[str, Any], words: str | None, terminal: bool
) -> None:
    text = shown(completed(results=(result().model_copy(update=fields),)), colour=terminal)
    assert (f"agent-dev-001: {words}" in text) if words else ("agent-dev-001: " not in text)


def test_a_result_shows_the_question_and_who_failed_and_why() -> None:
    screen = Screen()
    ending = failed("this is why")
    status = DeliberationStatus(task_id="t-1", status="FAILED", error_message="too few", total_agents=3)
    show_result(screen.console, status, ending, tally(), "What is\tit?")
    assert "Question: What is" in screen.text
    assert "agent-dev-002 failed (bad_request): this is why" in screen.text
    assert "Not heard from: agent-dev-003" in screen.text


def test_an_error_begins_no_line_of_its_own() -> None:
    lie = "no\nt-1 COMPLETED: all is well\r\x85\u2028\x1b[2J"
    screen = Screen()
    show_result(screen.console, DeliberationStatus(task_id="t-1", status="FAILED", error_message=lie))
    assert not re.search(r"^t-1 COMPLETED", shown(failed(lie)) + screen.text, re.MULTILINE)


def test_the_first_words_of_a_question_are_one_line() -> None:
    assert first_words("a\n\tb\x1b[2J") == "a b\\x1b[2J"
    assert first_words("x" * 200) == "x" * 57 + "..."
    assert first_words(None) == ""


# ── lists ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_list_has_a_line_for_each_tally() -> None:
    ended_before_it_began = tally(task_id="t-2" + "x" * 60, state=State.REJECTED, role="", phases=())
    pipe, terminal = Screen(), Screen(colour=True)
    for screen in (pipe, terminal):
        statuses = {"t-1": "IN_PROGRESS", ended_before_it_began.task_id: "FAILED"}
        show_list(screen.console, [tally(), ended_before_it_began], statuses, {"t-1": "Why?"})
    assert [line.split("\t") for line in pipe.text.splitlines()[1:]] == [
        ["t-1", "IN_PROGRESS", "DEV", "1", "1", "3", "2026-01-01T00:00:00.000Z", "Why?"],
        ["t-2" + "x" * 60, "FAILED", "", "0", "0", "0", "2026-01-01T00:00:00.000Z", ""],
    ]
    _, first, second = terminal.text.splitlines()
    assert first.split() == ["t-1", "IN_PROGRESS", "DEV", "1", "1", "3", "2026-01-01T00:00:00.000Z", "Why?"]
    assert second.startswith("t-2" + "x" * 60)


def test_a_status_counts_the_agents_that_have_reported() -> None:
    screen = Screen()
    counts: dict[str, Any] = {"total_agents": 3, "received_count": 1, "failed_count": 1}
    for status in (
        DeliberationStatus(task_id="t-1", status="IN_PROGRESS", **counts),
        DeliberationStatus(task_id="t-2", status="UNKNOWN", error_message="never stored, or forgotten"),
    ):
        show_result(screen.console, status)
    assert "t-1 IN_PROGRESS: 1 answered, 1 failed, of 3" in screen.text
    assert "t-2 UNKNOWN: never stored, or forgotten" in screen.text


# ── a choice ──────────────────────────────────────────────────────────────────────────────────────────────────────


def chosen(**fields: Any) -> DeliberationCompleted:
    others = [
        result(f"words of {number}").model_copy(update={"agent_id": f"agent-dev-00{number}"})
        for number in (1, 2)
    ]
    selection = Selection(
        method=fields.pop("method", "judge"), aggregate="win-rate-1", status=fields.pop("status", "decided"), seed=1,
        asked=3, valid=3, tie_break=fields.pop("tie_break", None),
        scores={"agent-dev-002": "11/12", "agent-dev-001": "8/12"}, margin="3/12", runner_up="agent-dev-001",
        tied=fields.pop("tied", ()), ballots=fields.pop("ballots", ()),
    )  # fmt: skip
    dissent = (Dissent(agent_id="agent-dev-001", by=("judge-002",), share="1/3"),)
    given = {
        "results": tuple(others),
        "winner_id": "agent-dev-002",
        "selection": selection,
        "dissent": dissent,
        **fields,
    }
    return completed(**given)


def test_the_winner_comes_first_with_how_it_won() -> None:
    screen = Screen()
    show_ending(screen.console, chosen())
    lines = screen.text.splitlines()
    assert lines[0].startswith("agent-dev-002 (")
    assert lines[1] == "words of 2"
    assert (
        "agent-dev-002: won 11/12 of its comparisons; margin 3/12; 3 of 3 ballots; dissent: agent-dev-001 1/3"
        in lines
    )
    assert "Other answers: agent-dev-001. --all shows them." in lines
    assert "words of 1" not in screen.text


def test_all_answers_are_shown_when_asked_for() -> None:
    screen = Screen()
    show_ending(screen.console, chosen(), all_answers=True)
    assert screen.text.index("words of 2") < screen.text.index("words of 1")
    assert "--all" not in screen.text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"status": "tied", "tied": ("agent-dev-001", "agent-dev-002")}, "tied with agent-dev-001"),
        ({"status": "indicated"}, "too few ballots to call it decided"),
        ({"status": "only_one"}, "agent-dev-002: the only answer to choose"),
    ],
)
def test_how_sure_the_choice_is(fields: dict[str, Any], words: str) -> None:
    screen = Screen()
    show_ending(screen.console, chosen(**fields))
    assert words in screen.text


def test_a_lost_ballot_is_told_with_its_reason() -> None:
    lost = CastBallot(judge="judge-002", shown=(), why=f"asked twice {MARKUP}")
    screen = Screen()
    show_ending(screen.console, chosen(ballots=(lost,)))
    assert f"judge-002: no ballot: asked twice {MARKUP}" in screen.text.replace("\n", " ")


def test_a_vote_tells_what_was_read() -> None:
    screen, voted = Screen(), chosen(status="indicated", method="vote")
    one, two = voted.results
    results = (one, two.model_copy(update={"final_answer": "391"}))
    show_ending(screen.console, voted.model_copy(update={"results": results}))
    line = "agent-dev-002: given by 11/12 of the agents (391); margin 3/12; too few final answers that could be read"
    assert line in screen.text.replace("\n", " ")
    assert "No final answer could be read: agent-dev-001" in screen.text


def test_without_a_winner_all_answers_are_shown_and_why_nothing_was_chosen() -> None:
    screen = Screen()
    gaps = (
        DegradedReason(phase="judge", what="invalid_ballot", who="judge-001"),
        DegradedReason(
            phase="judge", what="left_out", why="it would have made 8 calls, more than max_calls, 6"
        ),
        DegradedReason(phase="judge", what="below_quorum"),
    )
    show_ending(screen.console, chosen(winner_id=None, status="no_ballots", degraded_reasons=gaps))
    assert (
        "Nothing was chosen: judge: left out: it would have made 8 calls, more than --max-calls, 6\n"
        in screen.text
    )
    assert "words of 1" in screen.text
    assert "words of 2" in screen.text


def test_a_plan_tells_phases_calls_and_time() -> None:
    screen = Screen()
    show_plan(screen.console, compose("x", agents=5, select="judge", timeout_seconds=60))
    assert screen.text.splitlines() == [
        "answer: 5 calls, 67% of the time",
        "judge: 3 calls, 33% of the time",
        "8 calls in all, within 60 s; what a phase leaves of its time the next ones have",
    ]
    plain = Screen()
    show_plan(plain.console, compose("x", agents=2))
    assert plain.text.splitlines() == ["answer: 2 calls, 100% of the time", "2 calls in all"]


@pytest.mark.parametrize(
    ("asking", "judges"),
    [
        ({"agents": 5, "max_calls": 6}, "judge: left out: 8 calls would be more than --max-calls, 6"),
        ({"agents": 1}, "judge: left out: there is only one answer"),
        ({"agents": 3, "timeout_seconds": 5}, "judge: 3 calls, if 2 s are left once the answers are in"),
    ],
)
def test_a_plan_tells_what_will_not_be(asking: dict[str, Any], judges: str) -> None:
    screen = Screen()
    show_plan(screen.console, compose("x", select="judge", **asking))
    answers, told = screen.text.splitlines()[:2]
    assert answers.endswith("100% of the time")
    assert told == judges
