"""Decorators for functions with many keyword arguments. Editors, mypy and `help()` see the full signature."""

import difflib
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
Owner = TypeVar("Owner")
Made = TypeVar("Made")
T = TypeVar("T")


def suggest_arguments(function: Callable[P, T]) -> Callable[P, T]:
    """For a misspelt keyword argument, raise a TypeError that names the one that was probably meant."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        known = function.__kwdefaults__ or {}
        for word in set(kwargs) - set(known):
            close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise TypeError(f"no such argument: {word}{hint}")
        return function(*args, **kwargs)

    return call


def with_arguments_of(
    make: Callable[P, Made],
) -> Callable[
    [Callable[[Owner, Made], Awaitable[T]]], Callable[Concatenate[Owner, P], Coroutine[Any, Any, T]]
]:
    """Turn a method that takes what `make` returns into one that takes the arguments of `make`."""

    def decorate(
        method: Callable[[Owner, Made], Awaitable[T]],
    ) -> Callable[Concatenate[Owner, P], Coroutine[Any, Any, T]]:
        @functools.wraps(method)
        async def call(self: Owner, /, *args: P.args, **kwargs: P.kwargs) -> T:
            return await method(self, make(*args, **kwargs))

        # What `help()` and notebooks show.
        own = inspect.signature(method)
        parameters = [own.parameters["self"], *inspect.signature(make).parameters.values()]
        vars(call)["__signature__"] = own.replace(parameters=parameters)
        return call

    return decorate
