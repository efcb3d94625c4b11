"""A TOML table as a frozen model, which reports all of its mistakes in sentences of ours.

Every model of spec/ is a `Table`. Its validator runs pydantic's and the model's own
`contradictions` (what no field can see by itself), and raises both together: pydantic would not look
at the whole table as long as one field is wrong, and a user would fix one mistake a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler
from pydantic_core import InitErrorDetails

from ovfbuild.spec.mistakes import mistake, sentence


class Table(BaseModel):
    """Frozen, strict, no key that it does not know."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True
    )

    @classmethod
    def contradictions(cls, table: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        """(key, sentence) of every mistake between keys. `table` is as it was read: trust no type in it."""
        del table
        return ()

    @model_validator(mode="wrap")
    @classmethod
    def _all_at_once(cls, table: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        found: list[InitErrorDetails] = []
        known = {field.alias or name: field for name, field in cls.model_fields.items()}
        model = None
        try:
            model = handler(_arrays_as_tuples(table))
        except ValidationError as error:
            found += (_mistake(sentence(detail, known), detail["loc"]) for detail in error.errors(include_url=False))
        if isinstance(table, Mapping):
            found += (_mistake(said, (key,) if key else ()) for key, said in cls.contradictions(table))
        if found or model is None:
            raise ValidationError.from_exception_data(cls.__name__, found)
        return model


def _mistake(said: str, loc: tuple[int | str, ...]) -> InitErrorDetails:
    # The input is left out: it may be a password.
    return InitErrorDetails(type=mistake(said), loc=loc, input=None)


def _arrays_as_tuples(table: Any) -> Any:
    """TOML's arrays in the form that a frozen, strict model takes."""
    if not isinstance(table, Mapping):
        return table
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
