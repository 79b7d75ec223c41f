"""What all sections of the YAML have in common: the base class and the ranges of numbers."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused, docstrings under fields become descriptions."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        populate_by_name=True,
    )


def as_tuple(value: Any) -> Any:
    """A single mapping or a list, as the tuple that a field of several sections holds."""
    return (value,) if isinstance(value, dict) else tuple(value) if isinstance(value, list) else value
