"""The seam between handlers and metrics: an observer does nothing by itself, and metrics override every method."""

import inspect

import pytest

from parley.broker.core.observer import Observer
from parley.monitoring.metrics import Metrics

TOLD = [name for name, member in vars(Observer).items() if inspect.isfunction(member)]


@pytest.mark.parametrize("name", TOLD)
def test_told_anything_it_does_nothing(name: str) -> None:
    method = getattr(Observer(), name)
    assert method(*[None for _ in inspect.signature(method).parameters]) is None


@pytest.mark.parametrize("name", TOLD)
def test_everything_that_is_told_is_counted(name: str) -> None:
    """A method that is added to the observer and not to the metrics would count nothing."""
    assert name in vars(Metrics)
    assert (
        inspect.signature(getattr(Metrics, name)).parameters.keys()
        == inspect.signature(getattr(Observer, name)).parameters.keys()
    )
