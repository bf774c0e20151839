"""What differences between classifiers amount to, a sentence each."""

from .results import Difference, Results

# More are no summary any more.
MOST_CHECKPOINTS = 4


def difference_sentences(results: Results) -> list[str]:
    """How every checkpoint differs from the first on each set that is no corruption of another.

    None where there are many checkpoints, or several of one row: then seeds are the unit, not images.
    """
    names = [entry.name for entry in results.checkpoints]
    if len(names) > MOST_CHECKPOINTS or any(entry.name != entry.group for entry in results.checkpoints):
        return []
    copies = tuple(f"{entry.test_set}/" for entry in results.corruption)
    return [describe_difference(entry) for entry in results.differences if not entry.test_set.startswith(copies)]


def describe_difference(entry: Difference) -> str:
    """One sentence; it names no winner where 0 is in the interval, which is over clusters where the set has them."""
    low, high = (100 * end for end in (entry.clustered.interval if entry.clustered else entry.interval))
    points = f"{100 * entry.difference:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}"
    if low <= 0 <= high:
        return (
            f"{entry.test_set}: {entry.images:,} images show no difference between {entry.checkpoint} and "
            f"{entry.baseline} ({points})."
        )
    count, word = round(abs(entry.difference) * entry.images), "more" if entry.difference > 0 else "fewer"
    return (
        f"{entry.test_set}: {entry.checkpoint} is right on {count:,} {word} of {entry.images:,} images than "
        f"{entry.baseline} ({points})."
    )
