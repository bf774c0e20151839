"""How a recipe may change so that a finished dataset only gains samples: those that are there keep keys and bytes."""

from collections.abc import Sequence

from .errors import RecipeError, shorten
from .recipe import Recipe, decides_pixels, read_recipe


def grow_recipe(recipe: Recipe, overrides: Sequence[str], origin: str) -> Recipe:
    """A dataset's recipe with streams that are larger. The version rises by a minor one where nobody says which.

    Raises RecipeError where something else would change, with what may grow.
    """
    wanted = read_recipe(recipe.to_toml(), origin, overrides)
    before, after = recipe.flatten(), wanted.flatten()
    changed = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
    growing = {f"streams.{stream.name}.{stream.grows_by}": stream for stream in recipe.streams if stream.grows_by}
    grown = []
    for key in changed:
        if not decides_pixels(key):
            continue
        stream, size = growing.get(key), before.get(key)
        if stream is None or size is None or not after.get(key, 0) > size:
            found = f"{shorten(before.get(key, 'absent'))} -> {shorten(after.get(key, 'absent'))}"
            may = ", ".join(name for name in growing if before.get(name) is not None)
            raise RecipeError(
                f"{origin}: {key}: {found}: samples that are there would change; what may be raised: {may or 'nothing'}"
            )
        grown.append(f"streams.{stream.name}.grown_from={[*(stream.grown_from or []), size]}")
    if not grown:
        return wanted
    if wanted.version == recipe.version:
        major, minor, _ = recipe.data_version.split(".")
        grown.append(f'version="{major}.{int(minor) + 1}.0"')
    return read_recipe(wanted.to_toml(), origin, grown)


def growth_keys(recipe: Recipe) -> set[str]:
    """Keys of a recipe, flattened, in which a dataset may differ from it that has not grown yet."""
    return {
        f"streams.{stream.name}.{key}"
        for stream in recipe.streams
        if stream.grown_from
        for key in (stream.grows_by, "grown_from")
    }
