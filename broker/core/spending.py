"""What the outcomes of a phase tell of its cost, added up. Pure."""

from dataclasses import dataclass

from parley.broker.core.messages import AgentOutcome, Cost, sum_of_known


@dataclass(slots=True)
class Spending:
    """`cached_tokens` None: no server has told."""

    attempts: int = 0
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    completion_tokens: int = 0
    model_ms: int = 0

    def add(self, outcome: AgentOutcome) -> None:
        # Any client may publish an outcome, with any figure.
        self.attempts += max(0, outcome.attempt)
        self.model_ms += max(0, outcome.duration_ms)
        usage = outcome.usage
        self.prompt_tokens += max(0, usage.prompt_tokens)
        self.completion_tokens += max(0, usage.completion_tokens)
        if usage.cached_tokens is not None:
            self.cached_tokens = sum_of_known(self.cached_tokens, max(0, usage.cached_tokens))

    def cost(self, calls: int) -> Cost:
        """`calls`: how many were asked."""
        return Cost(
            calls=calls,
            attempts=self.attempts,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            completion_tokens=self.completion_tokens,
            model_ms=self.model_ms,
        )


def together(costs: list[Cost]) -> Cost:
    return Cost(
        calls=sum(cost.calls for cost in costs),
        attempts=sum(cost.attempts for cost in costs),
        prompt_tokens=sum(cost.prompt_tokens for cost in costs),
        cached_tokens=sum_of_known(*(cost.cached_tokens for cost in costs)),
        completion_tokens=sum(cost.completion_tokens for cost in costs),
        model_ms=sum(cost.model_ms for cost in costs),
    )
