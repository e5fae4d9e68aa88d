"""The prior of a search, learnt from finished studies of other data: a JSON file that `paretune learn` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from search.errors import StudyFileError

MOST_BYTES: Final = 1_000_000
Value = str | int | FiniteFloat | bool | None


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Standing(_Strict):
    """The standing of a configuration in a study.

    Attributes:
        config: The configuration.
        standing: Goodness within its study, in standard deviations above the mean.
    """

    config: dict[str, Value]
    standing: FiniteFloat


class Prior(_Strict):
    """The lessons of finished studies for another one.

    Attributes:
        version: Version of the file's layout.
        studies: Names of the studies.
        first: Configurations to try first, in order.
        trials: Standings of configurations, which the surrogate of `auto` begins with.
    """

    version: Literal[1] = 1
    studies: Annotated[list[str], Field(max_length=1_000)]
    first: Annotated[list[dict[str, Value]], Field(max_length=100)]
    trials: Annotated[list[Standing], Field(max_length=1_000)]


def read_prior(path: Path) -> Prior:
    """Read a prior.

    Raises:
        StudyFileError: If there is no such file, or it is none that `paretune learn` writes.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise StudyFileError(f"search.prior: {path} has more than {MOST_BYTES:,} bytes; `paretune learn` writes fewer")
        return Prior.model_validate_json(path.read_bytes())
    except OSError as error:
        raise StudyFileError(f"search.prior: {path} cannot be read ({error.strerror}); `paretune learn` writes one") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise StudyFileError(
            f"search.prior: {path} is none that `paretune learn` writes ({place}: {first['msg'].lower()}); learn it again"
        ) from None
