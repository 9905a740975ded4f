"""What all models of the configuration file share."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def written(text: str | tuple[str, ...]) -> Any:
    """A default as a user would write it, read by the field's own parser and shown as it is in the JSON
    Schema."""
    return Field(default=text, validate_default=True)


class Section(BaseModel):
    """What all models share. Not pydantic's strict mode: it would refuse a list where the model keeps a
    tuple."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )
