"""Every deliberation with large answers ends in time, with all its results, and no process takes more than the chart
gives it."""

from pathlib import Path

import pytest

from tests.faults.large_endings import Size, run

# The chart's limit for each part (helm/parley/values.yaml).
MOST_MIB = 512.0
MOST_LATE_SECONDS = 1.0
SHORT = [Size(2, 256, 100_000)]
FULL = [Size(8, 256, 300_000), Size(8, 256, 50_000), Size(30, 64, 300_000), Size(4, 64, 800_000)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    sizes = FULL if metafunc.config.getoption("--faults") == "full" else SHORT
    metafunc.parametrize("size", sizes, ids=str)


@pytest.mark.timeout(240)
async def test_large_answers_end_in_time_and_within_the_charts_memory(tmp_path: Path, size: Size) -> None:
    outcome = await run(tmp_path, size)
    print(f"{size}: {outcome}")
    shown = f"{outcome}\n{outcome.log}"
    assert outcome.ended == size.deliberations, shown
    assert (outcome.doubled, outcome.left_out) == (0, []), shown
    assert outcome.results == size.deliberations * size.agents, shown
    assert outcome.late <= MOST_LATE_SECONDS, shown
    assert max(outcome.peak_mib) <= MOST_MIB, shown
