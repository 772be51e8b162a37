"""Options of a comparison that take several values: lists on the command line."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from p2pfl.config import LISTED, MOST_SEED, TUNABLE, RunConfig, split_values
from p2pfl.errors import ConfigError
from p2pfl.util.text import shortened

if TYPE_CHECKING:
    from p2pfl.experiment.tune import TuneOptions

_LISTS = {
    "--algorithm": "dpsgd,quasi-global",
    "--partition": "iid,dirichlet:0.5",
    "--seeds": "0,1,2",
    "--num-selected": "2,4",
}  # options that take several values, with an example


def take_lists(words: Sequence[str]) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """Take the lists of --algorithm and --partition from a command line.

    Returns the words with the first value in place of each list, and the lists by option. Raises ConfigError for a
    value that is unknown or named twice, and for an option with a list that is given twice.
    """
    _refuse_repeated(words)
    kept, lists = list(words), dict[str, tuple[str, ...]]()
    for place, (word, following) in enumerate(pairwise([*words, ""])):
        name, equals, value = word.partition("=")
        option = name.removeprefix("--")
        if not name.startswith("--") or option not in LISTED or not (equals or place + 1 < len(words)):
            continue
        lists[option] = split_values(option, value if equals else following)
        kept[place if equals else place + 1] = f"{name}={lists[option][0]}" if equals else lists[option][0]
    return kept, lists


def _refuse_repeated(words: Sequence[str]) -> None:
    """Refuse a second list for an option, of which only the last would count."""
    given = Counter(word.partition("=")[0].replace("_", "-") for word in words)
    for option, example in _LISTS.items():
        if given[option] > 1:
            raise ConfigError(f"{option}: given twice; name all values in one list, such as {option} {example}")


def several(lists: Mapping[str, tuple[str, ...]], option: str) -> tuple[str, ...]:
    """Values of an option that has several.

    Empty for the others, whose setting holds the only one.
    """
    return lists.get(option, ()) if len(lists.get(option, ())) > 1 else ()


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Whole numbers separated by commas. Raises ConfigError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and part.isascii() for part in parts):
        raise ConfigError(f"{option} {text}: must be whole numbers separated by commas, such as 0,1,2")
    found = tuple(int(part) for part in parts)
    if len(set(found)) < len(found):
        raise ConfigError(f"{option} {text}: names a number twice")
    return found


def selected_numbers(text: str | None, peers: int, *, centralized: bool) -> tuple[int, ...]:
    """Numbers of clients that train in a round: those of --num-selected, or all.

    Raises ConfigError without --centralized.
    """
    if text is None:
        return (peers,) if centralized else ()
    if not centralized:
        raise ConfigError(f"--num-selected {text}: has no effect without --centralized; add that option")
    return numbers("--num-selected", text)


def seed_numbers(text: str | None, seed: int, words: Sequence[str]) -> tuple[int, ...]:
    """Seeds by --seeds, or the one of --seed. Raises ConfigError where both are given."""
    if text is None:
        return (seed,)
    if any(word.partition("=")[0] == "--seed" for word in words):
        raise ConfigError(f"--seeds {text}: --seed is given too; choose one")
    found = numbers("--seeds", text)
    if max(found) > MOST_SEED:
        raise ConfigError(f"--seeds {shortened(text, 60)}: seeds must be at most {MOST_SEED:,}")
    return found


def tuned_values(text: str) -> dict[str, tuple[float, ...]]:
    """Values to try, in rising order, from OPTION=V,V[,OPTION=V,V].

    Raises ConfigError.
    """
    found: dict[str, list[float]] = {}
    name = ""
    for part in text.split(","):
        before, equals, value = part.strip().rpartition("=")
        if equals:
            name = before.replace("-", "_")
            if name in found:
                raise ConfigError(f"--tune {text}: names {before} twice; name it once, with all its values")
            found[name] = []
        if name not in TUNABLE:
            known = ", ".join(option.replace("_", "-") for option in TUNABLE)
            raise ConfigError(f"--tune {text}: write it as lr=0.05,0.1,0.2; tunable are {known}")
        found[name].append(_number(text, value))
    if any(len(set(values)) < len(values) for values in found.values()):
        raise ConfigError(f"--tune {text}: names a value twice; name each once")
    return {option: tuple(sorted(values)) for option, values in found.items()}


def refuse_values_beside(tuned: Mapping[str, tuple[float, ...]], words: Sequence[str]) -> None:
    """Refuse a second --tune, and single values of the options that it tunes.

    They would have no effect. A settings file may have values; --tune takes precedence. Raises ConfigError.
    """
    options = [word.partition("=")[0].replace("_", "-") for word in words]
    if options.count("--tune") > 1:
        raise ConfigError("--tune: given twice; name all options in one list, such as lr=0.05,0.1,momentum=0,0.9")
    for name in tuned:
        option = f"--{name.replace('_', '-')}"
        if option in options:
            raise ConfigError(f"{option}: has no effect beside --tune {option[2:]}=…; omit one of them")


def refuse_no_validation(validation: float, words: Sequence[str]) -> None:
    """Refuse --validation 0 beside --tune, which chooses on what is held back.

    A settings file may have it, as those of runs do: trials then hold back the default. Raises ConfigError.
    """
    if validation == 0 and any(word.partition("=")[0] == "--validation" for word in words):
        remedy = "choose a fraction above 0, or omit it for 0.1"
        raise ConfigError(f"--validation {validation:g}: --tune would have no set to choose on; {remedy}")


def _number(text: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"--tune {text}: {value or 'an empty value'} is no number; separate numbers by commas")
    return number


def without(words: Sequence[str], *options: str) -> list[str]:
    """Command without an option and its value: a repeated one gets a new folder."""
    kept = [word for word in words if not word.startswith(tuple(f"{option}=" for option in options))]
    for option in options:
        while option in kept:
            place = kept.index(option)
            del kept[place : place + 2]
    return kept


def tuning_options(tune: str | None, rounds: int | None, asked: RunConfig, words: Sequence[str]) -> TuneOptions | None:
    """Options of tuning, if anything is to be tuned. Raises ConfigError."""
    from p2pfl.experiment.tune import VALIDATION, TuneOptions

    whole = asked.training.rounds
    if tune is None:
        if rounds is not None:
            raise ConfigError(f"--tune-rounds {rounds}: has no effect without --tune; add that option")
        return None
    if rounds is not None and not 1 <= rounds <= whole:
        raise ConfigError(f"--tune-rounds {rounds}: choose 1 to {whole}, the number of --rounds")
    if not asked.data.test:
        raise ConfigError("--no-test: with --tune the final runs read the test set at their end; omit one of them")
    share = 1.0 if rounds is None else rounds / whole
    values = tuned_values(tune)
    refuse_values_beside(values, words)
    refuse_no_validation(asked.data.validation, words)
    return TuneOptions(values, share, asked.data.validation or VALIDATION)
