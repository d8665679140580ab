"""How long to wait before the next attempt. Pure: the caller draws the random number."""

# 2.0 to this power is still a float. Larger exponents raise OverflowError.
_MAX_EXPONENT = 1_000


def backoff(attempt: int, base: float, cap: float, jitter: float = 1.0) -> float:
    """Seconds to wait after attempt number `attempt`, counted from 1.

    The wait is `base` after the first attempt and doubles up to `cap`. `jitter` scales the result: pass a random number
    from 0 to 1 for full jitter.
    """
    return jitter * min(cap, base * 2.0 ** min(attempt - 1, _MAX_EXPONENT))
