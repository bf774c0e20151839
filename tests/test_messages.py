"""What commands say when they fail: one line, bounded, whatever was wrong."""

import os
import pwd
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from genint.evaluate.cli import main as evaluate_main
from genint.manifests.console import LONGEST_MESSAGE, exit_codes
from genint.manifests.errors import FormatError, RecipeError, UsageError, shorten
from genint.manifests.recipe import load_recipe
from genint.manifests.toml import parse_toml
from genint.pipeline.cli import main as pipeline_main
from genint.pipeline.shards.driver import describe_error
from genint.train.cli import main as train_main
from genint.train.configuration import load_configuration

MILLION = "x" * 1_000_000
NESTED = "[" * 2000 + "]" * 2000


def test_long_values_are_shown_with_both_ends() -> None:
    assert shorten("short") == "short"
    text = shorten(f"begin{MILLION}end")
    assert text.startswith("begin") and text.endswith("end") and "(1,000,008 characters)" in text and len(text) < 160
    assert shorten("two\nlines") == "two lines"


def test_messages_are_cut_and_keep_the_remedy_at_their_end(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending, exit_codes():
        raise FormatError(f"{MILLION}; to resume: do this")
    assert ending.value.code == 1
    line = capsys.readouterr().err
    assert len(line) < LONGEST_MESSAGE + 100
    assert line.endswith("; to resume: do this\n")


def test_a_lack_of_memory_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), exit_codes():
        raise MemoryError("Unable to allocate 3 TiB")
    assert capsys.readouterr().err == "error: out of memory: Unable to allocate 3 TiB\n"


def import_interrupted() -> None:
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt as error:
        raise ImportError("numpy: interrupted") from error


def test_an_interrupt_that_an_import_turned_into_another_error_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []

    def end(code: int) -> None:
        ended.append(code)
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", end)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit), exit_codes():
            import_interrupted()
        assert ended == [130]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    "text", ["x = " + "9" * 5000, "x = 0x" + "f" * 20_000, "x = 9223372036854775808", f"x = {NESTED}"]
)
def test_numbers_and_tables_beyond_toml_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"digits|bits|nested"):
        parse_toml(text)


@pytest.mark.parametrize(
    "value", ["9" * 5000, "0x" + "f" * 20_000, NESTED, MILLION, f'"{MILLION}"', f'{{a = "{MILLION}"}}']
)
def test_recipes_and_presets_refuse_hostile_values_in_short(value: str, tmp_path: Path) -> None:
    path = tmp_path / "file.toml"
    path.write_text(f"name = 'x'\nseed = {value}\nextends = {value}\n")
    refusals = (
        (RecipeError, lambda: load_recipe("mini", [f"seed={value}"])),
        (RecipeError, lambda: load_recipe("mini", [f"{value}=1"])),
        (RecipeError, lambda: load_recipe(str(path))),
        (RecipeError, lambda: load_recipe(f"{value}.toml/")),
        (UsageError, lambda: load_configuration("mini-erm", [f"seed={value}"])),
        (UsageError, lambda: load_configuration("mini-erm", [f"stages.train.lr={value}"])),
        (UsageError, lambda: load_configuration("mini-erm", [f"{value}=1"])),
        (UsageError, lambda: load_configuration(str(path))),
    )
    for kind, load in refusals:
        with pytest.raises((kind, OSError)) as refused:
            load()
        assert refused.type is not kind or len(str(refused.value)) < LONGEST_MESSAGE


@pytest.mark.parametrize("main", [pipeline_main, train_main, evaluate_main])
def test_tilde_is_the_home_in_every_option(
    main: Callable[[], None], run_main: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    words = {
        "pipeline": ["build-shards", "~/recipe.toml"],
        "train": ["--preset=mini-erm", "--imagenet=~/photos"],
        "evaluate": ["run", "--checkpoint", "first=~/run", "--folder", "~/photos", "--out=~/report"],
    }[main.__module__.split(".")[1]]
    result = run_main(main, *words)
    assert result.exit_code == 2
    assert f"{tmp_path}/home/" in result.err and "~" not in result.err


def test_a_user_without_a_home_gets_one_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "")  # put back afterwards
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", lambda number: {}[number])
    with exit_codes():
        assert Path.home() == Path("/nonexistent")


def test_what_ray_says_at_the_end_of_its_messages_is_shown_with_what_to_look_at() -> None:
    class ActorDiedError(Exception):
        __module__ = "ray.exceptions"

    died = ActorDiedError("The actor died unexpectedly.\n\tactor_id: 1\nIt was cancelled before it started running.")
    shown = describe_error(died)
    assert shown.startswith("ActorDiedError: The actor died unexpectedly. It was cancelled before it started running.")
    assert "RAY_AUTH_MODE" in shown
    assert describe_error(ValueError("first\nsecond")) == "ValueError: first"
